"""Transfer functions of norms, softmax and attention: their results no longer depend on depth.

Fused kernels are taken to compute in float32 and to be off by FUSED of the result's bound at most.
"""

from __future__ import annotations

import math

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
    size_of,
)
from ampconvert.ranges.rounding import (
    CURVE,
    FUSED,
    OUTWARD,
    PRODUCT,
    STEP,
    gamma,
    outward,
    times,
)
from ampconvert.ranges.transfer import Results, State, result_dims, transfer
from ampconvert.ranges.transfer_arithmetic import add, mul


def unit_image(n: int, centered: bool, length: float, fuzz: float) -> Image:
    """Vectors of a length of at most `length`; `centered` ones add up to zero as well."""

    def times_centering(matrix: Array) -> Array:
        return matrix - matrix.mean(axis=-1, keepdims=True) if centered else matrix

    return Image(np.zeros(n), lambda: times_centering(np.eye(n)), times_centering, length, fuzz)


def normalized(dims: Dims, axes: tuple[int, ...], centered: bool) -> Abstract | None:
    """x / rms(x), and with `centered` (x - mean(x)) / std(x), along `axes` of static size."""
    if dims is None or not all(isinstance(dims[a], int) for a in axes):
        return None
    n = int(count(dims, axes))
    if n == 0:
        return None
    length = math.sqrt(n) * (1 + FUSED)
    largest = math.sqrt(n - 1 if centered else n) * (1 + FUSED)
    ball = image = None
    if len(axes) == 1:
        axis = axes[0] - len(dims)
        ball = Norm(axis, lambda: np.asarray(length))
        if axis == -1:
            image = unit_image(n, centered, math.sqrt(n), FUSED * math.sqrt(n))
    return build(dims, -largest, largest, ball=ball, image=image)


@transfer("layer_norm", "rms_norm")
def _layer_norm(state: State, call: Call) -> Results:
    """(x - mean) / std over the last axes, times a weight, plus a bias."""
    x = state.plain(call, 0)
    dims = result_dims(call)
    if x is None or x.dims is None or dims is None:
        return None
    shape = call.attr("normalized_shape")
    if isinstance(shape, list):
        first = len(dims) - len(shape)
    else:
        axis = call.attr("axis", default=-1)
        first = int(axis) % len(dims)
    centered = call.function == "layer_norm"
    unit = normalized(dims, tuple(range(first, len(dims))), centered)
    if unit is None or _vanishing(call):
        return None
    made = _affine(state, call, unit, dims)
    return [made, *_statistics(call, x, centered)] if len(call.node.outputs) > 1 else made


def _vanishing(call: Call) -> bool:
    """An epsilon that is zero: rows that are all alike would give 0 / 0."""
    given = call.attr("eps", "epsilon")
    return isinstance(given, int | float) and given <= 0


def _affine(state: State, call: Call, unit: Abstract, dims: Dims) -> Abstract:
    weight, bias = state.plain(call, 1), state.plain(call, 2)
    made = unit if weight is None else mul(unit, weight, dims)
    return made if bias is None else add(made, bias, dims)


def _statistics(call: Call, x: Abstract, centered: bool) -> list[Abstract | None]:
    """The mean and the reciprocal of the standard deviation, which some give as results."""
    eps = call.attr("eps", "epsilon", default=1e-5)
    found: list[Abstract | None] = []
    for number in range(1, len(call.node.outputs)):
        dims = result_dims(call, number)
        last = number == len(call.node.outputs) - 1
        if last and isinstance(eps, int | float) and eps > 0:
            found.append(build(dims, 0.0, (1 + CURVE) / math.sqrt(eps)))
        else:
            found.append(build(dims, *outward(*x.worst, FUSED)) if centered else None)
    return found


