"""Transfer functions of functions of one number, element by element."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special

from ampconvert.functions import Call
from ampconvert.ranges.domain import Abstract, Array, Dims, build
from ampconvert.ranges.rounding import CURVE, STEP, outward, times
from ampconvert.ranges.transfer import Results, State, result_dims, transfer
from ampconvert.ranges.transfer_arithmetic import add, inverse

Curve = Callable[[Any], Any]
_NEAR = 1e-6  # absolute error of a kernel that approximates a bounded curve


def _softplus(x: Any) -> Any:
    return np.logaddexp(0.0, x)


def _softsign(x: Any) -> Any:
    return 1 - 1 / (1 + np.maximum(x, 0.0)) + 1 / (1 - np.minimum(x, 0.0)) - 1


# Increasing functions, with the least and the largest number that a kernel of theirs gives.
_INCREASING: dict[str, tuple[Curve, float, float]] = {
    "exp": (np.exp, 0.0, math.inf),
    "exp2": (np.exp2, 0.0, math.inf),
    "expm1": (np.expm1, -1.0, math.inf),
    "sinh": (np.sinh, -math.inf, math.inf),
    "asin": (lambda x: np.arcsin(np.clip(x, -1, 1)), -math.pi / 2, math.pi / 2),
    "atan": (np.arctan, -math.pi / 2, math.pi / 2),
    "tanh": (np.tanh, -1.0, 1.0),
    "sigmoid": (special.expit, 0.0, 1.0),
    "log_sigmoid": (lambda x: -_softplus(-x), -math.inf, 0.0),
    "erf": (special.erf, -1.0, 1.0),
    "softplus": (_softplus, 0.0, math.inf),
    "softsign": (_softsign, -1.0, 1.0),
}  # fmt: skip


@transfer(*_INCREASING)
def _increasing(state: State, call: Call) -> Results:
    x = state.operand(call, 0)
    if x is None:
        return None
    curve, least, most = _INCREASING[call.function]
    if call.function == "softplus" and call.attr("beta", default=1) != 1:
        return None
    lo, hi = x.lo, x.hi
    if x.hidden is not None:
        lo = np.full_like(lo, -np.inf)
    with np.errstate(over="ignore", invalid="ignore"):
        low, high = outward(curve(lo), curve(hi), CURVE, 0.0)
    if math.isfinite(most):
        low, high = low - _NEAR, high + _NEAR
    # Kernels of a curve that ends at 1 give the next larger number as well.
    least = least if least == 0 else least * (1 + CURVE)
    made = build(result_dims(call), np.maximum(low, least), np.minimum(high, most * (1 + CURVE)))
    if call.function == "log_sigmoid" and len(call.node.outputs) > 1:
        return [made, None]
    return made


@transfer("log", "log2", "log10", "log1p", "sqrt")
def _of_positive(state: State, call: Call) -> Results:
    """Unknown where the operand may leave the domain; zero gives a logarithm without lower end."""
    x = state.plain(call, 0)
    if x is None:
        return None
    shift = 1.0 if call.function == "log1p" else 0.0
    if x.worst[0] + shift < 0:
        return None
    curve: Any = getattr(np, call.function)
    with np.errstate(divide="ignore"):
        low, high = outward(curve(x.lo), curve(x.hi), CURVE)
    return build(result_dims(call), low, high)


@transfer("rsqrt")
def _rsqrt(state: State, call: Call) -> Results:
    x = state.plain(call, 0)
    if x is None or x.worst[0] < 0:
        return None
    with np.errstate(divide="ignore"):
        low, high = outward(1 / np.sqrt(x.hi), 1 / np.sqrt(x.lo), CURVE)
    return build(result_dims(call), np.maximum(low, 0), high)


@transfer("reciprocal")
def _reciprocal(state: State, call: Call) -> Results:
    x = state.plain(call, 0)
    if x is None:
        return None
    found = inverse(x)
    return build(result_dims(call), *outward(found.lo, found.hi, CURVE))


@transfer("neg")
def _neg(state: State, call: Call) -> Results:
    x = state.plain(call, 0)
    if x is None:
        return None
    return build(result_dims(call), -x.hi, -x.lo, ball=x.ball, mass=x.mass, whole=x.whole)


@transfer("abs")
def _abs(state: State, call: Call) -> Results:
    x = state.plain(call, 0)
    if x is None:
        return None
    lo = np.where((x.lo <= 0) & (x.hi >= 0), 0.0, np.minimum(np.abs(x.lo), np.abs(x.hi)))
    return build(result_dims(call), lo, x.magnitude, ball=x.ball, mass=x.mass, whole=x.whole)


@transfer("relu", "relu6", "leaky_relu", "prelu")
def _relu(state: State, call: Call) -> Results:
    """Increasing in pieces; a slope in [-1, 1] doesn't lengthen any vector."""
    x = state.operand(call, 0) if call.function in ("relu", "relu6") else state.plain(call, 0)
    if x is None:
        return None
    zero = np.zeros(())
    slope: tuple[Array, Array] = (zero, zero)
    if call.function == "leaky_relu":
        given = call.attr("alpha", "negative_slope", default=0.01)
        if not isinstance(given, int | float):
            return None
        number = state.number(float(given))
        slope = (number.lo, number.hi)
    elif call.function == "prelu":
        weight = state.plain(call, 1)
        if weight is None:
            return None
        slope = _along_channels(call, weight, x)
    ends = [times(s, b) for s in slope for b in (np.minimum(x.lo, 0), np.minimum(x.hi, 0))]
    low = np.where(x.lo >= 0, x.lo, np.minimum.reduce(ends))
    above = np.where(x.hi > 0, x.hi, -np.inf)
    high = np.where(x.lo >= 0, x.hi, np.maximum(np.maximum.reduce(ends), above))
    if x.hidden is not None:
        low = np.minimum(low, 0.0)
    if call.function == "relu6":
        low, high = np.minimum(low, 6), np.minimum(high, 6)
    steep = float(np.maximum(np.abs(slope[0]), np.abs(slope[1])).max())
    exact = call.function in ("relu", "relu6")
    return build(
        result_dims(call), *outward(low, high, 0.0 if exact else STEP),
        ball=x.ball if steep <= 1 else None, mass=x.mass if steep <= 1 else None,
        whole=x.whole and exact,
    )  # fmt: skip


