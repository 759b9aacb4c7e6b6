"""AMP001: torch.cuda.amp.autocast and torch.cpu.amp.autocast."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding, Fix
from ampconvert.lint.rule import Case, Rule
from ampconvert.lint.source import Source

_OLD = ("torch.cuda.amp.autocast", "torch.cpu.amp.autocast")
_PARAMETERS = ("enabled", "dtype", "cache_enabled")


class DeprecatedAutocast(Rule):
    """`torch.cuda.amp.autocast` and `torch.cpu.amp.autocast` are deprecated since PyTorch 2.4.

    Every call warns. `torch.amp.autocast` takes the device first and `dtype` before `enabled`,
    where the old one took `enabled` before `dtype`: moving the arguments over as they stand makes
    False the dtype. The fix names them.

    An import guarded by try, and a use that is not a call, are reported and not fixed.

    Source: https://docs.pytorch.org/docs/stable/amp.html#torch.amp.autocast
    """

    CODE = "AMP001"
    NAME = "deprecated-autocast"
    ADVICE = 'Call torch.amp.autocast("cuda", ...) instead.'
    FIX = "safe"
    FIX_SAFETY = "Both are one class: the old one passes its arguments on by name."
    WORDS = ((b"amp",), (b"autocast",))
    VALID = (
        Case("""\
import torch

with torch.amp.autocast("cuda", enabled=False):
    pass
"""),
        Case("""\
from mylib.cuda.amp import autocast

with autocast():
    pass
"""),
    )
    INVALID = (
        Case(
            """\
import torch

with torch.cuda.amp.autocast(False, torch.bfloat16):  # AMP001
    pass
""",
            """\
import torch

with torch.amp.autocast("cuda", enabled=False, dtype=torch.bfloat16):  # AMP001
    pass
""",
        ),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Calls of the old names."""
        for call in source.names.calls(*_OLD):
            name = source.names.of(call.func)
            device = name.split(".")[1] if name else "cuda"
            yield self.finding(
                source, call, f"torch.{device}.amp.autocast is deprecated",
                self._renamed(source, call, device) if name else None,
            )  # fmt: skip

    def _renamed(self, source: Source, call: ast.Call, device: str) -> Fix | None:
        if any(isinstance(a, ast.Starred) for a in call.args):
            return None
        spelled, imports = source.edits.spelled("torch.amp.autocast", call)
        words = [f'"{device}"']
        words += [f"{p}={source.segment(a)}" for p, a in zip(_PARAMETERS, call.args, strict=False)]
        words += [source.segment(keyword) for keyword in call.keywords]
        edit = source.edits.replace(call, f"{spelled}({', '.join(words)})")
        return self.fix(f"call {spelled}", [*imports, edit], safe=True)
