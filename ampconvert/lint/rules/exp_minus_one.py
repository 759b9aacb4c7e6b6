"""AMP424: exp(x) - 1, which is 0 for a small x."""

from __future__ import annotations

from collections.abc import Iterator

from ampconvert.findings import Finding
from ampconvert.lint.modes import LOW
from ampconvert.lint.rule import Case, Judged, Rule
from ampconvert.lint.running import told
from ampconvert.lint.settings import Settings
from ampconvert.lint.source import Source


class ExpMinusOne(Rule):
    """`exp(x) - 1` is 0 for every x below 0.00049 in float16, and below 0.0039 in bfloat16.

    exp(x) is rounded to a number beside 1 first, and those are 0.00098 apart in float16 and 0.0078
    in bfloat16. `torch.expm1` never forms it. Under autocast on a GPU exp gives float32 and nothing
    is reported; in place (`x.exp_()`) it does not.

    Sources: https://docs.pytorch.org/docs/stable/generated/torch.expm1.html
    and https://github.com/meta-pytorch/torchfix
    """

    CODE = "AMP424"
    NAME = "exp-minus-one"
    SEVERITY = "info"
    ADVICE = "Call torch.expm1(x)."
    DEFAULT = False
    FIX = "unsafe"
    FIX_SAFETY = "The same function, but more exact in float32 too."
    JUDGED = Judged(true=0, read=1)
    WORDS = ((b"exp",),)
    NEEDS_MODE = True
    VALID = (
        Case("""\
import torch

def rate(model, x):
    with torch.autocast("cuda"):
        return torch.exp(model(x)) - 1
"""),
        Case("""\
import math
import torch

def rate(x, n):
    return torch.expm1(x.half()) * (math.exp(n) - 1)
"""),
        Case(
            """\
import torch

def rate(x):
    return (x.float().exp() - 1) + (x.exp() - 2) + (1 - x.exp())
""",
            settings=Settings(assume=frozenset({"half"})),
        ),
    )
    INVALID = (
        Case(
            """\
import torch

def rates(x):
    x = x.half()
    return torch.exp(x) - 1, x.exp() - 1.0  # AMP424
""",
            """\
import torch

def rates(x):
    x = x.half()
    return torch.expm1(x), x.expm1()  # AMP424
""",
        ),
        Case("""\
import torch as th
from torch import nn

class Kl(nn.Module):
    def forward(self, mean, log_variance):
        variance = th.exp(log_variance)
        return (variance - 1 - log_variance + mean * mean).sum()  # AMP424

kl = Kl().bfloat16()
"""),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Differences of an exponential and 1."""
        if not source.modes.low_types:
            return
        for difference in source.operations.all("sub"):
            if len(difference.operands) < 2 or "alpha" in difference.keywords:
                continue
            if source.values.numbers(difference.operands[1]) != {1.0}:
                continue
            inner = source.operations.behind(difference.operand, "exp", "exp_")
            if inner is None:
                continue
            modes = {
                mode
                for low in LOW
                for mode in source.running.modes(
                    difference.node, inner.operand, operator=inner.name, low=low
                )
            }
            if modes:
                fix = None
                if difference.node in source.ancestors(inner.node) and inner.name == "exp":
                    written = source.operations.renamed(inner, "expm1")
                    if written is not None:
                        edits = [*written[1], source.edits.rewritten(difference.node, written[0])]
                        fix = self.fix("call expm1", edits, safe=False)
                yield self.finding(
                    source, difference.node,
                    f"exp(x) - 1 in 16 bits {told(modes)}: it is 0 for a small x", fix,
                )  # fmt: skip
