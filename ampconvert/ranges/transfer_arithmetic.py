"""Transfer functions of arithmetic with two or three operands."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from ampconvert.functions import Call
from ampconvert.graph import Dim
from ampconvert.ranges.domain import (
    Abstract,
    Array,
    Dims,
    Image,
    Norm,
    build,
    hidden_of,
    hull,
    radius_along,
    same_dim,
    waiting,
    within,
)
from ampconvert.ranges.rounding import CURVE, STEP, frobenius, outward, round_to, step, times
from ampconvert.ranges.transfer import Results, State, result_dims, transfer

_LEAST_FACTOR = 2.0**-10  # that leaves "minus infinity" what it means


@transfer("add", "sub")
def _add(state: State, call: Call) -> Results:
    a, b = state.operand(call, 0), state.operand(call, 1)
    if a is None or b is None:
        return None
    sign = 1.0 if call.function == "add" else -1.0
    if call.function == "sub":
        b = b.shown()
    if not math.isfinite(call.factor):
        return None
    b = b if sign * call.factor == 1.0 else scale(b, sign * call.factor)
    return add(a, b, result_dims(call))


def add(a: Abstract, b: Abstract, dims: Dims) -> Abstract:
    """Bounds of a + b."""
    with np.errstate(invalid="ignore"):
        lo, hi = a.lo + b.lo, a.hi + b.hi
    hidden = None
    if a.hidden is not None or b.hidden is not None:
        # A hidden element of one meets any element of the other.
        floors = [p.hidden + min(q.worst[0], q.hidden or 0.0)
                  for p, q in ((a, b), (b, a)) if p.hidden is not None]  # fmt: skip
        hidden = min(floors)
    whole = a.whole and b.whole
    return build(
        dims, *outward(lo, hi, step(whole, lo, hi)), ball=_added_ball(a, b, dims),
        image=_shifted(a, b, dims) or _shifted(b, a, dims), hidden=hidden, whole=whole,
    )  # fmt: skip


def _added_ball(a: Abstract, b: Abstract, dims: Dims) -> Norm | None:
    """Norms add up; an operand without a ball has the one of its interval."""
    axis = next((p.ball.axis for p in (a, b) if p.ball is not None), None)
    if axis is None or dims is None:
        return None
    size = dims[axis]

    def radius() -> Array:
        return (_spread_radius(a, axis, size) + _spread_radius(b, axis, size)) * (1 + STEP)

    return waiting(axis, radius, [a.ball, b.ball])


def _spread_radius(x: Abstract, axis: int, size: Dim) -> Array:
    """The norm of `x` along an axis of the result, where it may be broadcast."""
    if x.dims is not None and len(x.dims) >= -axis and same_dim(x.dims[axis], size):
        return radius_along(x, axis, size)
    return radius_along(build(x.dims, x.lo, x.hi), axis, size)


def _shifted(a: Abstract, b: Abstract, dims: Dims) -> Image | None:
    """An image plus a vector that is known but for rounding: a bias."""
    if a.image is None or b.lo.size != max(b.lo.shape[-1:], default=1) or dims is None:
        return None
    n = a.image.center.size
    lo, hi = b.lo.reshape(-1), b.hi.reshape(-1)
    if dims[-1] != n or lo.size not in (1, n) or not (np.isfinite(lo) & np.isfinite(hi)).all():
        return None
    if a.dims is None or len(a.dims) != len(dims):
        return None
    middle, doubt = (lo + hi) / 2, np.broadcast_to((hi - lo) / 2, (n,))
    size = float(np.linalg.norm(a.magnitude)) if a.lo.shape[-1] == n else a.largest * math.sqrt(n)
    fuzz = frobenius(doubt) + STEP * (size + float(np.linalg.norm(middle)) * math.sqrt(n))
    return a.image.affine(1.0, np.broadcast_to(middle, (n,)), fuzz)


def scale(x: Abstract, factor: float) -> Abstract:
    """Bounds of factor * x."""
    if factor == 1.0:
        return x
    shown = x if factor > 0 else x.shown()
    with np.errstate(invalid="ignore"):
        ends = times(shown.lo, factor), times(shown.hi, factor)
    lo, hi = np.minimum(*ends), np.maximum(*ends)
    exact = x.whole and float(factor).is_integer()
    image = x.image
    if image is not None:
        image = image.affine(factor, 0.0, STEP * abs(factor) * float(np.linalg.norm(x.magnitude))
                             * math.sqrt(image.center.size))  # fmt: skip
    widened = abs(factor) * (1 + STEP)
    return build(
        x.dims, *outward(lo, hi, step(exact, lo, hi)),
        ball=None if x.ball is None else x.ball.scaled(widened),
        mass=None if x.mass is None else x.mass.scaled(widened), image=image,
        hidden=None if shown.hidden is None else shown.hidden * factor, whole=exact,
    )  # fmt: skip


@transfer("mul")
def _mul(state: State, call: Call) -> Results:
    from ampconvert.ranges.patterns import narrowed_product

    a, b = state.operand(call, 0), state.operand(call, 1)
    if a is None or b is None:
        return None
    same = call.name(0) is not None and call.name(0) == call.name(1)
    found = squared(a.shown(), result_dims(call)) if same else mul(a, b, result_dims(call))
    return narrowed_product(state, call, found)


def mul(a: Abstract, b: Abstract, dims: Dims) -> Abstract:
    """Bounds of a * b."""
    masked = _masked_product(a, b, dims) or _masked_product(b, a, dims)
    if masked is not None:
        return masked
    a, b = a.shown(), b.shown()
    ends = [times(x, y) for x in (a.lo, a.hi) for y in (b.lo, b.hi)]
    lo, hi = np.minimum.reduce(ends), np.maximum.reduce(ends)
    whole = a.whole and b.whole
    norms: dict[str, Norm | None] = {}
    for name in ("ball", "mass"):
        norms[name] = _product_norm(a, b, name, dims) or _product_norm(b, a, name, dims)
    return build(dims, *outward(lo, hi, step(whole, lo, hi)), whole=whole,
                 image=_weighted(a, b, dims) or _weighted(b, a, dims), **norms)  # fmt: skip


def _product_norm(a: Abstract, b: Abstract, name: str, dims: Dims) -> Norm | None:
    """||a * b|| <= ||a|| max|b|, where `a` has the norm of that name."""
    norm: Norm | None = getattr(a, name)
    if norm is None or dims is None or a.dims is None:
        return None
    if not same_dim(a.dims[norm.axis], dims[norm.axis]):
        return None
    axis = norm.axis
    magnitude = b.magnitude
    if magnitude.ndim >= -axis:
        magnitude = magnitude.max(axis=axis, keepdims=True)
    other = b.ball if name == "ball" else None
    if other is not None and other.axis == axis and b.dims is not None:
        lengths = (
            a.magnitude.max(axis=axis, keepdims=True) if a.magnitude.ndim >= -axis else a.magnitude
        )
        if same_dim(b.dims[axis], dims[axis]):
            return waiting(axis, lambda: np.minimum(times(norm.radius, magnitude),
                           times(other.radius, lengths)) * (1 + STEP), [norm, other])  # fmt: skip
    return waiting(axis, lambda: times(norm.radius, magnitude) * (1 + STEP), [norm])


def _weighted(a: Abstract, b: Abstract, dims: Dims) -> Image | None:
    """An image times a vector that is known but for rounding: the weight of a norm."""
    if a.image is None or dims is None or b.lo.size != max(b.lo.shape[-1:], default=1):
        return None
    n = a.image.center.size
    lo, hi = b.lo.reshape(-1), b.hi.reshape(-1)
    if dims[-1] != n or lo.size not in (1, n) or not (np.isfinite(lo) & np.isfinite(hi)).all():
        return None
    if a.dims is None or len(a.dims) != len(dims):
        return None
    middle, doubt = np.broadcast_to((lo + hi) / 2, (n,)), float(((hi - lo) / 2).max())
    length = float(np.max(radius_along(a, -1, n)))
    if not math.isfinite(length):
        return None
    largest = float(np.abs(middle).max(initial=0.0)) + doubt
    return a.image.affine(middle, 0.0, (doubt + STEP * largest) * length)


def _masked_product(a: Abstract, b: Abstract, dims: Dims) -> Abstract | None:
    """What means minus infinity, times a whole number or one that is not small: as low, or 0."""
    if a.hidden is None or b.hidden is not None:
        return None
    lo, hi = b.worst
    if lo < 0 or not math.isfinite(hi) or (lo < _LEAST_FACTOR and not b.whole):
        return None
    plain = mul(replace(a, hidden=None), b, dims)
    return replace(
        build(dims, np.minimum(plain.lo, 0.0), np.maximum(plain.hi, 0.0)),
        hidden=a.hidden * max(hi, 1.0),
    )


@transfer("div")
def _div(state: State, call: Call) -> Results:
    from ampconvert.ranges.patterns import narrowed_quotient

    a, b = state.operand(call, 0), state.plain(call, 1)
    if a is None or b is None:
        return None
    dims = result_dims(call)
    mode = call.attr("rounding_mode")
    over = inverse(b)
    if a.hidden is not None and b.worst[0] <= 0:
        a = a.shown()
    found = mul(a, over, dims)
    if mode is not None or not call.result.dtype.startswith(("float", "bfloat")):
        return build(dims, np.floor(found.lo), np.ceil(found.hi), whole=True)
    return narrowed_quotient(state, call, found)


def inverse(x: Abstract) -> Abstract:
    """Bounds of 1 / x: unknown wherever `x` may be zero."""
    crosses = (x.lo <= 0) & (x.hi >= 0)
    with np.errstate(divide="ignore"):
        lo = np.where(crosses, -np.inf, 1.0 / np.where(crosses, 1.0, x.hi))
        hi = np.where(crosses, np.inf, 1.0 / np.where(crosses, 1.0, x.lo))
    return build(x.dims, *outward(lo, hi, STEP))


@transfer("square")
def _square(state: State, call: Call) -> Results:
    x = state.plain(call, 0)
    return None if x is None else squared(x, result_dims(call))


def squared(x: Abstract, dims: Dims) -> Abstract:
    """Bounds of x * x; the squares of a vector add up to its squared length."""
    ends = np.square(x.lo), np.square(x.hi)
    crosses = (x.lo <= 0) & (x.hi >= 0)
    lo = np.where(crosses, 0.0, np.minimum(*ends))
    ball = x.ball
    mass = None
    if ball is not None:
        mass = Norm(ball.axis, lambda: np.square(ball.radius) * (1 + STEP))
    exact = x.whole
    return build(dims, *outward(lo, np.maximum(*ends), step(exact, *ends)), mass=mass,
                 whole=x.whole)  # fmt: skip


@transfer("pow")
def _pow(state: State, call: Call) -> Results:
    x, exponent = state.plain(call, 0), call.number(1)
    dims = result_dims(call)
    if x is None:
        return None
    if exponent is None:
        return _power_of_constant(state, call, x, dims)
    if exponent == 2:
        return squared(x, dims)
    # The exponent may be rounded like any constant.
    exponents = {exponent, float(round_to(exponent, state.low))}
    found = [power(x, e, dims) for e in exponents]
    known = [f for f in found if f is not None]
    return hull(dims, known) if len(known) == len(found) else None


def power(x: Abstract, exponent: float, dims: Dims) -> Abstract | None:
    """Bounds of x ** exponent for one exponent; None where x may lie outside its domain."""
    integer = float(exponent).is_integer()
    lo, hi = x.worst
    if exponent == 1:
        return build(dims, x.lo, x.hi)
    if exponent < 0 and lo <= 0 <= hi:
        return None
    if not integer and lo < 0:
        return None
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        ends = np.power(x.lo, exponent), np.power(x.hi, exponent)
    low, high = np.minimum(*ends), np.maximum(*ends)
    if integer and exponent % 2 == 0 and exponent > 0:
        low = np.where((x.lo <= 0) & (x.hi >= 0), 0.0, low)
    return build(dims, *outward(low, high, CURVE))


def _power_of_constant(state: State, call: Call, x: Abstract, dims: Dims) -> Results:
    """c ** y for a positive number c."""
    exponent = state.plain(call, 1)
    if exponent is None or x.worst[0] <= 0:
        return None
    with np.errstate(over="ignore"):
        ends = [np.power(a, b) for a in (x.lo, x.hi) for b in (exponent.lo, exponent.hi)]
    return build(dims, *outward(np.minimum.reduce(ends), np.maximum.reduce(ends), CURVE))


@transfer("maximum", "minimum")
def _extreme(state: State, call: Call) -> Results:
    parts = [state.operand(call, i) for i in range(len(call.operands))]
    known = [p for p in parts if p is not None]
    if not known:
        return None
    pick: Any = np.maximum if call.function == "maximum" else np.minimum
    lo, hi = known[0].lo, known[0].hi
    for part in known[1:]:
        lo, hi = pick(lo, part.lo), pick(hi, part.hi)
    hidden = hidden_of(known)
    if hidden is not None and call.function == "maximum":
        # An element that is hidden in one is what the other has there.
        lo = np.minimum.reduce([np.broadcast_to(p.lo, lo.shape) for p in known])
        if any(p.hidden is None for p in known):
            hidden = None
    return build(result_dims(call), lo, hi, hidden=hidden, whole=all(p.whole for p in known))


@transfer("add_all", "mean_all")
def _add_all(state: State, call: Call) -> Results:
    dims = result_dims(call)
    parts = [state.operand(call, i) for i in range(len(call.operands))]
    known = [p for p in parts if p is not None]
    if not known:
        return None
    total = known[0]
    for part in known[1:]:
        joint = np.broadcast_shapes(total.lo.shape, part.lo.shape)
        total = add(total, part, dims if len(joint) == len(dims or ()) else None)
    if call.function == "mean_all":
        total = scale(total.shown(), 1.0 / len(known))
    return build(dims, total.lo, total.hi, hidden=total.hidden)


@transfer("remainder")
def _remainder(state: State, call: Call) -> Results:
    """Its magnitude stays below the divisor's, and for fmod below the operand's."""
    divisor = state.plain(call, 1)
    if divisor is None:
        return None
    limit = divisor.magnitude
    return build(result_dims(call), -limit, limit, whole=divisor.whole)


@transfer("atan2")
def _atan2(state: State, call: Call) -> Results:
    return build(result_dims(call), *outward(-math.pi, math.pi, CURVE))


@transfer("addcmul")
def _addcmul(state: State, call: Call) -> Results:
    """self + value * tensor1 * tensor2."""
    a, b, c = (state.plain(call, i) for i in range(3))
    dims = result_dims(call)
    if a is None or b is None or c is None or not math.isfinite(call.factor):
        return None
    return add(a, scale(mul(b, c, dims), call.factor), dims)


@transfer("lerp")
def _lerp(state: State, call: Call) -> Results:
    """self + weight * (end - self)."""
    a, b, w = (state.plain(call, i) for i in range(3))
    dims = result_dims(call)
    if a is None or b is None or w is None:
        return None
    found = add(a, mul(w, add(b, scale(a, -1.0), dims), dims), dims)
    if w.worst[0] >= 0 and w.worst[1] <= 1:
        ends = hull(dims, [a, b])
        found = within(found, *outward(ends.lo, ends.hi, CURVE))
    return found