def _along_channels(call: Call, weight: Abstract, x: Abstract) -> tuple[Array, Array]:
    """The slopes where they belong: ATen gives one for each channel, along axis 1."""
    lo, hi = weight.lo, weight.hi
    if call.node.op.startswith("aten::") and lo.ndim == 1 and lo.size > 1 and x.dims is not None:
        shape = (-1,) + (1,) * (len(x.dims) - 2)
        return lo.reshape(shape), hi.reshape(shape)
    return lo, hi


def _elu(call: Call) -> tuple[float, float, float] | None:
    """Scale above zero, and scale and rate below it: s (exp(rate x) - 1)."""
    if call.function == "selu":
        alpha = float(call.attr("alpha", default=1.6732632423543772))
        gamma = float(call.attr("gamma", default=1.0507009873554805))
        return gamma, alpha * gamma, 1.0
    if call.function == "celu":
        alpha = float(call.attr("alpha", default=1.0))
        return (1.0, alpha, 1 / alpha) if alpha > 0 else None
    above, rate = (float(call.attr(n, default=1)) for n in ("scale", "input_scale"))
    return above, float(call.attr("alpha", default=1.0)) * above, rate


@transfer("elu", "celu", "selu")
def _exponential_linear(state: State, call: Call) -> Results:
    x, shape = state.operand(call, 0), _elu(call)
    if x is None or shape is None or min(shape) < 0:
        return None
    above, below, rate = shape

    def curve(v: Array) -> Array:
        return np.where(v > 0, above * v, below * np.expm1(rate * np.minimum(v, 0.0)))

    lo = np.full_like(x.lo, -np.inf) if x.hidden is not None else x.lo
    low, high = outward(curve(lo), curve(x.hi), CURVE)
    return build(result_dims(call), np.maximum(low, -below * (1 + CURVE)), high)


# Curves that fall to one minimum and rise again towards x: where it is, and its value.
_UNIMODAL: dict[str, tuple[Curve, float, float]] = {
    "gelu": (lambda x: x * special.ndtr(x), -0.7517916, -0.1699712),
    "silu": (lambda x: x * special.expit(x), -1.2784645, -0.2784646),
    "mish": (lambda x: x * np.tanh(_softplus(x)), -1.1924312, -0.3088440),
    "hardswish": (lambda x: x * np.clip(x / 6 + 0.5, 0, 1), -1.5, -0.375),
}


