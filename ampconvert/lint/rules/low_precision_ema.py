"""AMP417: a moving average of weights that is kept in 16 bits."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from ampconvert.findings import Finding
from ampconvert.lint.modes import LOW
from ampconvert.lint.patterns import Operation
from ampconvert.lint.rule import Case, Rule
from ampconvert.lint.source import Source

_CASTS = {"half": "float16", "bfloat16": "bfloat16"}
_KEEP = frozenset({"eval", "train", "cuda", "cpu", "requires_grad_", "clone", "detach"})
_COPIES = ("copy.deepcopy", "copy.copy", "torch.optim.swa_utils.AveragedModel")
_SLOW = 0.99  # averages that forget faster survive
_MOST_STEPS = 6


@dataclass(frozen=True)
class _Average:
    """`decay * average + (1 - decay) * new`, however it is written."""

    average: ast.expr
    decay: ast.expr | None
    weight: ast.expr | None


class LowPrecisionEma(Rule):
    """A moving average in 16 bits stands still: each step adds less than its last bit.

    With a decay of 0.9999 a step moves the average by at most 1 / 10000 of the difference. float16
    keeps 1 / 2048 of a number, bfloat16 1 / 256: after 10,000 steps towards 0 an average of 1.0 is
    still 1.0 in float16. At 0.999 it moves, and stops at 0.73 on the way to 0.5.

    Reported where the average is seen to be low: a copy of a model after `.half()`, `.bfloat16()`
    or `.to(torch.float16)`, or a tensor with such a cast; and where the decay is 0.99 or more, or
    can't be seen.

    Sources: https://docs.pytorch.org/docs/stable/optim.html#weight-averaging-swa-and-ema
    and https://github.com/d8ahazard/sd_dreambooth_extension/pull/1417
    """

    CODE = "AMP417"
    NAME = "low-precision-ema"
    ADVICE = "Keep the average in float32, and cast a copy of it where it is used."
    DEFAULT = False
    WORDS = ((b"half", b"float16"), (b"mul_", b"lerp", b"*"))
    NEEDS_MODE = True
    VALID = (
        Case("""\
import copy
import torch

def train(model, loader):
    ema = copy.deepcopy(model).float()
    model.half()
    for x in loader:
        for e, p in zip(ema.parameters(), model.parameters()):
            e.mul_(0.9999).add_(p.float(), alpha=1 - 0.9999)
"""),
        Case("""\
import copy
import torch

def train(model, loader):
    model.half()
    fast = copy.deepcopy(model)
    for e, p in zip(fast.parameters(), model.parameters()):
        e.lerp_(p, 0.5)
"""),
        Case("""\
import torch

def running(loss, mean):
    loss = loss.half()
    mean = 0.9 * mean + 0.1 * loss.item()
    return mean
"""),
    )
    INVALID = (
        Case("""\
import copy
import torch

def train(model, loader, decay=0.9999):
    ema = copy.deepcopy(model).half().eval()
    for x in loader:
        with torch.no_grad():
            for e, p in zip(ema.parameters(), model.parameters()):
                e.mul_(decay).add_(p.data, alpha=1 - decay)  # AMP417
"""),
        Case("""\
import copy
import torch as th

class Ema:
    def __init__(self, model, decay=0.999):
        self.module = copy.deepcopy(model)
        self.module.to(dtype=th.bfloat16)
        self.decay = decay

    @th.no_grad()
    def update(self, model):
        for average, new in zip(self.module.parameters(), model.parameters()):
            average.copy_(self.decay * average + (1.0 - self.decay) * new)  # AMP417
            average.lerp_(new, 1 - self.decay)  # AMP417
"""),
        Case("""\
import torch

def smooth(weights, steps):
    average = weights.detach().half()
    for step in steps:
        average = 0.9995 * average + 0.0005 * step.half()  # AMP417
    return average
"""),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Weighted sums and lerps into a low average."""
        if not source.modes.low_types:
            return
        for operation in source.operations.all("add", "add_", "lerp", "lerp_"):
            found = _average(source, operation)
            if found is None or not _is_slow(source, found):
                continue
            low = _low_type(source, found.average, operation.node)
            if low:
                kept = 2048 if low == "float16" else 256
                yield self.finding(
                    source, operation.node,
                    f"a moving average in {low}: steps of less than 1/{kept} of it are lost",
                )  # fmt: skip


