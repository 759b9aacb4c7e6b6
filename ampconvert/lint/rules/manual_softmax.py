"""AMP408: a softmax written by hand."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding, Fix
from ampconvert.lint.exponents import LARGEST, is_bounded
from ampconvert.lint.patterns import Operation
from ampconvert.lint.rule import Case, Judged, Rule
from ampconvert.lint.running import told
from ampconvert.lint.settings import Settings
from ampconvert.lint.source import Source


class ManualSoftmax(Rule):
    """`exp(x) / exp(x).sum()` overflows in float16 as soon as x is above 11.09.

    exp(11.1) is more than 65504, float16's largest number: one logit of 12 makes the quotient NaN.
    `torch.softmax` subtracts the maximum first and sums in float32. Sums of up to 65504 in all are
    reached by smaller logits too.

    Under autocast on a GPU exp and sum run in float32 and nothing is reported; exp in place
    (`x.exp_()`) does not. An exponent that subtracts a maximum or is negated (a Gaussian, a
    distance) is not reported. bfloat16 has float32's range.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.softmax.html
    """

    CODE = "AMP408"
    NAME = "manual-softmax"
    ADVICE = "Call torch.softmax(x, dim)."
    DEFAULT = False
    FIX = "unsafe"
    FIX_SAFETY = "The same function, but float32 results change in the last bits."
    JUDGED = Judged(true=2, read=2)
    WORDS = ((b"exp",),)
    NEEDS_MODE = True
    VALID = (
        Case(
            """\
import torch

def attention(x):
    e = torch.exp(x - x.amax(-1, keepdim=True))
    return e / e.sum(-1, keepdim=True)
""",
            settings=Settings(assume=frozenset({"half"})),
        ),
        Case(
            """\
import torch

def kernel(distance):
    e = torch.exp(-distance / 2)
    return e / e.sum()
""",
            settings=Settings(assume=frozenset({"half"})),
        ),
        Case("""\
import torch

def attention(model, x):
    with torch.autocast("cuda", dtype=torch.float16):
        e = torch.exp(model(x))
        return e / e.sum(-1, keepdim=True)
"""),
    )
    INVALID = (
        Case(
            """\
import torch as th

def attention(q, k):
    scores = q.half() @ k.half().T
    return th.exp(scores) / th.exp(scores).sum(dim=-1, keepdim=True)  # AMP408
""",
            """\
import torch as th

def attention(q, k):
    scores = q.half() @ k.half().T
    return th.softmax(scores, dim=-1)  # AMP408
""",
        ),
        Case("""\
import torch
from torch import nn

class Pool(nn.Module):
    def __init__(self):
        super().__init__()
        self.score = nn.Linear(8, 1)

    def forward(self, x):
        weights = self.score(x).exp()
        total = weights.sum(1, keepdim=True)
        return (x * (weights / total)).sum(1)  # AMP408

pool = Pool().half()
"""),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Quotients of an exponential and the sum of the same exponential."""
        if "float16" not in source.modes.low_types:
            return
        operations = source.operations
        if not operations.all("exp", "exp_"):
            return
        for quotient in operations.all("div"):
            exponential = operations.behind(quotient.operand, "exp", "exp_")
            total = operations.behind(quotient.operands[-1], "sum")
            if exponential is None or total is None:
                continue
            summed = operations.behind(total.operand, "exp", "exp_")
            exponent = exponential.operand
            if summed is None or not operations.same(summed.operand, exponent):
                continue
            if is_bounded(source, exponent):
                continue
            modes = source.running.modes(quotient.node, exponent, operator=exponential.name)
            if modes:
                yield self.finding(
                    source, quotient.node,
                    f"a softmax by hand in float16 {told(modes)}: exp overflows above {LARGEST}",
                    self._rewritten(source, quotient, exponential, total),
                )  # fmt: skip

    def _rewritten(
        self, source: Source, quotient: Operation, exponential: Operation, total: Operation
    ) -> Fix | None:
        """torch.softmax, where all stands in one expression and keepdim=True."""
        keep = total.argument("keepdim", 2)
        dim = total.argument("dim", 1)
        inside = all(quotient.node in source.ancestors(one.node) for one in (exponential, total))
        kept = isinstance(keep, ast.Constant) and keep.value is True
        if not inside or not kept or dim is None or not source.values.numbers(dim):
            return None
        spelled, imports = source.edits.spelled("torch.softmax", quotient.node)
        text = f"{spelled}({source.segment(exponential.operand)}, dim={source.segment(dim)})"
        edits = [*imports, source.edits.rewritten(quotient.node, text)]
        return self.fix("call torch.softmax", edits, safe=False)