@transfer(*_UNIMODAL)
def _unimodal(state: State, call: Call) -> Results:
    """|f(x)| <= |x| for all of them, so no vector gets longer."""
    x = state.operand(call, 0)
    if x is None:
        return None
    shift = state.plain(call, 1) if len(call.operands) > 1 else None
    if shift is not None:  # a fused bias
        x = add(x, shift, x.dims)
    curve, at, least = _UNIMODAL[call.function]
    sharp = call.attr("alpha", default=1.0)
    if call.function in ("gelu", "silu") and "alpha" in call.node.attrs:
        if not isinstance(sharp, int | float) or sharp <= 0:
            return None
        rate = float(sharp)
        curve, at, least = (
            lambda v: v * special.expit(rate * v),
            -1.2784645 / rate,
            -0.2784646 / rate,
        )
    lo = np.full_like(x.lo, -np.inf) if x.hidden is not None else x.lo
    with np.errstate(invalid="ignore"):
        ends = [np.nan_to_num(curve(e), nan=0.0, posinf=np.inf) for e in (lo, x.hi)]
    low = np.where((lo <= at) & (x.hi >= at), least, np.minimum(*ends))
    # tanh in place of erf moves gelu by less than 5e-4.
    low, high = outward(low, np.maximum(*ends), CURVE, 1e-3)
    high = np.minimum(high, np.maximum(x.hi, 0.0) * (1 + CURVE))
    ball = None if x.hidden is not None or x.ball is None else x.ball.scaled(1 + CURVE)
    return build(result_dims(call), np.maximum(low, least - 1e-3), high, ball=ball)


@transfer("hardsigmoid")
def _hardsigmoid(state: State, call: Call) -> Results:
    return build(result_dims(call), 0.0, 1.0)


@transfer("hardtanh")
def _hardtanh(state: State, call: Call) -> Results:
    x = state.operand(call, 0)
    low, high = call.attr("min_val", default=-1.0), call.attr("max_val", default=1.0)
    return None if x is None else clamp(x, float(low), float(high), result_dims(call), state)


@transfer("clamp")
def _clamp(state: State, call: Call) -> Results:
    x = state.operand(call, 0)
    if x is None:
        return None
    low, high = state.plain(call, 1), state.plain(call, 2)
    given = [call.attr(n) for n in ("min", "max")]  # opsets before 11 have them as attributes
    low = low if low is not None or given[0] is None else state.number(float(given[0]))
    high = high if high is not None or given[1] is None else state.number(float(given[1]))
    return _limited(x, low, high, result_dims(call))


def clamp(x: Abstract, low: float, high: float, dims: Dims, state: State) -> Abstract:
    """Bounds of min(max(x, low), high)."""
    return _limited(x, state.number(low), state.number(high), dims)


def _limited(x: Abstract, low: Abstract | None, high: Abstract | None, dims: Dims) -> Abstract:
    lo, hi, hidden = x.lo, x.hi, x.hidden
    if low is not None:
        if hidden is not None and low.worst[0] > -math.inf:
            lo, hidden = np.full_like(lo, -np.inf), None
        lo, hi = np.maximum(lo, low.lo), np.maximum(hi, low.hi)
    if high is not None:
        lo, hi = np.minimum(lo, high.lo), np.minimum(hi, high.hi)
    around_zero = (low is None or low.worst[1] <= 0) and (high is None or high.worst[0] >= 0)
    ball, mass = (x.ball, x.mass) if around_zero else (None, None)
    whole = x.whole and low is None and high is None
    return build(dims, lo, hi, ball=ball, mass=mass, hidden=hidden, whole=whole)


@transfer("sin", "cos")
def _wave(state: State, call: Call) -> Results:
    return build(result_dims(call), *outward(-1.0, 1.0, CURVE))


@transfer("acos")
def _acos(state: State, call: Call) -> Results:
    return build(result_dims(call), 0.0, math.pi * (1 + CURVE))


@transfer("cosh")
def _cosh(state: State, call: Call) -> Results:
    x = state.plain(call, 0)
    if x is None:
        return None
    near = np.where((x.lo <= 0) & (x.hi >= 0), 0.0, np.minimum(np.abs(x.lo), np.abs(x.hi)))
    with np.errstate(over="ignore"):
        return build(result_dims(call), *outward(np.cosh(near), np.cosh(x.magnitude), CURVE))


@transfer("tan")
def _tan(state: State, call: Call) -> Results:
    """Known only within the branch around zero."""
    x = state.plain(call, 0)
    if x is None or x.largest >= math.pi / 2 - 1e-3:
        return None
    return build(result_dims(call), *outward(np.tan(x.lo), np.tan(x.hi), CURVE))


@transfer("floor", "ceil", "round", "trunc", "sign")
def _stepped(state: State, call: Call) -> Results:
    x = state.plain(call, 0)
    if x is None:
        return None
    if call.attr("decimals"):
        return build(result_dims(call), x.lo - 1, x.hi + 1)
    curve: Any = getattr(np, "rint" if call.function == "round" else call.function)
    return build(result_dims(call), curve(x.lo), curve(x.hi), whole=True)