def _average(source: Source, operation: Operation) -> _Average | None:
    """The moving average that this sum or lerp computes, or None."""
    if len(operation.operands) < 2:
        return None
    if operation.name.startswith("lerp"):
        weight = operation.argument("weight", 2)
        return _Average(operation.operand, None, weight) if weight is not None else None
    left = source.operations.of(operation.operand)
    if left is None or left.name not in ("mul", "mul_") or len(left.operands) < 2:
        return None
    if operation.name == "add_":
        alpha = operation.keywords.get("alpha")
        if alpha is None or left.name != "mul_":
            return None
        return _Average(left.operand, left.operands[1], alpha)
    right = source.operations.of(operation.operands[1])
    if right is None or right.name != "mul" or len(right.operands) < 2:
        return None
    for decay, average in (left.operands[:2], left.operands[1::-1]):
        for weight in right.operands[:2]:
            if _sum_to_one(source, decay, weight):
                return _Average(average, decay, weight)
    return None


def _sum_to_one(source: Source, decay: ast.expr, weight: ast.expr) -> bool:
    """Whether weight is 1 - decay, as it is written or by the numbers."""
    for one in source.values.of(weight):
        if isinstance(one, ast.BinOp) and isinstance(one.op, ast.Sub):
            is_rest = source.values.numbers(one.left) == {1.0}
            if is_rest and source.operations.same(one.right, decay):
                return True
    sums = {
        round(a + b, 9)
        for a in source.values.numbers(decay)
        for b in source.values.numbers(weight)
    }  # fmt: skip
    return sums == {1.0}


def _is_slow(source: Source, found: _Average) -> bool:
    """Whether the decay is close to 1, or can't be seen."""
    decays = source.values.numbers(found.decay) if found.decay is not None else set()
    weights = source.values.numbers(found.weight) if found.weight is not None else set()
    decays = decays or {1 - weight for weight in weights}
    return not decays or max(decays) >= _SLOW


def _low_type(source: Source, average: ast.expr, step: ast.expr) -> str:
    """The low type of a tensor, or of the module of whose parameters it is one; "" if not low.

    What `step` gives is of the average's own type, for that is what it starts from.
    """
    begun = [value for value in source.values.of(average) if value is not step]
    types = frozenset(t for value in begun for t in source.tensors.of(value))
    if types and types <= LOW:
        return min(types)
    if isinstance(average, ast.Attribute) and average.attr == "data":
        return _low_type(source, average.value, step)
    if isinstance(average, ast.Name):
        for binding in source.scopes.bindings(average):
            if binding.how == "element" and binding.value is not None:
                owner = _owner(source, binding.value, binding.path)
                if owner is not None:
                    return _low_module(source, owner, _MOST_STEPS)
    return ""


def _owner(source: Source, iterated: ast.expr, path: tuple[int, ...]) -> ast.expr | None:
    """The module X where this element comes from X.parameters(), through zip."""
    if isinstance(iterated, ast.Call) and source.names.of(iterated.func) == "zip" and path:
        if path[0] >= len(iterated.args):
            return None
        iterated = iterated.args[path[0]]
    names = ("parameters", "named_parameters", "buffers", "state_dict")
    for one in source.values.of(iterated):
        function = one.func if isinstance(one, ast.Call) else None
        if isinstance(function, ast.Attribute) and function.attr in names:
            return function.value
    return None


def _low_module(source: Source, module: ast.expr, left: int) -> str:
    """The low type to which a module was cast, where it is made or in a statement of its own."""
    if not left:
        return ""
    for call in source.names.methods("half", "bfloat16", "to"):
        statement = source.parents[call]
        assert isinstance(call.func, ast.Attribute)
        if isinstance(statement, ast.Expr) and ast.dump(call.func.value) == ast.dump(module):
            low = _cast(source, call)
            same_class = source.class_of(call) is source.class_of(module)
            if low and same_class:
                return low
    for value in source.values.of(module):
        if not isinstance(value, ast.Call):
            continue
        low = _cast(source, value)
        if low:
            return low
        if source.names.is_one(value.func, *_COPIES) and value.args:
            low = _low_module(source, value.args[0], left - 1)
        elif isinstance(value.func, ast.Attribute) and value.func.attr in _KEEP:
            low = _low_module(source, value.func.value, left - 1)
        if low:
            return low
    return ""


def _cast(source: Source, call: ast.Call) -> str:
    """The low type that `x.half()` or `x.to(torch.float16)` gives; "" for other calls."""
    if not isinstance(call.func, ast.Attribute):
        return ""
    if call.func.attr in _CASTS and not call.args:
        return _CASTS[call.func.attr]
    if call.func.attr != "to":
        return ""
    given = [*call.args, *(k.value for k in call.keywords if k.arg == "dtype")]
    types = frozenset().union(*(source.tensors.types(one) for one in given)) & LOW
    return min(types) if types else ""
