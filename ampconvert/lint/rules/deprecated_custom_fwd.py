"""AMP003: torch.cuda.amp.custom_fwd and custom_bwd."""

from __future__ import annotations

import ast

from ampconvert.lint.renames import Adapted, RenameRule
from ampconvert.lint.rule import Case, Judged
from ampconvert.lint.settings import Settings
from ampconvert.lint.source import Source

_NAMES = {f"torch.cuda.amp.{name}": f"torch.amp.{name}" for name in ("custom_fwd", "custom_bwd")}
_DEVICE = 'device_type="cuda"'


class DeprecatedCustomFwd(RenameRule):
    """`torch.cuda.amp.custom_fwd` and `custom_bwd` are deprecated since PyTorch 2.4.

    They warn where a class is defined, so that even importing a module shows it. Those of
    `torch.amp`, new in PyTorch 2.4, must be told the device: `@custom_fwd(device_type="cuda")`.
    Without it they raise a TypeError.

    A use that is neither decorator nor call is reported and not fixed, likewise an import inside
    `try` and one that other files may take from here. Nothing is said of the branch that runs
    only where PyTorch has no `torch.amp.custom_fwd`.

    Source: https://docs.pytorch.org/docs/stable/amp.html#torch.amp.custom_fwd
    """

    CODE = "AMP003"
    NAME = "deprecated-custom-fwd"
    ADVICE = 'Use those of torch.amp with device_type="cuda".'
    FIX = "safe"
    FIX_SAFETY = (
        "The old decorators call the new ones with this device. Made only where the oldest "
        "PyTorch of the project is 2.4 or newer."
    )
    OLD = _NAMES
    FIX_FROM = (2, 4)
    WORDS = ((b"custom_fwd", b"custom_bwd"), (b"amp",))
    JUDGED = Judged(true=21, read=21)
    VALID = (
        Case("""\
import torch
from torch.amp import custom_bwd, custom_fwd


class Square(torch.autograd.Function):
    @staticmethod
    @custom_fwd(device_type="cuda")
    def forward(ctx, x):
        return x * x

    @staticmethod
    @custom_bwd(device_type="cuda")
    def backward(ctx, grad):
        return grad
"""),
        Case("""\
import functools

import torch

if hasattr(torch.amp, "custom_fwd"):
    custom_fwd = functools.partial(torch.amp.custom_fwd, device_type="cuda")
else:
    from torch.cuda.amp import custom_fwd


@custom_fwd
def forward(ctx, x):
    return x
"""),
        Case("""\
from mylib.amp import custom_fwd


@custom_fwd
def forward(ctx, x):
    return x
"""),
    )
    INVALID = (
        Case(
            """\
import torch
from torch.cuda.amp import custom_bwd, custom_fwd


class Square(torch.autograd.Function):
    @staticmethod
    @custom_fwd(cast_inputs=torch.float16)  # AMP003
    def forward(ctx, x):
        return x * x

    @staticmethod
    @custom_bwd  # AMP003
    def backward(ctx, grad):
        return grad
""",
            """\
import torch
from torch.amp import custom_bwd, custom_fwd


class Square(torch.autograd.Function):
    @staticmethod
    @custom_fwd(cast_inputs=torch.float16, device_type="cuda")  # AMP003
    def forward(ctx, x):
        return x * x

    @staticmethod
    @custom_bwd(device_type="cuda")  # AMP003
    def backward(ctx, grad):
        return grad
""",
        ),
        Case(
            """\
import torch


@torch.cuda.amp.custom_fwd  # AMP003
def forward(ctx, x):
    return x


backward = torch.cuda.amp.custom_bwd(lambda ctx, grad: grad)  # AMP003
""",
            """\
import torch


@torch.amp.custom_fwd(device_type="cuda")  # AMP003
def forward(ctx, x):
    return x


backward = torch.amp.custom_bwd(lambda ctx, grad: grad, device_type="cuda")  # AMP003
""",
        ),
        Case(
            """\
from torch.cuda import amp


@amp.custom_fwd()  # AMP003
def forward(ctx, x):
    return x


@amp.custom_bwd  # AMP003
def backward(ctx, grad):
    return grad
""",
            """\
import torch


@torch.amp.custom_fwd(device_type="cuda")  # AMP003
def forward(ctx, x):
    return x


@torch.amp.custom_bwd(device_type="cuda")  # AMP003
def backward(ctx, grad):
    return grad
""",
        ),
        Case("""\
from functools import partial

from torch.cuda.amp import custom_fwd

single = partial(custom_fwd, cast_inputs=None)  # AMP003
"""),
        Case(
            """\
from torch.cuda.amp import custom_fwd


@custom_fwd  # AMP003
def forward(ctx, x):
    return x
""",
            settings=Settings(torch=(2, 3)),
        ),
    )

    def adapted(self, source: Source, node: ast.expr, name: str) -> Adapted | None:
        """The device goes into the call; a bare decorator becomes a call."""
        above = source.parents[node]
        if isinstance(above, ast.Call) and above.func is node:
            if any(keyword.arg in ("device_type", None) for keyword in above.keywords):
                return None
            return Adapted((source.edits.add_keyword(above, _DEVICE),))
        if isinstance(above, ast.FunctionDef | ast.AsyncFunctionDef):
            is_decorator = node in above.decorator_list
            return Adapted((source.edits.after(node, f"({_DEVICE})"),)) if is_decorator else None
        return None
