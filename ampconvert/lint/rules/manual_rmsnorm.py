"""AMP412: the mean of squares in a normalization, in float16."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding, Fix
from ampconvert.lint.patterns import Operation
from ampconvert.lint.rule import Case, Judged, Rule
from ampconvert.lint.running import told
from ampconvert.lint.source import Source

_SQUARES = ("mul", "pow", "square")


class ManualRmsnorm(Rule):
    """`x * rsqrt(x.pow(2).mean() + eps)` overflows in float16 as soon as x is above 255.

    256 squared is 65536, more than float16's largest number: the mean is inf, its rsqrt 0, and the
    layer's output 0 or NaN. Activations of some hundreds are common in large language models. So
    their RMSNorm casts to float32 first, and so do `F.rms_norm` and `F.layer_norm` inside.

    Under autocast on a GPU `pow`, `**` and `square` give float32 and only `x * x` is reported.
    A caller in this file that passes `x.float()` is seen; one in another file is not. bfloat16 has
    float32's range.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.rms_norm.html
    """

    CODE = "AMP412"
    NAME = "manual-rmsnorm"
    ADVICE = "Square x.float() and cast the root back, or call torch.nn.functional.rms_norm."
    DEFAULT = False
    FIX = "unsafe"
    FIX_SAFETY = "The squares are summed in float32: nothing changes there, float64 gets less."
    JUDGED = Judged(true=6, read=9)
    WORDS = ((b"mean",), (b"sqrt", b"pow", b"**"))
    NEEDS_MODE = True
    VALID = (
        Case("""\
import torch
from torch import nn

class RMSNorm(nn.Module):
    def _norm(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)

    def forward(self, x):
        return self._norm(x.float()).type_as(x)

norm = RMSNorm().half()
"""),
        Case("""\
import torch

def norm(model, x):
    with torch.autocast("cuda", dtype=torch.float16):
        x = model(x)
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)
"""),
        Case("""\
import torch

def norm(x):
    x = x.to(torch.bfloat16)
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)
"""),
    )
    INVALID = (
        Case(
            """\
import torch
from torch import nn

class RMSNorm(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)  # AMP412
        return x * self.weight

norm = RMSNorm(8).half()
""",
            """\
import torch
from torch import nn

class RMSNorm(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        x = x * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-5).to(x.dtype)  # AMP412
        return x * self.weight

norm = RMSNorm(8).half()
""",
        ),
        Case("""\
import torch as th

def normalize(x):
    x = x.half()
    power = th.mean(x * x, dim=-1, keepdim=True)
    return x / th.sqrt(power + 1e-4)  # AMP412
"""),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Roots of means of squares that scale the tensor that was squared."""
        if "float16" not in source.modes.low_types:
            return
        operations = source.operations
        for root in operations.all("rsqrt", "sqrt", "pow"):
            if root.name == "pow" and not _is_root(source, root):
                continue
            mean = _mean(source, root.operand)
            square = operations.behind(mean.operand, *_SQUARES) if mean is not None else None
            x = operations.squared(square.node) if square is not None else None
            if square is None or x is None or not _scales(source, root, x):
                continue
            modes = source.running.modes(root.node, x, operator=square.name)
            if modes:
                yield self.finding(
                    source, root.node,
                    f"a mean of squares in float16 {told(modes)}: squares overflow above 255",
                    self._upcast(source, root, square),
                )  # fmt: skip

    def _upcast(self, source: Source, root: Operation, square: Operation) -> Fix | None:
        """The square in float32, the root in the type of x, where both stand in one expression."""
        x = square.operand
        inside = root.node in source.ancestors(square.node) and root.name == "rsqrt"
        if not inside or square.name == "mul" or not isinstance(x, ast.Name):
            return None
        edits = [
            source.edits.method(x, ".float()"),
            source.edits.after(root.node, f".to({x.id}.dtype)"),
        ]
        return self.fix("compute the mean of squares in float32", edits, safe=False)


def _is_root(source: Source, power: Operation) -> bool:
    exponent = power.argument("exponent", 1)
    return exponent is not None and source.values.numbers(exponent) in ({0.5}, {-0.5})


def _mean(source: Source, expression: ast.expr) -> Operation | None:
    """The mean in `mean` and `mean + eps`."""
    found = source.operations.behind(expression, "mean", "add")
    if found is not None and found.name == "add":
        return source.operations.behind(found.operand, "mean")
    return found


def _scales(source: Source, root: Operation, x: ast.expr) -> bool:
    """Whether x is multiplied with the root, or divided by it, in this expression or the function
    that it is returned from.
    """
    operations = source.operations
    function = source.function(root.node)
    if function is None:
        return False
    for node in source.walk(function):
        if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Mult | ast.Div):
            continue
        sides = (node.left, node.right)
        for side, other in (sides, sides[::-1]):
            if operations.same(side, x) and root.node in (other, *source.values.of(other)):
                return True
    return False