@transfer("group_norm", "instance_norm")
def _group_norm(state: State, call: Call) -> Results:
    x, dims = state.plain(call, 0), result_dims(call)
    if x is None or dims is None or len(dims) < 2 or _vanishing(call):
        return None
    groups = call.attr("num_groups", "group")
    channels = dims[1]
    if call.function == "instance_norm":
        groups = channels
        if call.attr("use_input_stats") is False:
            return None
    if not isinstance(groups, int) or not isinstance(channels, int) or groups < 1:
        return None
    n = channels // groups * count(dims, range(2, len(dims)))
    largest = math.sqrt(max(n - 1, 0)) * (1 + FUSED)
    unit = build(dims, -largest, largest)
    weight, bias = (_per_channel(state.plain(call, i), len(dims)) for i in (1, 2))
    if weight is not None and weight.lo.size > 1 and weight.lo.size != channels:
        weight = build((), *weight.worst)  # one for each group, in older opsets
        bias = None if bias is None else build((), *bias.worst)
    made = unit if weight is None else mul(unit, weight, dims)
    made = made if bias is None else add(made, bias, dims)
    return [made, *_statistics(call, x, centered=True)]


def _per_channel(x: Abstract | None, rank: int) -> Abstract | None:
    """A vector with one number per channel, along axis 1."""
    if x is None:
        return None
    shape = (-1,) + (1,) * (rank - 2)
    lo, hi = x.lo.reshape(shape), x.hi.reshape(shape)
    return Abstract((lo.shape[0], *(1 for _ in shape[1:])), lo, hi)


@transfer("batch_norm")
def _batch_norm(state: State, call: Call) -> Results:
    """With the running statistics: one factor and one shift per channel."""
    parts = [state.plain(call, i) for i in range(5)]
    x, mean, variance = parts[0], parts[3], parts[4]
    dims = result_dims(call)
    training = call.attr("training", "training_mode", "is_training", default=False)
    if x is None or mean is None or variance is None or dims is None or training:
        return None
    eps = call.attr("eps", "epsilon", default=1e-5)
    if not isinstance(eps, int | float) or variance.worst[0] < 0 or variance.worst[0] + eps <= 0:
        return None
    weight, bias, mean, variance = (_per_channel(p, len(dims)) for p in parts[1:])
    assert mean is not None and variance is not None
    low, high = outward(1 / np.sqrt(variance.hi + eps), 1 / np.sqrt(variance.lo + eps), CURVE)
    factor = Abstract(variance.dims, low, high)
    if weight is not None:
        factor = mul(weight, factor, weight.dims)
    shift = Abstract(mean.dims, -mean.hi, -mean.lo)
    made = mul(add(x, shift, dims), factor, dims)
    # Kernels that multiply out lose a share of what cancels.
    slack = times(x.magnitude + mean.magnitude, factor.magnitude) * 4 * STEP
    made = build(dims, made.lo - slack, made.hi + slack)
    made = made if bias is None else add(made, bias, dims)
    empty = [build(result_dims(call, i), 0.0, 0.0) if result_dims(call, i) == (0,) else None
             for i in range(1, len(call.node.outputs))]  # fmt: skip
    return [made, *empty]


@transfer("lp_normalize")
def _lp_normalize(state: State, call: Call) -> Results:
    dims = result_dims(call)
    axis = call.attr("axis", default=-1)
    if dims is None:
        return None
    unit = Norm(int(axis) % len(dims) - len(dims), lambda: np.asarray(1 + FUSED))
    if int(call.attr("p", default=2)) == 1:
        return build(dims, *outward(-1.0, 1.0, FUSED), mass=unit)
    return build(dims, *outward(-1.0, 1.0, FUSED), ball=unit)


@transfer("softmax")
def _softmax(state: State, call: Call) -> Results:
    """Weights that are not negative and add up to one."""
    x, dims = state.operand(call, 0), result_dims(call)
    axes = call.axes()
    axis = axes[0] if axes and call.attr("dim", "axis") is not None else None
    if x is None or dims is None:
        return build(dims, 0.0, 1.0 + CURVE)
    # Without an axis it is the last one, alone or, in older opsets, together with others.
    axis = len(dims) - 1 if axis is None else axis
    total = 1 + FUSED + gamma(size_of(dims[axis]))
    return build(dims, 0.0, 1.0 + CURVE, mass=Norm(axis - len(dims), lambda: np.asarray(total)))


