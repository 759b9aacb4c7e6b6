"""Runs ONNX models: what their values hold on given inputs, and what they answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ampconvert.element_types import stores_low
from ampconvert.ranges.calibrate import MASK_BELOW, Range
from ampconvert.verify import segments
from ampconvert.verify.emulate import upcast
from ampconvert.verify.segment_cuts import crosses, is_constant, known

Array = np.ndarray[Any, Any]
Feed = Mapping[str, Any]  # an array per input; a list of arrays for a sequence

_CHUNK = 1 << 16  # elements: their bits stay in the processor's cache from pass to pass


def calibrate(
    model: ir.Model, feeds: Sequence[Feed], tell: Callable[[int], None]
) -> tuple[dict[str, Range], dict[str, tuple[int, ...]]]:
    """What every value of the top-level graph held on `feeds`: ranges, and sizes, by name.

    A Range is there for each float32 input and each float32 result of a node, over all batches; a
    shape, the first batch's, for other numeric tensors too. Weights and Constant nodes have
    neither. The model runs in segments (ampconvert/verify/segments.py) and no tensor is kept. One
    that stores tensors in a low type runs in float32. `tell` hears how many batches are done.

    Raises:
        UserError: the model does not load or run, or a feed does not fit its inputs.
    """
    model = known(model)
    inputs = [v for v in model.graph.inputs if v.name not in model.graph.initializers]
    nodes = (node for node in model.graph if not is_constant(node))
    values = [*inputs, *(value for node in nodes for value in node.outputs if value.name)]
    tensors = [v.name for v in values if v.name and crosses(v)]
    float32 = {v.name for v in values if v.dtype == ir.DataType.FLOAT and crosses(v)}
    given = {value.name for value in inputs}
    ranges: dict[str, Range] = {}
    shapes: dict[str, tuple[int, ...]] = {}

    def see(batch: int, name: str, value: Any) -> None:
        array = np.asarray(value)
        shapes.setdefault(name, array.shape)
        if name in float32:
            if name in given:
                array = _as_float32(array)
            ranges[name] = ranges.get(name, Range()).merge(array_range(array))

    segments.visit(_in_float32(model), feeds, tensors, see, tell=tell)
    return ranges, shapes


def outputs(model: ir.Model, feeds: Sequence[Feed]) -> list[dict[str, Any]]:
    """The model's outputs by name, for each batch; the reference for parity.

    One that stores tensors in a low type runs in float32, and its low outputs are float32.

    Raises:
        UserError: as `calibrate`.
    """
    return segments.outputs(_in_float32(known(model)), feeds)


def array_range(array: Array) -> Range:
    """The Range of a float32 array, in few passes and without a copy where all is finite."""
    if not array.size:
        return Range()
    flat = np.ascontiguousarray(array).reshape(-1)
    low, high = float(flat.min()), float(flat.max())  # NaN wins both
    if math.isfinite(low) and math.isfinite(high):
        return Range(low, high, _unmasked(flat, low, high), _tiny(flat), elements=flat.size)
    finite = flat[np.isfinite(flat)]
    low, high = float(finite.min(initial=math.inf)), float(finite.max(initial=-math.inf))
    has_nan, has_inf = bool(np.isnan(flat).any()), bool(np.isinf(flat).any())
    unmasked = _unmasked(finite, low, high)
    return Range(low, high, unmasked, _tiny(finite), has_nan, has_inf, flat.size)


def _unmasked(finite: Array, low: float, high: float) -> float:
    if low > MASK_BELOW:
        return max(-low, high, 0.0)
    inside = finite[finite > MASK_BELOW]
    return max(-float(inside.min(initial=0.0)), float(inside.max(initial=0.0)))


def _tiny(finite: Array) -> float:
    """The smallest magnitude that is not zero, inf where all are zero.

    Bits of positive floats have the order of their numbers: without the sign, and less one so that
    zero becomes the largest, their minimum is it.
    """
    least = 0xFFFFFFFF
    bits = np.empty(min(_CHUNK, finite.size), np.uint32)
    for start in range(0, finite.size, _CHUNK):
        part = finite[start : start + _CHUNK].view(np.uint32)
        chunk = bits[: part.size]
        np.bitwise_and(part, 0x7FFFFFFF, out=chunk)
        np.subtract(chunk, 1, out=chunk)
        least = min(least, int(chunk.min()))
    if least == 0xFFFFFFFF:
        return math.inf
    return float(np.uint32(least + 1).view(np.float32))


def _in_float32(model: ir.Model) -> ir.Model:
    return upcast(model) if stores_low(model) else model


def _as_float32(array: Array) -> Array:
    """As the model takes it: beyond float32's range it is infinite."""
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False)
