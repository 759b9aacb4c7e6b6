"""Transfer functions of reductions, running sums and extremes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ampconvert.functions import Call
from ampconvert.ranges.domain import (
    Abstract,
    Array,
    Dims,
    Image,
    Norm,
    build,
    collapse,
    count,
    radius_along,
)
from ampconvert.ranges.reshapes import reshape
from ampconvert.ranges.rounding import CURVE, OUTWARD, STEP, gamma, outward, sqrt_up, step, times
from ampconvert.ranges.transfer import Results, State, result_dims, transfer


class Reduction:
    """One operand with the axes it is reduced along; arrays keep those with size 1."""

    def __init__(self, call: Call, x: Abstract) -> None:
        self.x = x
        self.axes = call.axes() if x.dims is not None else None
        if call.attr("noop_with_empty_axes") and not self._named(call):
            self.axes = ()
        self.terms = count(x.dims, self.axes) if x.dims is not None else math.inf
        self.error = gamma(self.terms) if math.isfinite(self.terms) else math.inf

    @staticmethod
    def _named(call: Call) -> bool:
        places = call.node.operand("axes")
        given = bool(places) and call.node.inputs[places[0]] is not None
        return given or call.attr("axes", "dim") is not None

    def total(self, array: Array) -> Array:
        """The sum of the bounds along the axes."""
        if self.axes is None or self.x.dims is None:
            return times(array, self.terms)
        alike = math.prod(
            [float(count(self.x.dims, [a])) for a in self.axes if array.shape[a] == 1]
        )
        return times(array.sum(axis=self.axes, keepdims=True), alike)

    def least(self, array: Array) -> Array:
        """The smallest of the bounds along the axes."""
        return np.asarray(array.min(axis=self.axes, keepdims=self.axes is not None))

    def most(self, array: Array) -> Array:
        """The largest of the bounds along the axes."""
        return np.asarray(array.max(axis=self.axes, keepdims=self.axes is not None))

    def norm(self, name: str) -> Norm | None:
        """A norm along exactly the reduced axis."""
        found: Norm | None = getattr(self.x, name)
        if found is None or self.axes is None or self.x.dims is None:
            return None
        return found if self.axes == (found.axis % len(self.x.dims),) else None

    def squares(self) -> Array:
        """The sum of squares along the axes."""
        found = self.total(np.square(self.x.magnitude)) * (1 + OUTWARD)
        ball = self.norm("ball")
        if ball is not None:
            found = np.minimum(found, np.square(ball.radius) * (1 + OUTWARD))
        return found

    def result(self, dims: Dims, lo: Array, hi: Array, **facts: Any) -> Abstract:
        """The Abstract of the result, whether it keeps the reduced axes or not."""
        if self.axes is None or self.x.dims is None:
            return build(dims, np.min(lo), np.max(hi))
        kept = tuple(1 if a in self.axes else d for a, d in enumerate(self.x.dims))
        return reshape(build(kept, lo, hi, **facts), dims)


@transfer("sum", "mean")
def _sum(state: State, call: Call) -> Results:
    x = state.plain(call, 0)
    if x is None:
        return None
    r = Reduction(call, x)
    size = r.total(x.magnitude)
    lo, hi = r.total(x.lo), r.total(x.hi)
    for name, factor in (("mass", 1.0), ("ball", math.sqrt(r.terms))):
        norm = r.norm(name)
        if norm is not None:
            size = np.minimum(size, times(norm.radius, factor))
    lo, hi = np.maximum(lo, -size), np.minimum(hi, size)
    if float(np.min(x.lo)) >= 0:
        lo = np.maximum(lo, 0.0)
    share = 1.0
    if call.function == "mean":
        if not math.isfinite(r.terms):
            return r.result(result_dims(call), *outward(r.least(x.lo), r.most(x.hi), CURVE))
        share = 1.0 / r.terms if r.terms else 1.0
    slack = times(size, r.error + STEP)
    lo, hi = (lo - slack) * share, (hi + slack) * share
    if call.function == "mean":
        lo, hi = np.maximum(lo, r.least(x.lo) - slack), np.minimum(hi, r.most(x.hi) + slack)
    if float(np.min(x.lo)) >= 0:  # a sum of numbers that are not negative is not either
        lo = np.maximum(lo, 0.0)
    whole = x.whole and call.function == "sum"
    return r.result(result_dims(call), lo, hi, ball=_summed_ball(r, share), whole=whole,
                    image=_summed_image(r, share))  # fmt: skip


def _summed_image(r: Reduction, share: float) -> Image | None:
    """The image of a ball is convex, so a mean of its vectors lies in it."""
    image, dims = r.x.image, r.x.dims
    if image is None or dims is None or r.axes is None or len(dims) - 1 in r.axes:
        return None
    factor = r.terms * share
    length = radius_along(r.x, -1, dims[-1])
    fuzz = (r.error + STEP) * float(length.max()) * factor
    return image.affine(factor, 0.0, fuzz) if math.isfinite(fuzz) else None


def _summed_ball(r: Reduction, share: float) -> Norm | None:
    """A sum of vectors is as long as all together at most."""
    ball = r.x.ball
    if ball is None or r.axes is None or r.x.dims is None or ball.axis % len(r.x.dims) in r.axes:
        return None
    factor = r.terms * share * (1 + r.error + STEP)
    axes = r.axes

    def radius() -> Array:
        found = ball.radius
        full = found.reshape((1,) * (len(r.x.dims or ()) - found.ndim) + found.shape)
        return np.asarray(full.max(axis=axes, keepdims=True) * factor)

    return Norm(ball.axis, radius)


@transfer("amax", "amin")
def _extreme(state: State, call: Call) -> Results:
    """Hidden elements are the largest only where all are hidden: then the result is too."""
    x = state.operand(call, 0)
    if x is None:
        return None
    r = Reduction(call, x)
    pick = r.most if call.function == "amax" else r.least
    hidden = x.hidden
    if call.function == "amin" and hidden is not None:
        return r.result(result_dims(call), np.asarray(-np.inf), pick(x.hi))
    made = r.result(result_dims(call), pick(x.lo), pick(x.hi), hidden=hidden, whole=x.whole)
    return [made, *(None for _ in call.node.outputs[1:])]


@transfer("prod")
def _prod(state: State, call: Call) -> Results:
    x = state.plain(call, 0)
    if x is None:
        return None
    r = Reduction(call, x)
    largest = float(x.largest)
    if not math.isfinite(r.terms) or not math.isfinite(largest):
        return None
    power = (
        max(largest**r.terms, largest) if r.terms * math.log(max(largest, 1.0)) < 700 else np.inf
    )
    power *= 1 + r.error + STEP
    return build(result_dims(call), 0.0 if x.worst[0] >= 0 else -power, power, whole=x.whole)


@transfer("l1_norm", "l2_norm", "vector_norm", "sum_square")
def _norm(state: State, call: Call) -> Results:
    x = state.plain(call, 0)
    if x is None:
        return None
    r = Reduction(call, x)
    order = {"l1_norm": 1.0, "l2_norm": 2.0, "sum_square": 2.0}.get(call.function)
    if order is None:
        given = call.attr("ord", "p", default=2.0)
        order = float(given) if isinstance(given, int | float) else math.nan
    dims = result_dims(call)
    if order == math.inf:
        return r.result(dims, np.zeros(()), r.most(x.magnitude))
    if order == 1:
        found = r.total(x.magnitude)
        mass = r.norm("mass")
        found = found if mass is None else np.minimum(found, mass.radius)
        return r.result(dims, np.zeros_like(found), found * (1 + r.error + STEP))
    if order != 2:
        return None
    high = r.squares() * (1 + r.error + STEP)
    least = np.where((x.lo <= 0) & (x.hi >= 0), 0.0,
                     np.square(np.minimum(np.abs(x.lo), np.abs(x.hi))))  # fmt: skip
    low = r.total(least)
    low = np.maximum(low * (1 - min(r.error + STEP, 1.0)), 0.0)
    if call.function == "sum_square":
        return r.result(dims, low, high)
    return r.result(dims, np.sqrt(low) * (1 - CURVE), sqrt_up(high) * (1 + CURVE))


@transfer("logsumexp", "log_sum")
def _log_sum(state: State, call: Call) -> Results:
    """Between the largest element and that plus the logarithm of the count."""
    x = state.operand(call, 0) if call.function == "logsumexp" else state.plain(call, 0)
    if x is None:
        return None
    r = Reduction(call, x)
    dims = result_dims(call)
    if call.function == "log_sum":
        if x.worst[0] < 0:
            return None
        with np.errstate(divide="ignore"):
            return r.result(dims, *outward(np.log(r.total(x.lo)), np.log(r.total(x.hi)), CURVE,
                                           1e-6 + r.error))  # fmt: skip
    lo = np.full((), -np.inf) if x.hidden is not None else r.most(x.lo)
    hi = r.most(x.hi) + math.log(max(r.terms, 1.0))
    lo = np.broadcast_to(lo, hi.shape)
    return r.result(dims, *outward(lo, hi, CURVE, 1e-5 + r.error))


@transfer("var", "std", "var_mean", "std_mean")
def _variance(state: State, call: Call) -> Results:
    """At most the mean square, and a quarter of the squared width (Popoviciu)."""
    x = state.plain(call, 0)
    if x is None:
        return None
    r = Reduction(call, x)
    correction = call.attr("correction")
    if correction is None:
        correction = 0 if call.attr("unbiased") is False else 1
    free = r.terms - correction if isinstance(correction, int | float) else math.inf
    if not 0 < free < math.inf:
        return None
    width = r.most(x.hi) - r.least(x.lo)
    # Exported, it becomes steps of its own: the squares of what is left without the mean.
    state.inner[call.node.name] = float(np.square(width).max()) * (1 + r.error + CURVE)
    total = np.minimum(r.squares(), times(np.square(width) / 4, r.terms))
    high = total / free * (1 + r.error + 1e-4)
    if call.function.startswith("std"):
        high = sqrt_up(high) * (1 + CURVE)
    spread = r.result(result_dims(call), np.zeros_like(high), high)
    if not call.function.endswith("mean"):
        return spread
    slack = times(r.most(x.magnitude), r.error + STEP)
    mean = r.result(result_dims(call, 1), r.least(x.lo) - slack, r.most(x.hi) + slack)
    return [spread, mean]


@transfer("cumsum")
def _cumsum(state: State, call: Call) -> Results:
    x = state.plain(call, 0)
    if x is None or x.dims is None:
        return None
    axis = call.attr("dim", "axis")
    axes = (int(axis) % len(x.dims),) if isinstance(axis, int) else call.axes()
    if axes is None or len(axes) != 1:
        terms = count(x.dims, None)
        flat = collapse(x, range(len(x.dims)), x.dims)
    else:
        terms = count(x.dims, axes)
        flat = collapse(x, axes, x.dims)
    exact = step(x.whole, flat.magnitude * terms) == 0
    slack = times(flat.magnitude * terms, 0.0 if exact else gamma(terms) + STEP)
    lo = np.minimum(times(flat.lo, terms), np.minimum(flat.lo, 0.0)) - slack
    hi = np.maximum(times(flat.hi, terms), np.maximum(flat.hi, 0.0)) + slack
    if flat.worst[0] >= 0:
        lo = np.zeros_like(lo)
    return build(result_dims(call), lo, hi, whole=x.whole)


@transfer("topk")
def _topk(state: State, call: Call) -> Results:
    x = state.operand(call, 0)
    if x is None:
        return None
    values = build(result_dims(call), *x.worst, hidden=x.hidden, whole=x.whole)
    return [values, *(None for _ in call.node.outputs[1:])]
