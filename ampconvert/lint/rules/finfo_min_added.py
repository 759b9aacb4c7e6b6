"""AMP402: two masks of the lowest number, added."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding, Fix
from ampconvert.lint.rule import Case, Judged, Rule
from ampconvert.lint.source import Source

_VIEWS = frozenset({"clone", "contiguous", "expand", "expand_as", "repeat", "reshape", "to", "type",
                    "type_as", "unsqueeze", "view", "float", "half", "bfloat16"})  # fmt: skip
_CLAMPS = frozenset({"clamp", "clamp_", "clamp_min", "clamp_min_", "clip", "maximum", "max"})
_SCALARS = ("torch.tensor", "torch.scalar_tensor")
_FINFO = ("torch.finfo", "numpy.finfo")


class FinfoMinAdded(Rule):
    """Two masks that hold `torch.finfo(dtype).min` are added, which gives -inf where both mask.

    The lowest number plus itself is beyond the type, in float16 (-65504) as in float32. A row in
    which every element is masked twice is -inf throughout, and softmax makes NaN of it, which is
    what the lowest number instead of -inf was to prevent.

    Found where both masks are made in this file: by a product, `masked_fill`, `where` or `full`
    with `torch.finfo(...).min`. Not reported: one such mask added to the scores, though in float16
    a score below -16 gives -inf as well, causal masks made with `triu`, which leave each row an
    element, and files whose attention lifts -inf again, as with `torch.max(scores, lowest)`. The
    rule is off by default, as causal masks that are made otherwise are taken for others.

    Sources: https://github.com/huggingface/transformers/pull/17306 and https://github.com/NVIDIA-NeMo/Automodel/pull/2658
    """

    CODE = "AMP402"
    NAME = "finfo-min-added"
    DEFAULT = False
    ADVICE = "Combine the masks as booleans first, or clamp the sum to torch.finfo(dtype).min."
    FIX = "unsafe"
    FIX_SAFETY = "Elements that are masked twice become the lowest number instead of -inf."
    WORDS = ((b"finfo",), (b"torch",))
    JUDGED = Judged(true=0, read=1)
    VALID = (
        Case("""\
import torch

def mask(padding, causal, scores):
    lowest = torch.finfo(scores.dtype).min
    both = padding | causal
    first = (1.0 - padding) * lowest
    second = (1.0 - causal) * lowest
    return scores + both * lowest, (first + second).clamp(min=lowest), scores + first
"""),
        Case("""\
import torch

def mask(padding, causal, dtype):
    first = padding * torch.finfo(dtype).min
    second = causal * torch.finfo(dtype).min
    total = first + second
    total = torch.clamp(total, min=torch.finfo(dtype).min)
    third = torch.full((8, 8), torch.finfo(dtype).min).triu(1)
    return torch.max(first, second), total, first + third
"""),
        Case("""\
import torch

def eps(x, y):
    return x * torch.finfo(x.dtype).eps + y * torch.finfo(x.dtype).eps
"""),
    )
    INVALID = (
        Case(
            """\
import torch as th
from torch import finfo

class Masks:
    def __init__(self, dtype):
        self.dtype = dtype
        self.lowest = finfo(dtype).min

    def padding(self, mask):
        return (1.0 - mask[:, None, None, :].to(self.dtype)) * th.finfo(self.dtype).min

    def both(self, mask, causal):
        for _ in range(2):
            total = self.padding(mask) + causal.masked_fill(causal > 0, self.lowest)  # AMP402
        return total
""",
        ),
        Case(
            """\
import torch

def both(padding, banned, dtype):
    first = (1.0 - padding) * torch.finfo(dtype).min
    second = torch.where(banned, torch.finfo(dtype).min, 0.0)
    second = second[None, None].expand(2, 1, 8, 8)
    return first + second  # AMP402
""",
            """\
import torch

