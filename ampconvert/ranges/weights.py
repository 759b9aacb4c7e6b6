"""Bounds of weights: their own elements, rounded or not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ampconvert.graph import Value
from ampconvert.ranges.domain import Abstract, build, top
from ampconvert.ranges.rounding import stored
from ampconvert.ranges.transfer import State, dims_of

_MOST_ELEMENTS = 2**16  # that are bounded one by one; matrix products load all of them anyway


def weight_bounds(value: Value, state: State) -> Abstract:
    """The elements of a weight; large ones keep their data to be loaded and bounds of each column.

    Elements that mean minus infinity are hidden. A weight with NaN is unknown.
    """
    assert value.const is not None
    dims = dims_of(value)
    data = np.asarray(value.const())
    if data.dtype == np.bool_ or np.issubdtype(data.dtype, np.integer):
        found = _small(data)
        return build(dims, *found, whole=True)
    if data.size == 0 or not _is_real(data):
        return build(dims, 0.0, 0.0) if data.size == 0 else top(dims)
    least = float(np.asarray(data.min(), dtype=np.float64))
    if math.isnan(least):
        return top(dims)
    if least <= -state.low.overflow:
        return _masked(value, np.asarray(data, dtype=np.float64), state)
    lo, hi = _small(data)
    may_be_rounded = value.is_float32 and not state.read_by_kept(value.name)
    if max(-least, float(hi.max())) < state.low.overflow and may_be_rounded:
        lo, hi = stored(lo, hi, state.low)
    return build(dims, lo, hi, data=value.const)


def _is_real(data: npt.NDArray[Any]) -> bool:
    try:
        return not np.iscomplexobj(data) and np.asarray(data.reshape(-1)[:1], np.float64).size == 1
    except (TypeError, ValueError):
        return False


def _small(data: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The elements, or for many of them the extremes of each column."""
    if data.size <= _MOST_ELEMENTS:
        whole = np.asarray(data, dtype=np.float64)
        return whole, whole
    axes = tuple(range(data.ndim - 1))
    lo, hi = data.min(axis=axes, keepdims=True), data.max(axis=axes, keepdims=True)
    return np.asarray(lo, dtype=np.float64), np.asarray(hi, dtype=np.float64)


def _masked(value: Value, data: npt.NDArray[np.float64], state: State) -> Abstract:
    """A weight some of whose elements mean minus infinity."""
    masks = data <= -state.low.overflow
    usual = data[~masks]
    filling = float(usual.max(initial=-math.inf)) if usual.size else 0.0
    filled = np.where(masks, filling, data)
    lo, hi = _small(filled)
    floors = [state.mask_floor(float(v)) or 0.0 for v in np.unique(data[masks])[-2:]]
    floors += [state.mask_floor(float(data[masks & np.isfinite(data)].min(initial=0.0))) or 0.0]
    if float(np.abs(filled).max()) < state.low.overflow:
        lo, hi = stored(lo, hi, state.low)
    return build(dims_of(value), lo, hi, hidden=min(floors))
