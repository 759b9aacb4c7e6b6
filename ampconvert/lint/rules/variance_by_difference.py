"""AMP414: a variance as the difference of two large means."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding, Fix
from ampconvert.lint.modes import LOW
from ampconvert.lint.patterns import Operation
from ampconvert.lint.rule import Case, Judged, Rule
from ampconvert.lint.running import told
from ampconvert.lint.settings import Settings
from ampconvert.lint.source import Source


class VarianceByDifference(Rule):
    """`(x ** 2).mean() - x.mean() ** 2` cancels: 16 bits leave little of the variance, or less
    than 0.

    Both means are rounded to 11 bits in float16, 8 in bfloat16, before the difference is taken.
    For numbers around 100 with a standard deviation of 0.1 the result in float16 is 0 and not
    0.01; a negative one becomes NaN in the next square root. Under autocast on a GPU `x ** 2` runs
    in float32, but `x.mean()` does not, and its rounding is squared: around 1000 with a standard
    deviation of 1 the variance came out as 77.

    Means that were summed up over batches can't be seen to belong together and are not reported.

    Sources: https://docs.pytorch.org/docs/stable/generated/torch.var.html
    and https://en.wikipedia.org/wiki/Algorithms_for_calculating_variance
    """

    CODE = "AMP414"
    NAME = "variance-by-difference"
    ADVICE = "Call torch.var(x, correction=0), or compute both means in float32."
    DEFAULT = False
    FIX = "unsafe"
    FIX_SAFETY = "The same number, but more exact in float32 too."
    JUDGED = Judged(true=2, read=2)
    WORDS = ((b"mean",),)
    NEEDS_MODE = True
    VALID = (
        Case("""\
import torch

def variance(x):
    x = x.half().float()
    return (x**2).mean() - x.mean() ** 2
"""),
        Case(
            """\
import torch

def covariance(x, y):
    return (x * y).mean() - x.mean() * y.mean()
""",
            settings=Settings(assume=frozenset({"half"})),
        ),
        Case(
            """\
import torch

def variance(x):
    return ((x - x.mean()) ** 2).mean() + x.var(correction=0)
""",
            settings=Settings(assume=frozenset({"half"})),
        ),
    )
    INVALID = (
        Case(
            """\
import torch

def variance(x):
    x = x.half()
    return (x**2).mean(-1) - x.mean(-1) ** 2  # AMP414
""",
            """\
import torch

def variance(x):
    x = x.half()
    return x.var(-1, correction=0)  # AMP414
""",
        ),
        Case("""\
import torch as th

def statistics(model, x):
    with th.autocast("cuda"):
        features = model(x)
        mean = th.mean(features, dim=(2, 3))
        square = th.mean(features.pow(2), dim=(2, 3))
        variance = square - mean.square()  # AMP414
    return mean, variance
"""),
        Case(
            """\
import torch
from torch import nn

class Norm(nn.Module):
    def forward(self, x):
        variance = (x * x).mean(dim=1, keepdim=True) - x.mean(dim=1, keepdim=True).pow(2)  # AMP414
        return x / torch.sqrt(variance + 1e-3)

norm = Norm().bfloat16()
""",
            """\
import torch
from torch import nn

class Norm(nn.Module):
    def forward(self, x):
        variance = x.var(dim=1, keepdim=True, correction=0)  # AMP414
        return x / torch.sqrt(variance + 1e-3)

norm = Norm().bfloat16()
""",
        ),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Differences of a mean of squares and the square of the mean of the same tensor."""
        if not source.modes.low_types:
            return
        operations = source.operations
        for difference in operations.all("sub"):
            minuend = operations.behind(difference.operand, "mean")
            if minuend is None or len(difference.operands) < 2:
                continue
            square = operations.behind(minuend.operand, "mul", "pow", "square")
            x = operations.squared(square.node) if square is not None else None
            subtrahend = operations.behind(difference.operands[1], "mul", "pow", "square")
            root = operations.squared(subtrahend.node) if subtrahend is not None else None
            mean = operations.behind(root, "mean") if root is not None else None
            if x is None or mean is None or not operations.same(mean.operand, x):
                continue
            modes = {
                mode for low in LOW for mode in source.running.modes(difference.node, x, low=low)
            }
            if modes:
                yield self.finding(
                    source, difference.node,
                    f"a variance as a difference of means in 16 bits {told(modes)}: it cancels",
                    self._rewritten(source, difference, minuend, x),
                )  # fmt: skip

    def _rewritten(
        self, source: Source, difference: Operation, mean: Operation, x: ast.expr
    ) -> Fix | None:
        """`x.var(...)` with the dimensions of the mean, where all stands in one expression."""
        call = mean.node
        if not isinstance(call, ast.Call) or difference.node not in source.ancestors(call):
            return None
        if difference.node not in source.ancestors(x) or set(mean.keywords) - {"dim", "keepdim"}:
            return None
        arguments = [source.segment(one) for one in mean.operands[1:]]
        if len(arguments) > 1:
            arguments[1] = f"keepdim={arguments[1]}"
        arguments += [f"{name}={source.segment(v)}" for name, v in mean.keywords.items()]
        text = f"{source.edits.atom(x)}.var({', '.join([*arguments, 'correction=0'])})"
        return self.fix("call var", [source.edits.rewritten(difference.node, text)], safe=False)
