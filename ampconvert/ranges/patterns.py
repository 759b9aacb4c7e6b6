"""Norms, softmax and masked means written out by hand: results that no interval of steps bounds.

x * rsqrt(mean(x^2) + eps), x / sqrt(...), x / max(||x||, eps), exp(x - max(x)) / sum(...), and
sum(x * m) / sum(m). Steps may be rounded to the low type on the way, each on its own, and x may be
read rounded in one place and not in the other. So a pattern holds only where eps is larger than all
that can underflow on the way to it; otherwise the divisor can become zero in the low type, and
nothing is said.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from ampconvert import functions
from ampconvert.functions import Call
from ampconvert.ranges.domain import Abstract, Image, Norm, count, within
from ampconvert.ranges.rounding import FUSED, gamma, round_to
from ampconvert.ranges.transfer import State

_SAME = ("identity", "cast")  # the elements as they are
_SPREAD = ("identity", "cast", "expand")  # and repeated
_MOST_LOST = 0.25  # share of eps that may underflow


@dataclass(frozen=True)
class Divisor:
    """The length of a vector, or its root mean square, as a chain of steps computes it.

    `steps` are the values on the way, the last one first; `squares` are those before the root.
    """

    vector: str
    axes: tuple[int, ...]
    mean: bool
    steps: tuple[str, ...]
    squares: tuple[str, ...] = ()
    eps: float = 0.0  # under the root
    floor: float = 0.0  # added to the root, or its least value
    added: bool = False  # whether they are added, and make up for what is lost, or a least value


def narrowed_product(state: State, call: Call, found: Abstract) -> Abstract:
    """`found`, the bounds of a product, narrowed where it is x times one over its length."""
    for x, factor in ((call.name(0), call.name(1)), (call.name(1), call.name(0))):
        divisor = _inverse(state, factor)
        if divisor is not None and x is not None and _same(state, x, divisor.vector):
            return _unit(state, x, divisor, found, factor)
    return found


def narrowed_quotient(state: State, call: Call, found: Abstract) -> Abstract:
    """`found`, the bounds of a quotient, narrowed where it is a unit vector or a softmax."""
    x, under = call.name(0), call.name(1)
    divisor = _divisor(state, under)
    if divisor is not None and x is not None and _same(state, x, divisor.vector):
        return _unit(state, x, divisor, found, None)
    return _softmax(state, x, under, _weighted_mean(state, x, under, found))


def _unit(state: State, x: str, divisor: Divisor, found: Abstract, inverse: str | None) -> Abstract:
    """x over its length or its root mean square."""
    vector = state.of(divisor.vector)
    if vector.dims is None or found.dims is None or len(found.dims) != len(vector.dims):
        return found
    n = count(vector.dims, divisor.axes)
    loss = _loss(state, divisor, n)
    operand = state.of(x)
    if loss is None:
        return found
    share, stray = loss
    if inverse is not None and state.rounded(inverse):
        if not math.isfinite(operand.largest):
            return found
        stray += operand.largest * state.low.smallest / 2
    length = (math.sqrt(n) if divisor.mean else 1.0) * share + stray * math.sqrt(n)
    largest = (math.sqrt(n) if divisor.mean else 1.0) * share + stray
    narrowed = within(found, -largest, largest)
    if len(divisor.axes) != 1:
        return narrowed
    axis = divisor.axes[0] - len(vector.dims)
    image = None
    if axis == -1 and isinstance(vector.dims[-1], int):
        size = vector.dims[-1]
        image = Image(np.zeros(size), lambda: np.eye(size), lambda matrix: matrix, length)
    return replace(narrowed, ball=Norm(axis, lambda: np.asarray(length)), image=image)


def _loss(state: State, divisor: Divisor, n: float) -> tuple[float, float] | None:
    """By how much rounding can lengthen the quotient: a factor, and what is added to an element.

    None where the divisor could vanish in the low type.
    """
    low = state.low
    rounded = [state.rounded(name) for name in divisor.steps]
    before = [state.rounded(name) for name in divisor.squares]
    read_twice = state.read_apart(divisor.vector)
    lost = sum(before) * low.smallest / 2 * (1.0 if divisor.mean else max(n, 1.0))
    share = (sum(rounded) + sum(before) + 2 * read_twice + 1) * low.unit
    if divisor.floor or not divisor.squares:
        # What is known of the length itself may be more than the least value it is given.
        least = max(_constant_in_low(state, divisor.floor), state.of(divisor.steps[-1]).worst[0])
        missing = sum(rounded) * low.smallest / 2
        bottom = least - missing
    else:
        least = _constant_in_low(state, divisor.eps)
        missing = lost
        bottom = math.sqrt(max(least - missing, 0.0))
    touched = any(rounded) or any(before) or read_twice
    if touched and (least <= 0 or missing > _MOST_LOST * least):
        return None
    if divisor.floor and lost:  # a root of squares that lost something, with nothing to make up
        return None
    part = 0.0 if divisor.added or not missing else missing / least
    keeps = 1 - share - part - gamma(n) - FUSED
    if not math.isfinite(n) or keeps <= 0.25:
        return None
    stray = 1.5 * low.smallest / bottom if read_twice else 0.0
    return (1 + 3 * low.unit + FUSED) / keeps, stray


def _constant_in_low(state: State, number: float) -> float:
    """The smaller one of a constant and its rounding."""
    return min(number, float(round_to(number, state.low)))


def _inverse(state: State, name: str | None) -> Divisor | None:
    """What `name` is one over of."""
    call, steps = _behind(state, name, _SPREAD)
    if call is None:
        return None
    if call.function == "rsqrt" or (call.function == "pow" and call.number(1) == -0.5):
        found = _radicand(state, call.name(0))
    elif call.function == "reciprocal":
        found = _divisor(state, call.name(0))
    elif call.function == "div" and call.number(0) == 1.0:
        found = _divisor(state, call.name(1))
    else:
        return None
    return None if found is None else replace(found, steps=(*steps, *found.steps))


def _divisor(state: State, name: str | None) -> Divisor | None:
    """`name` as the length of a vector, perhaps with a least value or a number added."""
    call, steps = _behind(state, name, _SPREAD)
    if call is None:
        return None
    if call.function == "sqrt" or (call.function == "pow" and call.number(1) == 0.5):
        found = _radicand(state, call.name(0))
    elif call.function in ("l2_norm", "vector_norm"):
        found = _norm(call)
    else:
        inner, number = _with_least(call)
        found = _divisor(state, inner) if number is not None else None
        if found is None or number is None or found.floor or found.eps:
            return None
        found = replace(found, floor=number, added=call.function == "add")
    return None if found is None else replace(found, steps=(*steps, *found.steps))


def _norm(call: Call) -> Divisor | None:
    order = call.attr("ord", "p", default=2.0) if call.function == "vector_norm" else 2.0
    axes, vector = call.axes(), call.name(0)
    if order != 2 or axes is None or vector is None or not _keeps_rank(call):
        return None
    return Divisor(vector, axes, mean=False, steps=())


def _radicand(state: State, name: str | None) -> Divisor | None:
    """mean(x^2) or sum(x^2), perhaps with eps."""
    call, steps = _behind(state, name, _SPREAD)
    if call is None:
        return None
    inner, number = _with_least(call)
    if number is not None:
        found = _radicand(state, inner)
        if found is None or found.eps:
            return None
        added = call.function == "add"
        return replace(found, eps=number, added=added, squares=(*steps, *found.squares))
    if call.function not in ("mean", "sum", "sum_square"):
        return None
    axes = call.axes()
    if axes is None or not _keeps_rank(call):
        return None
    if call.function == "sum_square":
        vector: str | None = call.name(0)
        inside: tuple[str, ...] = ()
    else:
        square, inside = _behind(state, call.name(0), _SAME)
        vector = _squared(square)
    if vector is None:
        return None
    return Divisor(vector, axes, call.function == "mean", (), (*steps, *inside))


def _squared(call: Call | None) -> str | None:
    """The value whose square a call computes."""
    if call is None:
        return None
    by_pow = call.function == "pow" and call.number(1) == 2.0
    by_mul = call.function == "mul" and call.name(0) == call.name(1)
    return call.name(0) if by_pow or by_mul or call.function == "square" else None


def _with_least(call: Call) -> tuple[str | None, float | None]:
    """The operand and the number of: x + number, max(x, number), clamp(x, min=number)."""
    if call.function in ("add", "maximum"):
        if len(call.operands) != 2 or call.factor != 1.0:
            return None, None
        for x, other in ((0, 1), (1, 0)):
            number = call.number(other)
            if number is not None and number > 0 and call.name(x) is not None:
                return call.name(x), number
    if call.function == "clamp" and len(call.operands) > 1:
        number = call.number(1)
        if (
            number is not None
            and number > 0
            and (len(call.operands) < 3 or call.operands[2] is None)
        ):
            return call.name(0), number
    return None, None


def _keeps_rank(call: Call) -> bool:
    """Whether a reduction keeps its axes, so that its result lines up with its operand again."""
    operand, result = call.value(0), call.result
    if operand is None or operand.shape is None or result.shape is None:
        return False
    return len(operand.shape) == len(result.shape)


def _behind(
    state: State, name: str | None, through: tuple[str, ...]
) -> tuple[Call | None, tuple[str, ...]]:
    """The call that makes `name`, behind moves, and the values on the way."""
    steps: list[str] = []
    call = functions.maker(state.graph, name)
    while call is not None and name is not None:
        if state.graph.values[name].dtype != "float32":
            return None, ()  # a model that rounds by itself
        steps.append(name)
        if call.function not in through:
            break
        name = call.name(0)
        call = functions.maker(state.graph, name)
    return call, tuple(steps)


def _same(state: State, a: str, b: str) -> bool:
    """Whether two values have the same elements in the same places."""
    return _origin(state, a) == _origin(state, b)


def _origin(state: State, name: str) -> str:
    call = functions.maker(state.graph, name)
    while call is not None and call.function in _SAME and call.name(0) is not None:
        source = call.value(0)
        if source is None or source.dtype != "float32":
            break
        name = source.name
        call = functions.maker(state.graph, name)
    return name


def _weighted_mean(state: State, over: str | None, under: str | None, found: Abstract) -> Abstract:
    """sum(x * w) over sum(w), perhaps with a least value, for whole numbers w >= 0, such as a mask:
    a mean of some of x, or zero.
    """
    bottom, below = _behind(state, under, _SPREAD)
    least = math.inf
    if bottom is not None and bottom.function != "sum":
        inner, number = _with_least(bottom)
        least = number if number is not None and bottom.function != "add" else 0.0
        bottom, more = _behind(state, inner, _SPREAD)
        below = (*below, *more)
    top, above = _behind(state, over, _SAME)
    if bottom is None or top is None or bottom.function != "sum" or top.function != "sum":
        return found
    product, inside = _behind(state, top.name(0), _SAME)
    weights, axes = bottom.name(0), bottom.axes()
    if product is None or product.function != "mul" or weights is None or axes != top.axes():
        return found
    factors = [product.name(0), product.name(1)]
    same = [f is not None and _same(state, f, weights) for f in factors]
    values = factors[1] if same[0] else factors[0] if same[1] else None
    w, whole = state.of(weights), state.of(product.node.outputs[0]).dims
    if values is None or axes is None or not w.whole or w.worst[0] < 0:
        return found
    if w.dims is None or whole is None or len(w.dims) != len(whole):
        return found
    if any(w.dims[axis] != whole[axis] for axis in axes):  # it stands for several of x
        return found
    vanishes = any(state.rounded(name) for name in below) and _constant_in_low(state, least) <= 0
    n, low = count(whole, axes), state.low
    steps = len(above) + len(inside) + len(below) + 4
    keeps = 1 - steps * low.unit - 2 * gamma(n)
    if vanishes or not keeps > 0.5:
        return found
    largest = state.of(values).largest / keeps + n * low.smallest
    return within(found, -largest, largest) if math.isfinite(largest) else found


def _softmax(state: State, x: str | None, under: str | None, found: Abstract) -> Abstract:
    """exp(x - max(x)) over its sum: not negative, and adding up to one."""
    total, _ = _behind(state, under, _SPREAD)
    if total is None or total.function != "sum" or x is None or total.name(0) is None:
        return found
    axes, summed = total.axes(), total.name(0) or ""
    if not _same(state, x, summed) or axes is None or len(axes) != 1 or not _keeps_rank(total):
        return found
    exponential, _ = _behind(state, x, _SAME)
    if exponential is None or exponential.function != "exp":
        return found
    below, _ = _behind(state, exponential.name(0), _SAME)
    if below is None or below.function != "sub" or below.factor != 1.0:
        return found
    largest, _ = _behind(state, below.name(1), _SPREAD)
    scores = below.name(0)
    if largest is None or largest.function != "amax" or scores is None or largest.name(0) is None:
        return found
    if not _same(state, scores, largest.name(0) or "") or largest.axes() != axes:
        return found
    dims = state.of(summed).dims
    if dims is None or found.dims is None or len(dims) != len(found.dims):
        return found
    mass = _softmax_mass(state, scores, count(dims, axes))
    if mass is None:
        return found
    narrowed = within(found, 0.0, mass)
    return replace(narrowed, mass=Norm(axes[0] - len(dims), lambda: np.asarray(mass)))


def _softmax_mass(state: State, scores: str, n: float) -> float | None:
    """What the quotients add up to at most; None where the sum could vanish."""
    low = state.low
    apart = 0.0  # by how much the largest score, read twice, can differ from itself
    if state.read_apart(scores):
        apart = 2.1 * low.unit * state.of(scores).largest + 2 * low.smallest
    least = math.exp(-apart) * (1 - low.unit) - n * low.smallest / 2
    if not least > 0.1:
        return None
    keeps = (1 - gamma(n)) * (1 - low.unit) - low.smallest / 2 / least - FUSED
    return (1 + 2.1 * low.unit + 1.5 * n * low.smallest / least) / keeps if keeps > 0.5 else None
