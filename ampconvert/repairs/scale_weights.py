"""Weights that are too small or too large for float16: a power of two on them, undone behind.

Below 2^-14 each halving costs a float16 number one of its 11 bits, and below 2^-25 it is zero. With
2^p on the rows of a weight, one power each, and on the bias, the product is 2^p times what it was,
exactly, and one multiplication by 2^-p per element gives the result back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ampconvert.classify import HEADROOM
from ampconvert.cost import Target
from ampconvert.dtypes import FLOAT32, FLOAT_TYPES, FloatType, Low
from ampconvert.graph import Graph
from ampconvert.ranges.calibrate import Range
from ampconvert.repairs.layers import Layer, layers
from ampconvert.repairs.repair import (
    Constant,
    Declined,
    Edit,
    Names,
    Operand,
    Repair,
    ScaleWeight,
    Wrap,
)

KIND = "scale-weights"
GAIN = 0.5  # of the squared rounding error has to go
LEAST = -24  # the smallest power whose inverse float16 holds: 2^-p is multiplied behind
_Array = np.ndarray[Any, Any]


def examine(
    graph: Graph, low: Low, ranges: Mapping[str, Range], target: Target | None = None
) -> Iterator[Repair | Declined]:
    """Every layer whose weight loses most of its rounding error, or fits at all, when scaled.

    Nothing for bfloat16, whose exponent is float32's. A layer that was not seen has no bound for
    its scaled result, and is left alone.
    """
    limits = FLOAT_TYPES[low]
    if limits.tiny <= FLOAT32.tiny:
        return
    names = Names(graph)
    for layer in layers(graph):
        seen, held = ranges.get(layer.node.outputs[0]), ranges.get(layer.weight.name)
        if held is not None and not held.subnormal and held.absmax < limits.overflow:
            continue  # counted before: there is nothing to scale, and no need to load it
        if seen is not None and (layer.bias is not None or not layer.adds):
            yield from _judge(layer, seen, limits, names)


def _judge(
    layer: Layer, seen: Range, limits: FloatType, names: Names
) -> Iterator[Repair | Declined]:
    assert layer.weight.const is not None
    data = np.moveaxis(layer.weight.const(), layer.axis, 0).reshape(layer.channels, -1)
    before = _error(data, 0, limits)
    if before == 0 or math.isnan(before):
        return
    powers = _powers(data, layer, seen, limits)
    after = _error(data, powers, limits)
    if after**2 > (1 - GAIN) * before**2:
        if math.isinf(before):
            yield Declined(
                KIND, (layer.node.name,), "no power of two brings its weight and its result into "
                f"{limits.name}'s range", layer.node.where,
            )  # fmt: skip
        return
    whole = np.array([powers.min()])
    if _error(data, whole, limits) <= 1.05 * after:
        powers = whole
    lost = "is infinite" if math.isinf(before) else f"errs by {before:.2g}"
    yield Repair(
        KIND,
        (layer.node.name,),
        {
            "power": float(powers.max()),
            "rows": float(powers.size),
            "before": before,
            "after": after,
        },
        f"Its weight {layer.weight.label or layer.weight.name} {lost} in {limits.name}, and by "
        f"{after:.2g} times powers of two, from 2^{powers.min()} to 2^{powers.max()}.",
        *_edits(layer, powers, names),
        where=layer.node.where,
    )


def _powers(data: _Array, layer: Layer, seen: Range, limits: FloatType) -> _Array:
    """The power for each row of `data`: its largest element to 1..2, no further than the result and
    the bias leave room for. Rows that have no small elements are left alone.
    """
    largest = np.abs(data).max(axis=1).astype(np.float64)
    powers = np.where(largest > 0, 1 - np.frexp(largest)[1], 0)
    powers = np.where((powers < 0) & (largest < limits.overflow), 0, powers)
    room = _room(np.array(HEADROOM * seen.absmax), limits)
    if layer.adds and layer.bias is not None:
        assert layer.bias.const is not None
        bias = np.abs(layer.bias.const().reshape(-1)).astype(np.float64)
        room = np.minimum(room, _room(bias, limits))
    found: _Array = np.minimum(np.clip(powers, LEAST, -LEAST), np.maximum(room, 0))
    return found.astype(np.int64)


def _room(magnitude: _Array, limits: FloatType) -> _Array:
    """The largest power of two that keeps a magnitude finite."""
    return np.where(magnitude > 0, np.frexp(limits.overflow / np.maximum(magnitude, 1e-300))[1] - 1,
                    -LEAST)  # fmt: skip


def _error(data: _Array, powers: _Array | int, limits: FloatType) -> float:
    """The relative error of storing the rows of `data` times 2^powers in the low type: the root of
    the mean square over the rows that are not zero; infinite where one overflows.
    """
    scaled = np.ldexp(data, np.reshape(powers, (-1, 1)))
    with np.errstate(over="ignore", invalid="ignore"):
        off = scaled.astype(limits.name).astype(np.float32) - scaled
        lost = np.einsum("ij,ij->i", off, off, dtype=np.float64)
        whole = np.einsum("ij,ij->i", scaled, scaled, dtype=np.float64)
    if not np.isfinite(lost).all():
        return math.inf
    shares = lost[whole > 0] / whole[whole > 0]
    return math.sqrt(float(shares.mean())) if shares.size else 0.0


def _edits(layer: Layer, powers: _Array, names: Names) -> tuple[tuple[Edit, ...], tuple[str, ...]]:
    """The edits, and the nodes that may run in `low` then."""
    node = layer.node
    inner = names.fresh(f"{node.name}_scaled")
    back = tuple(float(b) for b in np.ldexp(1.0, -powers))
    factor: Operand = (
        back[0] if len(back) == 1 else Constant(back, (len(back), *(1,) * layer.windows))
    )
    exponents = tuple(int(p) for p in powers)
    edits: list[Edit] = [
        Wrap(node.name, inner, "mul", (inner, factor)),
        ScaleWeight(layer.weight.name, exponents, layer.axis),
    ]
    if layer.adds and layer.bias is not None:
        edits.append(ScaleWeight(layer.bias.name, exponents, len(layer.bias.sizes) - 1))
    return tuple(edits), (inner,)