def both(padding, banned, dtype):
    first = (1.0 - padding) * torch.finfo(dtype).min
    second = torch.where(banned, torch.finfo(dtype).min, 0.0)
    second = second[None, None].expand(2, 1, 8, 8)
    return (first + second).clamp(min=torch.finfo(dtype).min)  # AMP402
""",
        ),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Sums of two masks made with the lowest number."""
        if not source.names.references(*_FINFO) or _clamps_scores(source):
            return
        for added in source.nodes(ast.BinOp):
            if not isinstance(added.op, ast.Add):
                continue
            left = _lowest(source, added.left, 0)
            right = _lowest(source, added.right, 0) if left is not None else None
            if left is not None and right is not None and not _is_clamped(source, added):
                yield self.finding(
                    source, added, "twice torch.finfo(...).min is -inf where both masks hold it",
                    self._clamped(source, added, (left, right)),
                )  # fmt: skip

    def _clamped(
        self, source: Source, added: ast.BinOp, lowest: tuple[ast.expr, ast.expr]
    ) -> Fix | None:
        here = [
            one for one in lowest
            if source.function(one) is source.function(added) and isinstance(one, ast.Attribute)
            and isinstance(one.value, ast.Call)
        ]  # fmt: skip
        if not here:
            return None
        edit = source.edits.method(added, f".clamp(min={source.segment(here[0])})")
        return self.fix("clamp the sum", [edit], safe=False)


def _lowest(source: Source, mask: ast.expr, depth: int) -> ast.expr | None:
    """`torch.finfo(...).min`, if `mask` holds that or 0."""
    for value in source.values.of(mask) if depth < 8 else ():
        found = _in_value(source, value, depth + 1)
        if found is not None:
            return found
    return None


def _in_value(source: Source, value: ast.expr, depth: int) -> ast.expr | None:
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Mult):
        return _number(source, value.left) or _number(source, value.right)
    if isinstance(value, ast.Subscript):
        return _lowest(source, value.value, depth)
    if not isinstance(value, ast.Call):
        return None
    name = source.names.of(value.func)
    method = value.func.attr if isinstance(value.func, ast.Attribute) and not name else ""
    last = method or (name.rpartition(".")[2] if name.startswith("torch.") else "")
    if last in ("masked_fill", "masked_fill_", "where", "full", "full_like", "new_full"):
        given = [*value.args, *(k.value for k in value.keywords)]
        return next((n for one in given if (n := _number(source, one)) is not None), None)
    if method in _VIEWS and isinstance(value.func, ast.Attribute):
        return _lowest(source, value.func.value, depth)
    return None  # triu and tril make causal masks


def _number(source: Source, expression: ast.expr) -> ast.expr | None:
    """`torch.finfo(...).min` itself, also behind a name or in `torch.tensor(...)`."""
    for value in source.values.of(expression):
        made = value if isinstance(value, ast.Call) and value.args else None
        if made is not None and source.names.is_one(made.func, *_SCALARS):
            return _number(source, made.args[0])
        if isinstance(value, ast.Attribute) and value.attr == "min":
            for info in source.values.of(value.value):
                if isinstance(info, ast.Call) and source.names.is_one(info.func, *_FINFO):
                    return value
    return None


def _is_clamped(source: Source, added: ast.BinOp) -> bool:
    """Whether the sum, or the name that it gets, is clamped or compared later."""
    above = source.parents[added]
    if isinstance(above, ast.Attribute) and above.attr in _CLAMPS:
        return True
    return any(
        added in source.values.of(operand)
        for call in source.names.methods(*_CLAMPS)
        for operand in _operands(call)
    )


def _clamps_scores(source: Source) -> bool:
    """Whether the file lifts sums to the lowest number, as attention layers do after the mask."""
    return any(
        _number(source, operand) is not None
        for call in source.names.methods("max", "maximum")
        for operand in _operands(call)
    )


def _operands(call: ast.Call) -> list[ast.expr]:
    receiver = [call.func.value] if isinstance(call.func, ast.Attribute) else []
    return [*call.args, *receiver, *(k.value for k in call.keywords)]
