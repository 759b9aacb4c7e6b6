"""AMP415: attention scores that are scaled after the product."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from ampconvert.findings import Edit, Finding, Fix
from ampconvert.lint.patterns import Operation
from ampconvert.lint.rule import Case, Judged, Rule
from ampconvert.lint.running import told
from ampconvert.lint.settings import Settings
from ampconvert.lint.source import Source

_THROUGH = frozenset({"add", "sub", "mul", "div", "masked_fill", "view", "reshape", "clamp"})
_LIMITED = frozenset({"normalize", "softmax", "sigmoid", "tanh", "layer_norm", "rms_norm"})


class ScaleAfterMatmul(Rule):
    """`q @ k.T / sqrt(d)` forms the unscaled scores in float16, which ends at 65504.

    A product over d = 128 whose factors reach 23 is 67712: it overflows to inf before the division
    by 11.3 brings it to 5985, and softmax gives NaN. Scaling q first keeps all of it in range at no
    cost, as `scaled_dot_product_attention` does.

    Reported are products with a transposed matrix that are divided or multiplied by a number or an
    attribute (`self.scale`) and then go into a softmax in the same function. Queries that were
    scaled or normalized before are not. Whether values get so large shows only in a run. bfloat16
    has float32's range.

    Sources: https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.scaled_dot_product_attention.html
    and https://arxiv.org/abs/2105.13290
    """

    CODE = "AMP415"
    NAME = "scale-after-matmul"
    SEVERITY = "info"
    ADVICE = "Scale the query before the product, or call scaled_dot_product_attention."
    DEFAULT = False
    FIX = "unsafe"
    FIX_SAFETY = "The same scores, but float32 results change in the last bits."
    JUDGED = Judged(true=48, read=61)
    WORDS = ((b"oftmax",), (b"matmul", b"bmm", b"mm", b"@"))
    NEEDS_MODE = True
    VALID = (
        Case(
            """\
import math
import torch

def attention(q, k):
    scores = (q / math.sqrt(q.size(-1))) @ k.transpose(-2, -1)
    return torch.softmax(scores, -1)
""",
            settings=Settings(assume=frozenset({"half"})),
        ),
        Case(
            """\
import torch
import torch.nn.functional as F

def attention(q, k, temperature=0.07):
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    return torch.softmax(q @ k.transpose(-2, -1) / temperature, -1)
""",
            settings=Settings(assume=frozenset({"cuda-autocast"})),
        ),
        Case("""\
import torch

def attention(q, k):
    with torch.autocast("cuda", dtype=torch.bfloat16):
        return torch.softmax(q @ k.transpose(-2, -1) * 0.125, -1)
"""),
        Case(
            """\
import torch

def product(a, b):
    return (a @ b.T) / 8
""",
            settings=Settings(assume=frozenset({"half"})),
        ),
    )
    INVALID = (
        Case(
            """\
import math
import torch

def attention(q, k):
    with torch.autocast("cuda", dtype=torch.float16):
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(q.size(-1))  # AMP415
        return torch.softmax(scores, dim=-1)
""",
            """\
import math
import torch

def attention(q, k):
    with torch.autocast("cuda", dtype=torch.float16):
        scores = torch.matmul(q / math.sqrt(q.size(-1)), k.transpose(-1, -2))  # AMP415
        return torch.softmax(scores, dim=-1)
""",
        ),
        Case(
            """\
from torch import nn

class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.scale = (dim // heads) ** -0.5
        self.softmax = nn.Softmax(dim=-1)

    def forward(self, q, k, mask):
        attention = (q @ k.transpose(-2, -1)) * self.scale  # AMP415
        attention = attention + mask
        return self.softmax(attention)

model = Attention(64, 8).half()
""",
            """\
from torch import nn

class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.scale = (dim // heads) ** -0.5
        self.softmax = nn.Softmax(dim=-1)

    def forward(self, q, k, mask):
        attention = ((q * self.scale) @ k.transpose(-2, -1))  # AMP415
        attention = attention + mask
        return self.softmax(attention)

model = Attention(64, 8).half()
""",
        ),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Scaled products with a transposed factor, on the way to a softmax."""
        if "float16" not in source.modes.low_types:
            return
        softmaxes = source.operations.all("softmax")
        if not softmaxes:
            return
        reaching = {value for one in softmaxes for value in _sources(source, one.operand)}
        for scaling in source.operations.all("mul", "div"):
            if scaling.node not in reaching or len(scaling.operands) < 2:
                continue
            product = scaling.operand
            factors = source.operations.product(product)
            if factors is None or not _is_scale(source, scaling):
                continue
            if not _is_transposed(source, factors[1]) or _is_limited(source, factors[0]):
                continue
            modes = source.running.modes(scaling.node, product)
            if modes:
                yield self.finding(
                    source, scaling.node,
                    f"scores are scaled after the product in float16 {told(modes)}: they overflow "
                    "at 65504 before",
                    self._scaled_first(source, scaling, product, factors[0]),
                )  # fmt: skip

    def _scaled_first(
        self, source: Source, scaling: Operation, product: ast.expr, query: ast.expr
    ) -> Fix | None:
        """The query scaled, where the scaling is a sign."""
        if not isinstance(scaling.node, ast.BinOp):
            return None
        sign = "*" if scaling.name == "mul" else "/"
        scaled = f"{source.edits.atom(query)} {sign} {source.edits.atom(scaling.node.right)}"
        is_argument = isinstance(product, ast.Call) and query in product.args
        _, after = source.span(product)
        _, end = source.span(scaling.node)
        closing = re.match(rb"(?:\s*\))*(?=\s*[*/])", source.data[after:end])
        if closing is None:
            return None
        edits = [
            source.edits.replace(query, scaled if is_argument else f"({scaled})"),
            Edit(after + closing.end(), end, ""),
        ]
        return self.fix("scale the query first", edits, safe=False)


def _sources(source: Source, expression: ast.expr, left: int = 6) -> Iterator[ast.expr]:
    """What `expression` is made of through sums, masks, casts and views."""
    for value in source.values.of(expression) if left else ():
        yield value
        operation = source.operations.of(value)
        if operation is not None and operation.name in _THROUGH:
            for operand in operation.operands[:2]:
                yield from _sources(source, operand, left - 1)
        function = value.func if isinstance(value, ast.Call) else None
        if isinstance(function, ast.Attribute) and function.attr in ("float", "to"):
            yield from _sources(source, function.value, left - 1)


def _is_scale(source: Source, scaling: Operation) -> bool:
    """Whether the second operand is a number, as far as can be seen, that makes scores smaller."""
    scale = scaling.operands[1]
    numbers = source.values.numbers(scale)
    if numbers:
        return max(numbers) < 1 if scaling.name == "mul" else min(numbers) > 1
    return source.running.types(scale, "half") <= {"plain", "unknown"}


def _is_transposed(source: Source, factor: ast.expr) -> bool:
    for value in source.values.of(factor):
        operation = source.operations.of(value)
        if operation is not None and operation.name in ("t", "transpose", "permute"):
            return True
        if isinstance(value, ast.Attribute) and value.attr in ("T", "mT"):
            return True
    return False


def _is_limited(source: Source, query: ast.expr) -> bool:
    """Whether the query was normalized or scaled before."""
    return any(
        operation is not None
        and (
            operation.name in _LIMITED
            or (operation.name in ("mul", "div", "mul_", "div_") and len(operation.operands) > 1)
        )
        for operation in source.operations.all_behind(query)
    )