@transfer("log_softmax")
def _log_softmax(state: State, call: Call) -> Results:
    """x - log(sum(exp(x))): not positive, and at least the width of x under minus log n."""
    x, dims = state.operand(call, 0), result_dims(call)
    axes = call.axes()
    if x is None or x.hidden is not None or not axes or x.dims is None:
        return build(dims, -np.inf, 0.0, hidden=None if x is None else x.hidden)
    axis = axes if call.attr("dim", "axis") is not None else (len(x.dims) - 1,)
    high = x.hi.max(axis=axis, keepdims=True)
    with np.errstate(invalid="ignore"):
        low = x.lo - high - math.log(max(count(x.dims, axis), 1.0))
    slack = CURVE * (np.abs(low) + x.magnitude) + 1e-5
    return build(dims, low - slack, 0.0)


@transfer("attention")
def _attention(state: State, call: Call) -> Results:
    """A mean of the rows of v with weights of a softmax.

    The scores are bounded as well: an exported model computes them by operators of their own.
    """
    q, k, v = (state.plain(call, i) for i in range(3))
    dims = result_dims(call)
    if q is None or k is None or v is None or v.dims is None or dims is None or len(v.dims) < 2:
        return None
    joined = any(name is not None for name in call.operands[4:])  # past keys and values
    if joined or call.attr("dropout_p", default=0.0) != 0.0:
        return None
    state.inner[call.node.name] = _scores(call, q, k) + _largest_bias(state, call)
    total = 1 + FUSED + gamma(size_of(v.dims[-2]))
    spread = collapse(v, [len(v.dims) - 2], (*v.dims[:-2], 1, v.dims[-1]))
    heads = (
        [a for a in range(len(v.dims) - 2) if v.dims[a] != dims[a]]
        if len(dims) == len(v.dims)
        else []
    )
    if len(dims) != len(v.dims):
        spread = build((), *v.worst)
    elif heads:
        spread = collapse(spread, heads, spread.dims)
    lo, hi = times(np.minimum(spread.lo, 0.0), total), times(np.maximum(spread.hi, 0.0), total)
    ball = None
    if len(dims) == len(v.dims):

        def radius() -> Array:
            longest = radius_along(v, -1, v.dims[-1] if v.dims else 1)
            axes = tuple({*heads, len(dims) - 2})
            full = longest.reshape((1,) * (len(dims) - longest.ndim) + longest.shape)
            return np.asarray(full.max(axis=axes, keepdims=True) * total)

        ball = Norm(-1, radius)
    return [build(dims, lo, hi, ball=ball), *(None for _ in call.node.outputs[1:])]


def _scores(call: Call, q: Abstract, k: Abstract) -> float:
    """The largest magnitude of a score, scaled; inf when unknown."""
    if q.dims is None or k.dims is None:
        return math.inf
    width = size_of(q.dims[-1])
    if len(q.dims) == 3:  # heads may be packed into the last axis: each has a part of the length
        width //= int(call.attr("q_num_heads", default=1))
    scale = call.attr("scale")
    factor = float(scale) if isinstance(scale, int | float) else 1 / math.sqrt(max(width, 1))
    left, right = radius_along(q, -1, q.dims[-1]), radius_along(k, -1, k.dims[-1])
    largest = float(left.max()) * float(right.max()) * abs(factor)
    if left.ndim >= 3 and right.ndim >= 3 and left.shape[-3] == right.shape[-3]:  # head by head
        pairs = times(left.max(axis=(-1, -2)), right.max(axis=(-1, -2)))
        largest = min(largest, float(pairs.max()) * abs(factor))
    found = largest * (1 + PRODUCT + OUTWARD)
    return found if math.isfinite(found) else math.inf


def _largest_bias(state: State, call: Call) -> float:
    """The largest magnitude of what is added to the scores; a mask of truth values adds nothing."""
    bias, value = state.operand(call, 3), call.value(3)
    if bias is None or value is None or value.dtype == "bool":
        return 0.0
    return max(bias.largest, -(bias.hidden or 0.0))
