"""AMP409: logsumexp and softplus written by hand."""

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


class ManualLogsumexp(Rule):
    """`log(exp(x).sum())` and `log(1 + exp(x))` overflow in float16 as soon as x is above 11.09.

    exp(11.1) is more than 65504, float16's largest number: `log(1 + exp(12))` is inf, where
    `F.softplus` gives 12. Negative ones vanish: `log(1 + exp(-8))` is 0 and not 0.000335, for 1 is
    followed by 1.00098. `torch.logsumexp` subtracts the maximum first.

    Under autocast on a GPU exp and log run in float32 and nothing is reported. An exponent that
    subtracts a maximum or has an abs in it is the stable form, and code inside `torch.where` picks
    its branch: neither is reported. bfloat16 has float32's range.

    Sources: https://docs.pytorch.org/docs/stable/generated/torch.logsumexp.html
    and https://github.com/pytorch/pytorch/issues/144339
    """

    CODE = "AMP409"
    NAME = "manual-logsumexp"
    ADVICE = "Call torch.logsumexp(x, dim) or torch.nn.functional.softplus(x)."
    FIX = "unsafe"
    FIX_SAFETY = "The same functions, but more exact in float32 too; softplus is x above 20."
    JUDGED = Judged(true=1, read=1)
    WORDS = ((b"exp",), (b"log",))
    NEEDS_MODE = True
    VALID = (
        Case(
            """\
import torch

def total(x):
    top = x.amax(-1, keepdim=True)
    return top + torch.log(torch.exp(x - top).sum(-1, keepdim=True))
""",
            settings=Settings(assume=frozenset({"half"})),
        ),
        Case("""\
import torch

def total(model, x):
    with torch.autocast("cuda", dtype=torch.float16):
        return model(x).exp().sum(-1).log()
"""),
        Case(
            """\
import torch

def soft(x):
    stable = x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))
    return torch.where(x > 10, x, torch.log1p(torch.exp(x))) + stable
""",
            settings=Settings(assume=frozenset({"half"})),
        ),
        Case("""\
import math
import torch

def report(model, loss):
    model.half()
    return math.log(1 + math.exp(loss))
"""),
    )
    INVALID = (
        Case(
            """\
import torch
import torch.nn.functional as F

def losses(x, y):
    x, y = x.half(), y.half()
    return (
        torch.log(torch.exp(x).sum(dim=-1)),  # AMP409
        x.exp().sum(1, keepdim=True).log(),  # AMP409
        torch.log(1 + torch.exp(y)),  # AMP409
        y.exp().log1p(),  # AMP409
    )
""",
            """\
import torch
import torch.nn.functional as F

def losses(x, y):
    x, y = x.half(), y.half()
    return (
        torch.logsumexp(x, dim=-1),  # AMP409
        torch.logsumexp(x, dim=1, keepdim=True),  # AMP409
        F.softplus(y),  # AMP409
        F.softplus(y),  # AMP409
    )
""",
        ),
        Case("""\
import torch as th
from torch import nn

class Energy(nn.Module):
    def __init__(self):
        super().__init__()
        self.score = nn.Linear(8, 4)

    def forward(self, x):
        e = th.exp(self.score(x))
        total = e.sum(-1)
        return -th.log(total)  # AMP409

energy = Energy().to(th.float16)
"""),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Logarithms of sums of exponentials, and of 1 + exp(x)."""
        if "float16" not in source.modes.low_types:
            return
        for logarithm in source.operations.all("log", "log1p"):
            total, exponential = _parts(source, logarithm)
            if exponential is None or is_bounded(source, exponential.operand):
                continue
            if _is_chosen(source, logarithm):
                continue
            modes = source.running.modes(
                logarithm.node, exponential.operand, operator=exponential.name
            )
            if modes:
                name = "logsumexp" if total is not None else "softplus"
                yield self.finding(
                    source, logarithm.node,
                    f"{name} by hand in float16 {told(modes)}: exp overflows above {LARGEST}",
                    self._rewritten(source, logarithm, total, exponential),
                )  # fmt: skip

    def _rewritten(
        self, source: Source, logarithm: Operation, total: Operation | None, inner: Operation
    ) -> Fix | None:
        """logsumexp or softplus, where all stands in one expression."""
        if logarithm.node not in source.ancestors(inner.node):
            return None
        x = source.segment(inner.operand)
        if total is None:
            spelled, imports = source.edits.spelled("torch.nn.functional.softplus", logarithm.node)
            text = f"{spelled}({x})"
        else:
            dim, keep = total.argument("dim", 1), total.argument("keepdim", 2)
            if dim is None or "dtype" in total.keywords:
                return None  # logsumexp needs a dimension
            spelled, imports = source.edits.spelled("torch.logsumexp", logarithm.node)
            kept = f", keepdim={source.segment(keep)}" if keep is not None else ""
            text = f"{spelled}({x}, dim={source.segment(dim)}{kept})"
        edits = [*imports, source.edits.rewritten(logarithm.node, text)]
        return self.fix(f"call {spelled}", edits, safe=False)


def _parts(source: Source, logarithm: Operation) -> tuple[Operation | None, Operation | None]:
    """The sum, if it is one, and the exponential in `log(exp(x).sum())`, `log(1 + exp(x))`."""
    operations = source.operations
    if logarithm.name == "log1p":
        return None, operations.behind(logarithm.operand, "exp")
    total = operations.behind(logarithm.operand, "sum", "add")
    if total is None:
        return None, None
    if total.name == "sum":
        return total, operations.behind(total.operand, "exp")
    for one, other in (total.operands[:2], total.operands[1::-1]):
        if source.values.numbers(one) == {1.0}:
            return None, operations.behind(other, "exp")
    return None, None


def _is_chosen(source: Source, operation: Operation) -> bool:
    """Whether torch.where or a mask picks where this counts."""
    calls = (above for above in source.ancestors(operation.node) if isinstance(above, ast.Call))
    outer = (source.operations.of(call) for call in calls)
    return any(one is not None and one.name == "where" for one in outer)
