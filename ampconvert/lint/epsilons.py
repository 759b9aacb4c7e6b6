"""Small numbers that keep a divisor or the argument of a logarithm from being 0."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ampconvert.lint.patterns import Operation

if TYPE_CHECKING:
    from ampconvert.lint.source import Source

# float16 rounds everything up to here to 0: half of its smallest number, 2**-24, ties to even.
UNDERFLOW = 2.0**-25
# Below this float16 has less than its 11 bits.
SMALLEST_NORMAL = 2.0**-14

_LOGARITHMS = frozenset({"log", "log2", "log10"})
_ROOTS = frozenset({"sqrt", "rsqrt"})
_DIVISIONS = frozenset({"div", "reciprocal"})
_NAMES = ("div", "div_", "reciprocal", "reciprocal_", "log", "log_", "log2", "log2_", "log10",
          "log10_", "sqrt", "sqrt_", "rsqrt", "rsqrt_", "pow")  # fmt: skip
_VIEWS = frozenset({"clone", "detach", "expand", "expand_as", "flatten", "reshape", "squeeze", "t",
                    "transpose", "unsqueeze", "view", "view_as"})  # fmt: skip
_FLOORS = {"clamp": ("min", 1), "clamp_": ("min", 1), "clamp_min": ("min", 1),
           "clamp_min_": ("min", 1)}  # fmt: skip
_ONES = ("ones", "ones_like", "new_ones")
_PICKS = _VIEWS | {"gather", "topk"}
_MOST_STEPS = 4  # from a division to its epsilon


@dataclass(frozen=True, eq=False)
class Epsilon:
    """`x + 1e-8` or `x.clamp(min=1e-8)` that something needs to be more than 0.

    `node` is that sum or clamp, `guarded` x, `given` the epsilon as it is written, `value` what it
    is (the largest, if it may be several), `sink` the division, logarithm or root. `adds`: it is
    a sum.
    """

    node: ast.expr
    guarded: ast.expr
    given: ast.expr
    value: float
    sink: Operation
    adds: bool

    @property
    def outcome(self) -> str:
        """What a 0 does to the sink: "the division gives inf or NaN"."""
        name = self.sink.name.removesuffix("_")
        if name in _LOGARITHMS:
            return "the logarithm gives -inf"
        if name == "sqrt":
            return "the root's gradient is inf"
        return "the division gives inf or NaN" if name == "div" else f"{name} gives inf"

    def must_be_tensor(self, source: Source) -> bool:
        """Whether the guarded value can't be a plain number: torch's functions get it, or what it
        divides is a tensor.
        """
        if self.sink.certain:
            return True
        wanted = {"low", "tensor"}
        tensors = self.sink.operands if self.sink.name.startswith("div") else ()
        return any(source.running.types(one, "half") & wanted for one in tensors)

    @property
    def divides(self) -> bool:
        """Whether the sink is a division."""
        return self.sink.name.removesuffix("_") in _DIVISIONS


def epsilons(source: Source, above: float, up_to: float) -> Iterator[Epsilon]:
    """The epsilons of a file with above < value <= up_to, each once."""
    seen: set[ast.expr] = set()
    for sink in [*source.operations.all(*_NAMES), *_in_place(source)]:
        guarded = _needs_floor(source, sink)
        if guarded is None or _is_caught(source, sink):
            continue
        for found in _behind(source, guarded, sink, _MOST_STEPS):
            if above < found.value <= up_to and found.node not in seen:
                seen.add(found.node)
                yield found


def _is_caught(source: Source, sink: Operation) -> bool:
    """Whether inf and NaN of a quotient are bounded or replaced in the same expression."""
    for above in source.ancestors(sink.node):
        if isinstance(above, ast.stmt):
            return False
        outer = source.operations.of(above) if isinstance(above, ast.Call) else None
        if outer is not None and (
            outer.name in ("nan_to_num", "clamp_max", "where")
            or (outer.name == "clamp" and outer.argument("max", 2) is not None)
        ):
            return True
    return False


def _in_place(source: Source) -> Iterator[Operation]:
    """`x /= y` as the division that it is."""
    for statement in source.nodes(ast.AugAssign):
        if isinstance(statement.op, ast.Div):
            operands = (statement.target, statement.value)
            yield Operation("div_", statement.value, operands, {}, certain=False)


def _needs_floor(source: Source, sink: Operation) -> ast.expr | None:
    """What must not be 0: the divisor, or the argument of a logarithm or root."""
    name = sink.name.removesuffix("_")
    if name == "div":
        return sink.operands[1] if len(sink.operands) > 1 else None
    if name == "pow":
        exponent = sink.argument("exponent", 1)
        numbers = source.values.numbers(exponent) if exponent is not None else set()
        return sink.operand if numbers and max(numbers) < 1.0 else None
    return sink.operand


def _behind(source: Source, expression: ast.expr, sink: Operation, left: int) -> Iterator[Epsilon]:
    """The epsilons in what `expression` may stand for, below products, roots and views."""
    if not left:
        return
    for value in source.values.of(expression):
        operation = source.operations.of(value)
        if operation is None:
            continue
        name = operation.name.removesuffix("_")
        if name == "add" and len(operation.operands) > 1:
            yield from _summed(source, operation, sink)
        elif operation.name in _FLOORS:
            floor = operation.argument(*_FLOORS[operation.name])
            if floor is not None:
                yield from _made(source, value, operation.operand, floor, sink, adds=False)
        elif name == "maximum" and len(operation.operands) > 1:
            yield from _maximum(source, operation, sink)
        elif name == "mul":
            for factor in operation.operands[:2]:
                yield from _behind(source, factor, sink, left - 1)
        elif name in _VIEWS:
            yield from _behind(source, operation.operand, sink, left - 1)


def _summed(source: Source, operation: Operation, sink: Operation) -> Iterator[Epsilon]:
    """The epsilon in `x + eps`, `eps + x`, `a + b + eps`, unless another number adds enough."""
    a, b = operation.operands[:2]
    for given, guarded in ((b, a), (a, b)):
        if source.values.numbers(given):
            if not _has_floor(source, guarded):
                yield from _made(source, operation.node, guarded, given, sink, adds=True)
            return
    for term, other in ((a, b), (b, a)):
        inner = source.operations.of(term)
        if inner is not None and inner.name == "add" and not _has_floor(source, other):
            yield from _summed(source, inner, sink)


def _maximum(source: Source, operation: Operation, sink: Operation) -> Iterator[Epsilon]:
    """The epsilon in `torch.maximum(x, torch.tensor(1e-8))`."""
    for given, guarded in (operation.operands[1::-1], operation.operands[:2]):
        made = source.operations.behind(given, "tensor", "as_tensor")
        if made is not None:
            yield from _made(source, operation.node, guarded, made.operand, sink, adds=False)


def _has_floor(source: Source, expression: ast.expr) -> bool:
    """Whether a sum has a number in it that float16 holds, or is never 0 in practice."""
    return any(_holds(source, value) for value in source.values.of(expression))


def _holds(source: Source, value: ast.expr) -> bool:
    if isinstance(value, ast.Subscript):
        return _has_floor(source, value.value)
    operation = source.operations.of(value)
    if operation is None:
        return False
    if operation.name == "add":
        return any(
            max(source.values.numbers(term), default=0.0) > UNDERFLOW or _has_floor(source, term)
            for term in operation.operands[:2]
        )
    if operation.name in _FLOORS:
        floor = operation.argument(*_FLOORS[operation.name])
        return floor is not None and max(source.values.numbers(floor), default=0.0) > UNDERFLOW
    if operation.name in ("amax", "max", "sum"):
        picked = source.operations.behind(operation.operand, *_ONES)
        return picked is not None or _is_softmax(source, operation.operand, _MOST_STEPS)
    return operation.name in ("cosh", "exp", *_ONES)


def _is_softmax(source: Source, expression: ast.expr, left: int) -> bool:
    """Whether these are a softmax's probabilities, or some picked from them: their largest and
    their sum are far from 0.
    """
    if isinstance(expression, ast.Attribute) and expression.attr == "values":
        return _is_softmax(source, expression.value, left)
    if isinstance(expression, ast.Name):
        unpacked = [b.value for b in source.scopes.bindings(expression) if b.path == (0,)]
        if len(unpacked) == 1 and unpacked[0] is not None:  # values, indices = x.topk(k)
            return _is_softmax(source, unpacked[0], left)
    found = source.operations.all_behind(expression) if left else []
    return bool(found) and all(
        operation is not None
        and (
            operation.name == "softmax"
            or (operation.name in _PICKS and _is_softmax(source, operation.operand, left - 1))
        )
        for operation in found
    )


def _made(
    source: Source, node: ast.expr, guarded: ast.expr, given: ast.expr, sink: Operation, *,
    adds: bool,
) -> Iterator[Epsilon]:  # fmt: skip
    numbers = source.values.numbers(given)
    if numbers and min(numbers) > 0:
        yield Epsilon(node, guarded, given, max(numbers), sink, adds)
