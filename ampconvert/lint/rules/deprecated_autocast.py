"""AMP001: torch.cuda.amp.autocast and torch.cpu.amp.autocast."""

from __future__ import annotations

import ast

from ampconvert.findings import Edit
from ampconvert.lint.renames import Adapted, RenameRule
from ampconvert.lint.rule import Case, Judged
from ampconvert.lint.settings import Settings
from ampconvert.lint.source import Source

_NAMES = {
    "torch.cuda.amp.autocast": "torch.amp.autocast",
    "torch.cpu.amp.autocast": "torch.amp.autocast",
}
_PARAMETERS = ("enabled", "dtype", "cache_enabled")


class DeprecatedAutocast(RenameRule):
    """`torch.cuda.amp.autocast` and `torch.cpu.amp.autocast` are deprecated since PyTorch 2.4.

    Every call raises a FutureWarning. `torch.amp.autocast` takes the device first and `dtype`
    before `enabled`, where the old one took `enabled` before `dtype`: moving the arguments over as
    they stand makes False the dtype. The fix names them, and the import moves with the calls.

    A use that is not a call (`partial(autocast, ...)`), an import inside `try` and one that other
    files may take from here are reported and not fixed. An import that nothing reads is reported
    at the import. Nothing is said of the branch that runs only where PyTorch has no
    `torch.amp.autocast`, and of names that reach the call through an object or another file.

    Source: https://docs.pytorch.org/docs/stable/amp.html#torch.amp.autocast
    """

    CODE = "AMP001"
    NAME = "deprecated-autocast"
    ADVICE = 'Call torch.amp.autocast("cuda", ...) instead, with all arguments by name.'
    FIX = "sometimes safe"
    FIX_SAFETY = (
        "Safe: both are one class, and the old one passes its arguments on by name. Unsafe where "
        "the default type may differ: the old name means float16, the new one the type of an "
        "autocast region around it."
    )
    OLD = _NAMES
    NAMESPACES = ("torch.cuda.amp", "torch.cpu.amp")
    FIX_FROM = (2, 0)
    WORDS = ((b"amp",), (b"autocast", b"torch.cuda", b"torch.cpu"))
    JUDGED = Judged(true=60, read=60)
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
        Case("""\
try:
    from torch.amp import autocast
except ImportError:
    from torch.cuda.amp import autocast

with autocast("cuda"):
    pass
"""),
        Case("""\
import torch


def region(version):
    if version >= (2, 4):
        return torch.amp.autocast("cuda")
    return torch.cuda.amp.autocast()
"""),
        Case("""\
import torch
from packaging import version

if version.parse(torch.__version__) >= version.parse("2.4"):
    from functools import partial

    from torch.amp import autocast as new

    autocast = partial(new, "cuda")
else:
    from torch.cuda.amp import autocast


def step(model, x):
    with autocast():
        return model(x)
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
        Case(
            """\
from torch.cuda.amp import autocast as ac, GradScaler


class Step:
    @ac()  # AMP001
    def forward(self, x):
        with ac(  # AMP001
            (self.on),  # as configured
            cache_enabled=False,
        ):
            return x
""",
            """\
from torch.amp import autocast as ac
from torch.cuda.amp import GradScaler


class Step:
    @ac("cuda")  # AMP001
    def forward(self, x):
        with ac(  # AMP001
            "cuda", enabled=(self.on),  # as configured
            cache_enabled=False,
        ):
            return x
""",
        ),
        Case(
            """\
import torch as th
from torch.cuda import amp


def step(model, x, on):
    with amp.autocast(enabled=on):  # AMP001
        return model(x)
""",
            """\
import torch as th


def step(model, x, on):
    with th.amp.autocast("cuda", enabled=on):  # AMP001
        return model(x)
""",
        ),
        Case(
            """\
from functools import partial

from torch.cuda.amp import autocast

off = partial(autocast, enabled=False)  # AMP001

with autocast():  # AMP001
    pass
""",
            """\
import torch
from functools import partial

from torch.cuda.amp import autocast

off = partial(autocast, enabled=False)  # AMP001

with torch.amp.autocast("cuda"):  # AMP001
    pass
""",
        ),
        Case("""\
try:
    from torch.cuda.amp import autocast
except ImportError:
    autocast = None


def step(model, x):
    with autocast():  # AMP001
        return model(x)
"""),
        Case(
            """\
import torch
from torch.cuda.amp import (
    GradScaler,
    autocast,  # AMP001
)

scaler = GradScaler()
""",
            """\
import torch
from torch.cuda.amp import (
    GradScaler,  # AMP001
)

scaler = GradScaler()
""",
        ),
        Case("""\
from torch.cpu.amp import autocast  # AMP001

__all__ = ["autocast"]
"""),
        Case(
            """\
import torch

with torch.amp.autocast("cuda", dtype=torch.bfloat16):
    with torch.cuda.amp.autocast():  # AMP001
        pass
""",
            """\
import torch

with torch.amp.autocast("cuda", dtype=torch.bfloat16):
    with torch.amp.autocast("cuda"):  # AMP001
        pass
""",
        ),
        Case(
            """\
import torch

with torch.cuda.amp.autocast(True):  # AMP001
    pass
""",
            settings=Settings(torch=(1, 13)),
        ),
    )

    def adapted(self, source: Source, node: ast.expr, name: str) -> Adapted | None:
        """The device comes first, and what was given by position is named."""
        call = source.parents[node]
        if not isinstance(call, ast.Call) or call.func is not node:
            return None
        device = name.split(".")[1]
        if any(keyword.arg == "device_type" for keyword in call.keywords):
            return Adapted()
        if any(isinstance(a, ast.Starred) for a in call.args) or len(call.args) > len(_PARAMETERS):
            return None
        if call.args and isinstance(call.args[0], ast.Constant) and call.args[0].value == device:
            return Adapted()
        edits = []
        for at, (parameter, argument) in enumerate(zip(_PARAMETERS, call.args, strict=False)):
            start = source.edits.argument_start(call, argument)
            first = f'"{device}", ' if at == 0 else ""
            edits.append(Edit(start, start, f"{first}{parameter}="))
        if not edits:
            edits.append(source.edits.add_first(call, f'"{device}"'))
        return Adapted(tuple(edits), _keeps_type(source, call, device))


def _keeps_type(source: Source, call: ast.Call, device: str) -> bool:
    """Whether the default type of the new name is that of the old one here, or doesn't matter."""
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    given.update(zip(_PARAMETERS, call.args, strict=False))
    if "dtype" in given or ("enabled" in given
                            and source.values.constants(given["enabled"]) == {False}):  # fmt: skip
        return True
    usual = frozenset({"float16" if device == "cuda" else "bfloat16"})
    around = [region for region in source.autocasts.reaching(call) if region is not None]
    moved = source.names.methods("set_autocast_dtype", f"set_autocast_{device}_dtype")
    return not moved and all(region.autocast.dtypes == usual for region in around)
