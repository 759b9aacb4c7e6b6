"""AMP006: precision arguments of Lightning 1."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding, Fix
from ampconvert.lint.rule import Case, Judged, Rule
from ampconvert.lint.source import Source

_TRAINERS = ("lightning.pytorch.Trainer", "lightning.fabric.Fabric")
_NOW: dict[object, str] = {16: "16-mixed", "16": "16-mixed", "bf16": "bf16-mixed"}
_GONE = ("amp_backend", "amp_level")


class LightningLegacyPrecision(Rule):
    """`precision=16` and "bf16" are names of Lightning 1: it has two kinds of each since 2.0.

    "16-mixed" is mixed precision, which `precision=16` still means, with a warning; "16-true" casts
    the whole model, so that its updates are rounded to 11 bits. The number alone leaves readers to
    guess. `amp_backend` and `amp_level` are gone: they raise a TypeError.

    Values that come from a configuration file or the command line are not seen. `precision=32`
    and 64 are right: they give no warning.

    Source: https://lightning.ai/docs/pytorch/stable/common/precision_basic.html
    """

    CODE = "AMP006"
    NAME = "lightning-legacy-precision"
    ADVICE = 'Say which is meant: precision="16-mixed" or "bf16-mixed".'
    FIX = "safe"
    FIX_SAFETY = (
        'Lightning 2 takes 16 as "16-mixed" and "bf16" as "bf16-mixed" itself, and has only the '
        "native backend. Lightning 1 does not know the new names."
    )
    WORDS = ((b"lightning", b"pytorch_lightning"), (b"precision", b"amp_backend", b"amp_level"))
    JUDGED = Judged(true=1, read=1)
    VALID = (
        Case("""\
import lightning as L

trainer = L.Trainer(precision="16-mixed")
other = L.Trainer(precision=32)
"""),
        Case("""\
from mylib import Trainer

trainer = Trainer(precision=16, amp_backend="native")
"""),
        Case("""\
from lightning.fabric import Fabric
from lightning.pytorch import seed_everything

fabric = Fabric(precision="bf16-true")
seed_everything(16)
"""),
    )
    INVALID = (
        Case(
            """\
import pytorch_lightning as pl

trainer = pl.Trainer(
    precision=16,  # AMP006
    amp_backend="native",  # AMP006
    max_epochs=3,
)
""",
            """\
import pytorch_lightning as pl

trainer = pl.Trainer(
    precision="16-mixed",  # AMP006
    max_epochs=3,
)
""",
        ),
        Case(
            """\
import torch
from lightning.pytorch import Trainer as T

trainer = T(precision="bf16" if torch.cuda.is_bf16_supported() else 16)  # AMP006
""",
            """\
import torch
from lightning.pytorch import Trainer as T

trainer = T(precision="bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed")  # AMP006
""",
        ),
        Case(
            """\
from lightning import Fabric

PRECISION = '16'


def main():
    return Fabric(precision=PRECISION)  # AMP006
""",
        ),
        Case("""\
from pytorch_lightning import Trainer

trainer = Trainer(amp_backend="apex", amp_level="O2")  # AMP006
"""),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Old values of `precision`, and arguments that are gone."""
        for call in source.names.calls(*_TRAINERS):
            for keyword in call.keywords:
                if keyword.arg == "precision":
                    yield from self._precision(source, keyword.value)
                elif keyword.arg in _GONE:
                    yield self.finding(
                        source, keyword, f"Lightning 2 has no {keyword.arg}",
                        self._removed(source, call, keyword), severity="error",
                    )  # fmt: skip

    def _precision(self, source: Source, value: ast.expr) -> Iterator[Finding]:
        if isinstance(value, ast.IfExp):
            yield from self._precision(source, value.body)
            yield from self._precision(source, value.orelse)
            return
        old = sorted((c for c in source.values.constants(value) if _is_old(c)), key=str)
        if not old:
            return
        fix = None
        if isinstance(value, ast.Constant):
            mark = source.segment(value)[-1]
            mark = mark if mark in "'\"" else '"'
            edit = source.edits.replace(value, f"{mark}{_NOW[old[0]]}{mark}")
            fix = self.fix(f'use "{_NOW[old[0]]}"', [edit], safe=True)
        message = f'precision={old[0]!r} is a name of Lightning 1 for "{_NOW[old[0]]}"'
        yield self.finding(source, value, message, fix)

    def _removed(self, source: Source, call: ast.Call, keyword: ast.keyword) -> Fix | None:
        if keyword.arg != "amp_backend" or source.values.constants(keyword.value) != {"native"}:
            return None
        edit = source.edits.remove_argument(call, keyword)
        return self.fix("remove the argument", [edit], safe=True)


def _is_old(value: object) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool) and value in _NOW
