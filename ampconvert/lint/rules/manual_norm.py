"""AMP411: a norm written by hand, whose squares overflow."""

from __future__ import annotations

from collections.abc import Iterator

from ampconvert.findings import Finding, Fix
from ampconvert.lint.patterns import Operation
from ampconvert.lint.rule import Case, Judged, Rule
from ampconvert.lint.running import told
from ampconvert.lint.settings import Settings
from ampconvert.lint.source import Source


class ManualNorm(Rule):
    """`sqrt((x * x).sum())` overflows in float16 as soon as one element is above 255.

    256 squared is 65536, more than float16's largest number: the norm of [300, 400] is inf, where
    `torch.linalg.vector_norm` gives 500. It scales and sums in float32. Elements below 0.00024
    vanish, for their squares are 0.

    Under autocast on a GPU `x ** 2`, `pow` and `square` run in float32 and only `x * x` is
    reported. bfloat16 has float32's range. The mean of squares is AMP412's.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.linalg.vector_norm.html
    """

    CODE = "AMP411"
    NAME = "manual-norm"
    ADVICE = "Call torch.linalg.vector_norm(x, dim=...)."
    DEFAULT = False
    FIX = "unsafe"
    FIX_SAFETY = "The same function, but float32 results change in the last bits."
    JUDGED = Judged(true=2, read=9)
    WORDS = ((b"sqrt", b"pow", b"**"), (b"sum",))
    NEEDS_MODE = True
    VALID = (
        Case("""\
import torch

def length(model, x):
    with torch.autocast("cuda", dtype=torch.float16):
        return torch.sqrt(model(x).pow(2).sum(-1))
"""),
        Case(
            """\
import torch

def length(x):
    return torch.sqrt((x.float() ** 2).sum(-1)) + torch.linalg.vector_norm(x, dim=-1)
""",
            settings=Settings(assume=frozenset({"half"})),
        ),
        Case(
            """\
import torch

def geometric(x, y):
    return torch.sqrt((x * y).sum(-1))
""",
            settings=Settings(assume=frozenset({"half"})),
        ),
    )
    INVALID = (
        Case(
            """\
import torch

def lengths(x):
    x = x.half()
    return (
        torch.sqrt(torch.sum(x**2, dim=-1, keepdim=True)),  # AMP411
        x.pow(2).sum(1).sqrt(),  # AMP411
        (x.square().sum()) ** 0.5,  # AMP411
    )
""",
            """\
import torch

def lengths(x):
    x = x.half()
    return (
        torch.linalg.vector_norm(x, dim=-1, keepdim=True),  # AMP411
        torch.linalg.vector_norm(x, dim=1),  # AMP411
        torch.linalg.vector_norm(x),  # AMP411
    )
""",
        ),
        Case("""\
import torch as th
from torch.cuda.amp import autocast as ac

@ac()
def distance(model, a, b):
    difference = model(a) - model(b)
    squares = (difference * difference).sum(-1)
    return th.sqrt(squares + 1e-4)  # AMP411
"""),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Roots of sums of squares."""
        if "float16" not in source.modes.low_types:
            return
        operations = source.operations
        for root in operations.all("sqrt", "pow"):
            if root.name == "pow":
                exponent = root.argument("exponent", 1)
                if exponent is None or source.values.numbers(exponent) != {0.5}:
                    continue
            total = operations.behind(root.operand, "sum", "add")
            padded = total is not None and total.name == "add"
            if padded and total is not None:
                total = operations.behind(total.operand, "sum")
            square = operations.behind(total.operand, *_SQUARES) if total is not None else None
            x = operations.squared(square.node) if square is not None else None
            if total is None or square is None or x is None:
                continue
            modes = source.running.modes(root.node, x, operator=square.name)
            if modes:
                fix = None if padded else self._rewritten(source, root, total)
                yield self.finding(
                    source, root.node,
                    f"a norm by hand in float16 {told(modes)}: squares overflow above 255", fix,
                )  # fmt: skip

    def _rewritten(self, source: Source, root: Operation, total: Operation) -> Fix | None:
        """vector_norm, where all stands in one expression."""
        operand = source.operations.of(total.operand)
        if operand is None or root.node not in source.ancestors(operand.node):
            return None
        if set(total.keywords) - {"dim", "keepdim"}:
            return None
        dim, keep = total.argument("dim", 1), total.argument("keepdim", 2)
        spelled, imports = source.edits.spelled("torch.linalg.vector_norm", root.node)
        text = f"{spelled}({source.segment(operand.operand)}"
        text += f", dim={source.segment(dim)}" if dim is not None else ""
        text += f", keepdim={source.segment(keep)}" if keep is not None else ""
        edits = [*imports, source.edits.rewritten(root.node, text + ")")]
        return self.fix("call vector_norm", edits, safe=False)


_SQUARES = ("mul", "pow", "square")
