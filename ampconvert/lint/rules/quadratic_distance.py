"""AMP418: squared distances as a sum of three products that cancel."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding
from ampconvert.lint.modes import LOW
from ampconvert.lint.rule import Case, Judged, Rule
from ampconvert.lint.running import told
from ampconvert.lint.settings import Settings
from ampconvert.lint.source import Source


class QuadraticDistance(Rule):
    """`a**2 + b**2 - 2 * a @ b.T` cancels: in 16 bits near neighbours have any distance.

    The three terms are large and nearly equal where a and b are near, and each is rounded to 11
    bits (float16) or 8 (bfloat16). Squared distances of 0.006 between vectors of 64 numbers came
    out as 0 or 0.0625 in float16 and 0 or 0.5 in bfloat16; a negative one gives NaN in a root. The
    nearest code of a codebook is then another one. Autocast runs the product in 16 bits, whatever
    its operands are.

    `torch.cdist` runs in float32 under autocast. Found are the terms in one sum; in-place forms
    (`addmm_`) are not.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.cdist.html
    """

    CODE = "AMP418"
    NAME = "quadratic-distance"
    ADVICE = "Call torch.cdist(a, b), or compute the three terms in float32 with autocast off."
    DEFAULT = False
    JUDGED = Judged(true=9, read=10)
    WORDS = ((b"torch",), (b"@", b"matmul", b"mm", b"einsum"))
    NEEDS_MODE = True
    VALID = (
        Case("""\
import torch

def distances(a, b):
    a, b = a.half().float(), b.half().float()
    return (a**2).sum(1, keepdim=True) + (b**2).sum(1) - 2 * a @ b.t()
"""),
        Case("""\
import torch

def distances(model, a, b):
    with torch.autocast("cuda"):
        return torch.cdist(model(a), model(b)).square()
"""),
        Case(
            """\
import torch

def energy(a, b, c):
    return (a**2).sum(1) + c - 2 * (a * b).sum(1)
""",
            settings=Settings(assume=frozenset({"half"})),
        ),
        Case("""\
import torch

def distances(a, b):
    with torch.autocast("cuda", enabled=False):
        return (a**2).sum(1, keepdim=True) + (b**2).sum(1) - 2 * a @ b.t()

def train(model, a, b):
    with torch.autocast("cuda"):
        return distances(model(a), model(b))
"""),
    )
    INVALID = (
        Case("""\
import torch
from torch import nn

class Quantizer(nn.Module):
    def __init__(self):
        super().__init__()
        self.codes = nn.Embedding(512, 64)

    def forward(self, z):
        with torch.autocast("cuda", dtype=torch.float16):
            distance = (  # comments stay
                torch.sum(z**2, dim=1, keepdim=True)  # AMP418
                + torch.sum(self.codes.weight**2, dim=1)
                - 2 * torch.matmul(z, self.codes.weight.t())
            )
        return distance.argmin(1)
"""),
        Case("""\
import torch as th

def nearest(a, b):
    a, b = a.bfloat16(), b.bfloat16()
    left = a.pow(2).sum(1, keepdim=True)
    right = b.pow(2).sum(1)
    return (left + right - 2 * a @ b.T).argmin(1)  # AMP418
"""),
        Case("""\
import torch

def nearest(a, b):
    a, b = a.half(), b.half()
    return (a * a).sum(1)[:, None] - 2 * torch.mm(a, b.t()) + (b * b).sum(1)[None, :]  # AMP418
"""),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Sums with two sums of squares and minus twice a product."""
        if not source.modes.low_types:
            return
        for node in source.nodes(ast.BinOp):
            if not isinstance(node.op, ast.Add | ast.Sub) or _is_inner(source, node):
                continue
            product = _expanded(source, node)
            if product is None:
                continue
            modes = {
                mode
                for low in LOW
                for mode in source.running.modes(node, product, low=low)
            }  # fmt: skip
            if modes:
                yield self.finding(
                    source, node,
                    f"a squared distance as a sum of products in 16 bits {told(modes)}: it cancels",
                )  # fmt: skip


def _is_inner(source: Source, node: ast.BinOp) -> bool:
    above = source.parents[node]
    return isinstance(above, ast.BinOp) and isinstance(above.op, ast.Add | ast.Sub)


def _expanded(source: Source, node: ast.BinOp) -> ast.expr | None:
    """The product in a**2 + b**2 - 2ab, else None."""
    squares = 0
    product: ast.expr | None = None
    terms = list(_terms(node, True))
    for term, positive in terms if len(terms) > 2 else ():
        if positive and _is_sum_of_squares(source, term):
            squares += 1
        elif not positive:
            product = _doubled_product(source, term) or product
    return product if squares >= 2 else None


def _terms(node: ast.expr, positive: bool) -> Iterator[tuple[ast.expr, bool]]:
    """The summands of a sum, with their signs."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        yield from _terms(node.left, positive)
        yield from _terms(node.right, positive if isinstance(node.op, ast.Add) else not positive)
    else:
        yield node, positive


def _is_sum_of_squares(source: Source, term: ast.expr) -> bool:
    while True:
        if isinstance(term, ast.Subscript):
            term = term.value
            continue
        operation = source.operations.behind(term, "sum", "unsqueeze", "view", "t", "transpose",
                                             "reshape", "expand")  # fmt: skip
        if operation is None:
            return False
        if operation.name == "sum":
            square = source.operations.behind(operation.operand, "mul", "pow", "square")
            return square is not None and source.operations.squared(square.node) is not None
        term = operation.operand


def _doubled_product(source: Source, term: ast.expr) -> ast.expr | None:
    """The matrix product in `2 * a @ b`, `2 * (a @ b)`, `2 * torch.matmul(a, b)`."""
    for value in source.values.of(term):
        factors = source.operations.product(value)
        if factors is not None:
            doubled = any(_is_doubled(source, factor) for factor in factors)
            return value if doubled else None
        operation = source.operations.of(value)
        if operation is not None and operation.name == "mul" and _is_doubled(source, value):
            for side in operation.operands[:2]:
                inner = source.operations.behind(side, "matmul", "mm", "bmm", "einsum")
                if inner is not None:
                    return inner.node
    return None


def _is_doubled(source: Source, factor: ast.expr) -> bool:
    operation = source.operations.of(factor)
    return (
        operation is not None
        and operation.name == "mul"
        and any(source.values.numbers(one) == {2.0} for one in operation.operands[:2])
    )
