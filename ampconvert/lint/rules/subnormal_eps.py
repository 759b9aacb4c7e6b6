"""AMP421: an epsilon by which nothing can be divided in float16."""

from __future__ import annotations

from collections.abc import Iterator

from ampconvert.findings import Finding
from ampconvert.lint.epsilons import SMALLEST_NORMAL, UNDERFLOW, Epsilon, epsilons
from ampconvert.lint.rule import Case, Judged, Rule
from ampconvert.lint.running import told
from ampconvert.lint.settings import Settings
from ampconvert.lint.source import Source


class SubnormalEps(Rule):
    """A divisor's epsilon between 2.98e-8 and 6.1e-5 is subnormal in float16, and its inverse
    overflows.

    float16 holds 1e-6 as 9.54e-7, with 4 of its 11 bits, and ends at 65504: where the divisor is 0,
    every numerator above 0.0625 gives inf. `1 / (x + 1e-6)` is inf at x = 0 where float32 gives a
    million. Hardware that flushes subnormal numbers takes the epsilon for 0.

    Only divisors are looked at; logarithms and roots of such numbers are in range. A quotient of
    something by its own norm, sum or maximum stays small and is not reported. Epsilons that are 0
    in float16 are AMP404's.

    Source: https://github.com/pytorch/pytorch/issues/41527
    """

    CODE = "AMP421"
    NAME = "subnormal-eps"
    SEVERITY = "info"
    ADVICE = "Take an epsilon of 1e-4 or more in float16, or divide in float32."
    DEFAULT = False
    JUDGED = Judged(true=6, read=9)
    WORDS = ((b"torch",),)
    NEEDS_MODE = True
    VALID = (
        Case(
            """\
import torch

def normalized(x):
    return x / (x.abs().amax(-1, keepdim=True) + 1e-6)
""",
            settings=Settings(assume=frozenset({"half"})),
        ),
        Case(
            """\
import torch

def information(p):
    return torch.log(p + 1e-6)
""",
            settings=Settings(assume=frozenset({"half"})),
        ),
        Case(
            """\
import torch

def dice(overlap, total):
    return torch.sigmoid(overlap) / (torch.sigmoid(total) + 1e-3)
""",
            settings=Settings(assume=frozenset({"cuda-autocast"})),
        ),
    )
    INVALID = (
        Case("""\
import torch

EPS = 1e-6

def inverse_depth(disparity):
    disparity = torch.sigmoid(disparity.half())
    return 1.0 / (disparity + EPS)  # AMP421
"""),
        Case("""\
import torch as th

def ratio(model, x, target, smooth=1e-5):
    with th.autocast("cuda", dtype=th.float16):
        p = th.sigmoid(model(x))
        return target / p.mean((1, 2)).clamp(min=smooth)  # AMP421
"""),
        Case(
            """\
import torch
from torch import nn

class Scale(nn.Module):
    def __init__(self, eps=1e-7):
        super().__init__()
        self.eps = eps

    def forward(self, x, y):
        return torch.div(x, torch.relu(y) + self.eps)  # AMP421
""",
            settings=Settings(assume=frozenset({"half"})),
        ),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Divisors that may be as small as a subnormal epsilon."""
        if "float16" not in source.modes.low_types:
            return
        for found in epsilons(source, UNDERFLOW, SMALLEST_NORMAL):
            if not found.divides or _is_share(source, found):
                continue
            modes = source.running.modes(
                found.node, found.guarded, surely=found.must_be_tensor(source)
            )
            if modes:
                largest = 65504 * found.value
                yield self.finding(
                    source, found.node,
                    f"{found.value:g} is subnormal in float16 {told(modes)}: where the rest is 0, "
                    f"numerators above {largest:.2g} give inf",
                )  # fmt: skip


def _is_share(source: Source, found: Epsilon) -> bool:
    """Whether numerator and divisor are made of one tensor, so that they get small together."""
    if len(found.sink.operands) < 2:
        return False
    above = source.operations.made_of(found.sink.operand)
    return bool(above & source.operations.made_of(found.guarded))
