"""Transfer functions of convolutions, pooling and resizing: bounds per channel."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ampconvert.functions import Call
from ampconvert.ranges.domain import Abstract, Array, Dims, build, matrix_of, same_dim
from ampconvert.ranges.rounding import OUTWARD, PRODUCT, STEP, gamma, outward, times
from ampconvert.ranges.transfer import Results, State, result_dims, transfer
from ampconvert.ranges.transfer_arithmetic import add


@transfer("conv")
def _conv(state: State, call: Call) -> Results:
    """One bound per output channel: positive and negative parts of its weights."""
    x, weight = state.plain(call, 0), state.plain(call, 1)
    dims = result_dims(call)
    if x is None or weight is None or weight.dims is None or dims is None or x.dims is None:
        return None
    if call.attr("transposed", default=False):
        return _conv_transpose(state, call)
    window = len(weight.dims) - 2
    center, doubt = _kernel(weight, state)
    if center is None or doubt is None:
        return None
    outputs, inputs = center.shape[:2]
    groups = call.attr("groups", "group", default=1)
    lo, hi = _channels(x, window, inputs * groups)
    if _pads(call):
        lo, hi = np.minimum(lo, 0.0), np.maximum(hi, 0.0)
    taps = math.prod(center.shape[1:])
    flat = center.reshape(groups, outputs // groups, inputs, -1)
    loose = doubt.reshape(groups, outputs // groups, inputs, -1)
    low, high = _weighted_sum(flat, loose, lo.reshape(groups, 1, inputs, 1),
                              hi.reshape(groups, 1, inputs, 1), taps)  # fmt: skip
    return _with_bias(state, call, low.reshape(-1), high.reshape(-1), window, dims)


def _pads(call: Call) -> bool:
    """Whether a window may reach over the edge, where there are zeros."""
    given = call.attr("pads", "padding", default=0)
    automatic = call.attr("auto_pad", default="NOTSET") not in ("NOTSET", "VALID")
    return automatic or isinstance(given, str) or bool(np.any(np.ravel(given)))


@transfer("conv_transpose")
def _conv_transpose(state: State, call: Call) -> Results:
    """Every output takes the taps of one phase of the stride, and at the edges fewer of them."""
    x, weight = state.plain(call, 0), state.plain(call, 1)
    dims = result_dims(call)
    if x is None or weight is None or weight.dims is None or dims is None or x.dims is None:
        return None
    window = len(weight.dims) - 2
    center, doubt = _kernel(weight, state)
    if center is None or doubt is None:
        return None
    inputs = center.shape[0]
    groups = call.attr("groups", "group", default=1)
    lo, hi = _channels(x, window, inputs)
    shape = (groups, inputs // groups, 1) + (1,) * window
    lo, hi = (v.reshape(shape) for v in (np.minimum(lo, 0.0), np.maximum(hi, 0.0)))
    grouped = (groups, inputs // groups, *center.shape[1:])
    taps = inputs // groups * math.prod(center.shape[2:])
    center, doubt = center.reshape(grouped), doubt.reshape(grouped)
    ends = [times(w, v) for w in (center - doubt, center + doubt) for v in (lo, hi)]
    # A tap may be left out at the edge, so its part is zero at least and at most.
    least = np.minimum(np.minimum.reduce(ends), 0.0).sum(axis=1)
    most = np.maximum(np.maximum.reduce(ends), 0.0).sum(axis=1)
    given = call.attr("stride", "strides", default=[1])
    strides = [given] * window if isinstance(given, int) else [int(s) for s in given]
    strides = strides * window if len(strides) == 1 else strides
    if any(d != 1 for d in np.ravel(call.attr("dilation", "dilations", default=[1]))):
        strides = [1] * window  # dilated taps mix the phases: all of them at once
    low = _per_phase(least, strides).min(axis=0)
    high = _per_phase(most, strides).max(axis=0)
    slack = np.maximum(np.abs(low), np.abs(high)) * (PRODUCT + gamma(taps) + OUTWARD)
    low, high = (low - slack).reshape(-1), (high + slack).reshape(-1)
    return _with_bias(state, call, low, high, window, dims)


def _per_phase(parts: Array, strides: list[int]) -> Array:
    """Sums over the taps of each phase: [phases, groups, outputs per group]."""
    window = len(strides)
    found = []
    for phase in np.ndindex(*strides):
        index = tuple(slice(p, None, s) for p, s in zip(phase, strides, strict=True))
        found.append(
            parts[(slice(None), slice(None), *index)].sum(axis=tuple(range(2, 2 + window)))
        )
    return np.stack(found)


def _kernel(weight: Abstract, state: State) -> tuple[Array | None, Array | None]:
    """The weights at full length, and how far each may be off."""
    center, doubt = matrix_of(weight, state.low)
    shape = weight.dims or ()
    if not all(isinstance(d, int) for d in shape) or not np.isfinite(center).all():
        return None, None
    sizes = [int(d) for d in shape]
    return np.broadcast_to(center, sizes), np.broadcast_to(doubt, sizes)


def _channels(x: Abstract, window: int, channels: int) -> tuple[Array, Array]:
    """Bounds per input channel: the axis before those of the window."""
    assert x.dims is not None
    axis = len(x.dims) - window - 1
    others = tuple(a for a in range(len(x.dims)) if a != axis)
    lo, hi = x.lo.min(axis=others), x.hi.max(axis=others)
    return np.broadcast_to(lo, (channels,)), np.broadcast_to(hi, (channels,))


def _weighted_sum(
    center: Array, doubt: Array, lo: Array, hi: Array, taps: int
) -> tuple[Array, Array]:
    """Bounds of the sum over the last two axes of weight times element."""
    rise, fall = np.maximum(center, 0.0), np.minimum(center, 0.0)
    largest = np.maximum(np.abs(lo), np.abs(hi))
    low = (times(rise, lo) + times(fall, hi)).sum(axis=(-1, -2))
    high = (times(rise, hi) + times(fall, lo)).sum(axis=(-1, -2))
    size = times(np.abs(center) + doubt, largest).sum(axis=(-1, -2))
    slack = times(doubt, largest).sum(axis=(-1, -2))
    slack = slack + size * (PRODUCT + gamma(taps) + OUTWARD)
    return low - slack, high + slack


def _with_bias(
    state: State, call: Call, low: Array, high: Array, window: int, dims: Dims
) -> Abstract:
    shape = (-1,) + (1,) * window
    made = build(dims, low.reshape(shape), high.reshape(shape))
    bias = state.plain(call, 2)
    if bias is None:
        return made
    lo, hi = bias.lo.reshape(shape), bias.hi.reshape(shape)
    return add(made, Abstract((lo.shape[0], *(1 for _ in range(window))), lo, hi), dims)


@transfer("max_pool", "avg_pool")
def _pool(state: State, call: Call) -> Results:
    x, dims = state.operand(call, 0), result_dims(call)
    if x is None:
        return None
    lo, hi = _outside_windows(call, x, dims)
    if call.function == "avg_pool":
        if x.hidden is not None:
            return None
        if _pads(call) or call.attr("ceil_mode", default=False):
            lo, hi = np.minimum(lo, 0.0), np.maximum(hi, 0.0)  # padding may count
        if call.attr("divisor_override") is not None:
            return None
        sizes = call.attr("kernel_shape", "kernel_size")
        taps = math.prod(np.ravel(sizes)) if sizes is not None else _spatial(x.dims)
        error = gamma(float(taps) ** (2 if np.size(sizes) == 1 else 1)) + STEP
        slack = times(np.maximum(np.abs(lo), np.abs(hi)), error)
        least = -np.inf if x.worst[0] < 0 else 0.0
        lo, hi = np.maximum(lo - slack, least), hi + slack
    values = build(dims, lo, hi, hidden=x.hidden)
    return [values, *(None for _ in call.node.outputs[1:])]


def _spatial(dims: Dims) -> float:
    return math.prod(d if isinstance(d, int) else 2**20 for d in (dims or ())[1:])


def _outside_windows(call: Call, x: Abstract, dims: Dims) -> tuple[Array, Array]:
    """The bounds along the axes that no window moves over; others are taken together."""
    if x.dims is None or dims is None or len(dims) != len(x.dims):
        lo, hi = x.worst
        return np.asarray(lo), np.asarray(hi)
    sizes = call.attr("kernel_shape", "kernel_size", "output_size")
    window = len(sizes) if isinstance(sizes, list) and len(sizes) > 1 else 0
    if not window:  # one number stands for all of them, whose count it does not tell
        window = len(dims) - 2 if call.node.op.startswith("onnx::") else len(dims)
    axes = tuple(range(len(dims) - window, len(dims)))
    return x.lo.min(axis=axes, keepdims=True), x.hi.max(axis=axes, keepdims=True)


@transfer("resize", "resize_cubic")
def _resize(state: State, call: Call) -> Results:
    """Nearest and linear modes mix elements; cubic ones overshoot by a known share."""
    x, dims = state.plain(call, 0), result_dims(call)
    if x is None:
        return None
    if x.dims is None or dims is None or len(dims) != len(x.dims):
        lo, hi = (np.asarray(v) for v in x.worst)
        changed = 4
    else:
        axes = [a for a, (p, q) in enumerate(zip(x.dims, dims, strict=True)) if not same_dim(p, q)]
        # A resize along an axis of equal size may still shift what lies there.
        axes = sorted({*axes, *range(min(2, len(dims)), len(dims))})
        lo, hi = (
            x.lo.min(axis=tuple(axes), keepdims=True),
            x.hi.max(axis=tuple(axes), keepdims=True),
        )
        changed = len(axes)
    mode = call.attr("mode", default="linear")
    mode = "cubic" if call.function == "resize_cubic" else mode
    if call.attr("coordinate_transformation_mode", default="") == "tf_crop_and_resize":
        outside = float(call.attr("extrapolation_value", default=0.0))
        lo, hi = np.minimum(lo, outside), np.maximum(hi, outside)
    if mode == "cubic":
        if call.attr("antialias", default=0) or call.attr("exclude_outside", default=0):
            return None
        lo, hi = _overshoot(call, lo, hi, changed)
    elif mode not in ("nearest", "linear", "bilinear", "trilinear"):
        return None
    slack = times(np.maximum(np.abs(lo), np.abs(hi)), 16 * STEP)
    least: Any = 0.0 if float(np.min(lo)) >= 0 else -np.inf
    return build(dims, np.maximum(lo - slack, least), hi + slack)


def _overshoot(call: Call, lo: Array, hi: Array, axes: int) -> tuple[Array, Array]:
    """Keys' kernel with coefficient a: the weights' magnitudes add up to 1 + |a| / 2 at most, as
    2 |a| t (1 - t) of them is negative at a distance t (IEEE Trans. ASSP 29(6), 1981).
    """
    coefficient = abs(float(call.attr("cubic_coeff_a", default=-0.75)))
    gain = (1 + coefficient / 2) ** axes
    middle, radius = (lo + hi) / 2, (hi - lo) / 2
    return outward(middle - gain * radius, middle + gain * radius, STEP)
