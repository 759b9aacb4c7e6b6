"""AMP002: torch.cuda.amp.GradScaler and torch.cpu.amp.GradScaler."""

from __future__ import annotations

import ast

from ampconvert.lint.renames import Adapted, RenameRule
from ampconvert.lint.rule import Case, Judged
from ampconvert.lint.settings import Settings
from ampconvert.lint.source import Source

_NAMES = {
    "torch.cuda.amp.GradScaler": "torch.amp.GradScaler",
    "torch.cpu.amp.GradScaler": "torch.amp.GradScaler",
}


class DeprecatedGradScaler(RenameRule):
    """`torch.cuda.amp.GradScaler` and `torch.cpu.amp.GradScaler` are deprecated since PyTorch 2.4.

    Every instance raises a FutureWarning. `torch.amp.GradScaler`, there since PyTorch 2.3, takes
    the device first, where the old one took `init_scale`. The old class is derived from it, so
    `isinstance(scaler, torch.cuda.amp.GradScaler)` is False for a scaler of the new class.

    A subclass and a use that is neither call nor annotation are reported and not fixed, likewise
    an import inside `try` and one that other files may take from here. Nothing is said of the
    branch that runs only where PyTorch has no `torch.amp.GradScaler`.

    Source: https://docs.pytorch.org/docs/stable/amp.html#torch.amp.GradScaler
    """

    CODE = "AMP002"
    NAME = "deprecated-gradscaler"
    ADVICE = 'Use torch.amp.GradScaler("cuda", ...) instead.'
    FIX = "sometimes safe"
    FIX_SAFETY = (
        "Safe for calls and annotations: the old class only passes its arguments on. Unsafe where "
        "isinstance asks for the class, because the new one holds for more scalers. Made only "
        "where the oldest PyTorch of the project is 2.3 or newer."
    )
    OLD = _NAMES
    FIX_FROM = (2, 3)
    WORDS = ((b"amp",), (b"GradScaler",))
    JUDGED = Judged(true=37, read=37)
    VALID = (
        Case("""\
import torch

scaler = torch.amp.GradScaler("cuda", init_scale=1024.0)
"""),
        Case("""\
try:
    from torch.amp import GradScaler
except ImportError:
    from torch.cuda.amp import GradScaler

scaler = GradScaler()
"""),
        Case("""\
import torch


class Scaler:
    def __init__(self, device="cuda"):
        try:
            self.inner = torch.amp.GradScaler(device=device)
        except (AttributeError, TypeError):
            self.inner = torch.cuda.amp.GradScaler()
"""),
        Case("""\
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

scaler = ShardedGradScaler()
"""),
    )
    INVALID = (
        Case(
            """\
import torch

scaler = torch.cuda.amp.GradScaler(65536.0, growth_interval=100)  # AMP002
other = torch.cpu.amp.GradScaler()  # AMP002
""",
            """\
import torch

scaler = torch.amp.GradScaler("cuda", 65536.0, growth_interval=100)  # AMP002
other = torch.amp.GradScaler("cpu")  # AMP002
""",
        ),
        Case(
            """\
from torch.cuda.amp import GradScaler


class Trainer:
    def __init__(self, fp16: bool) -> None:
        self.scaler: GradScaler | None = None  # AMP002
        if fp16:
            self.scaler = GradScaler(enabled=fp16)  # AMP002
""",
            """\
from torch.amp import GradScaler


class Trainer:
    def __init__(self, fp16: bool) -> None:
        self.scaler: GradScaler | None = None  # AMP002
        if fp16:
            self.scaler = GradScaler("cuda", enabled=fp16)  # AMP002
""",
        ),
        Case(
            """\
from torch.amp import autocast
from torch.cuda.amp import GradScaler as Scaler


def make(options):
    return Scaler(**options)  # AMP002


with autocast("cuda"):
    pass
""",
            """\
from torch.amp import autocast, GradScaler as Scaler


def make(options):
    return Scaler("cuda", **options)  # AMP002


with autocast("cuda"):
    pass
""",
        ),
        Case(
            """\
import torch


def save(scaler):
    if isinstance(scaler, torch.cuda.amp.GradScaler):  # AMP002
        return scaler.state_dict()
    return None
""",
            """\
import torch


def save(scaler):
    if isinstance(scaler, torch.amp.GradScaler):  # AMP002
        return scaler.state_dict()
    return None
""",
        ),
        Case("""\
from torch.cuda.amp import GradScaler


class Quiet(GradScaler):  # AMP002
    pass
"""),
        Case(
            """\
from torch.cuda.amp import GradScaler

scaler = GradScaler()  # AMP002
""",
            settings=Settings(torch=(2, 1)),
        ),
    )

    def adapted(self, source: Source, node: ast.expr, name: str) -> Adapted | None:
        """The device comes first; annotations stay as they are."""
        above = source.parents[node]
        if isinstance(above, ast.Call) and above.func is node:
            device = name.split(".")[1]
            named = any(keyword.arg == "device" for keyword in above.keywords)
            if named or (above.args and source.values.constants(above.args[0]) == {device}):
                return Adapted()
            return Adapted((source.edits.add_first(above, f'"{device}"'),))
        if isinstance(above, ast.Tuple):
            above = source.parents[above]
        if isinstance(above, ast.Call) and source.names.of(above.func) == "isinstance":
            return Adapted(safe=False)
        return Adapted() if _is_annotation(source, node) else None


def _is_annotation(source: Source, node: ast.expr) -> bool:
    below: ast.AST = node
    for above in source.ancestors(node):
        if isinstance(above, ast.arg | ast.AnnAssign):
            return above.annotation is below
        if isinstance(above, ast.FunctionDef | ast.AsyncFunctionDef):
            return above.returns is below
        if isinstance(above, ast.stmt | ast.Call):
            return False
        below = above
    return False
