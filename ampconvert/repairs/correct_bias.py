"""What rounding adds to a layer's output on average, taken off its bias.

The rounded weights of a layer err with a fixed sign each, and inputs that are not centred turn that
into a constant on every output channel. It is measured in float32 and in the low type side by side
on calibration data, and its mean goes into the bias (Nagel, van Baalen, Blankevoort and Welling,
Data-free quantization through weight equalization and bias correction, ICCV 2019).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from ampconvert.dtypes import FLOAT_TYPES, FloatType, Low
from ampconvert.graph import Graph
from ampconvert.ranges.rounding import round_to
from ampconvert.repairs.layers import Layer, layers
from ampconvert.repairs.repair import (
    Constant,
    Declined,
    Edit,
    Names,
    Repair,
    SetBias,
    ShiftWeight,
    Wrap,
)

KIND = "correct-bias"
SHARE = 0.1  # of a layer's squared error: below, its mean is not worth a change
_Array = np.ndarray[Any, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class OutputError:
    """What float32 and the low type make differently in one layer, given the same inputs.

    `total` and `squares` are sums over `count` elements of each channel of (float32 - low), and of
    its square; float64, one number per output channel.
    """

    total: _Array
    squares: _Array
    count: int

    def merge(self, other: OutputError) -> OutputError:
        """Both together."""
        return OutputError(
            self.total + other.total, self.squares + other.squares, self.count + other.count
        )

    @property
    def mean(self) -> _Array:
        """The mean difference of each channel."""
        return self.total / max(self.count, 1)

    @property
    def chance(self) -> float:
        """What the squared means of the channels add up to by chance alone, of so few elements."""
        variance = np.maximum(self.squares / max(self.count, 1) - self.mean**2, 0)
        return float((variance / max(self.count - 1, 1)).sum())


def halves(batches: Sequence[T]) -> tuple[Sequence[T], Sequence[T]]:
    """What to measure biases on, and what to judge the result by: every other batch each, so that
    nothing is judged by what it was fitted to. One batch alone has to serve for both.
    """
    return (batches[::2], batches[1::2]) if len(batches) > 1 else (batches, batches)


def correctable(graph: Graph, low: Low) -> dict[str, int]:
    """The layers that a correction can be made for, by node, with their output channels' axis."""
    kind = FLOAT_TYPES[low]
    return {layer.node.name: layer.channel for layer in layers(graph) if _can(layer, kind)}


def examine_measured(
    graph: Graph, low: Low, errors: Mapping[str, OutputError]
) -> Iterator[Repair | Declined]:
    """A correction for every layer that loses at least SHARE of its squared error by it.

    What the correction's own rounding leaves, and what a mean has by chance, are taken off.
    """
    names = Names(graph)
    for layer in layers(graph):
        found = errors.get(layer.node.name)
        if found is None or not _can(layer, FLOAT_TYPES[low]) or found.total.size != layer.channels:
            continue
        shifts, gain = _correction(layer, found, FLOAT_TYPES[low])
        if found.count > 1 and gain >= SHARE and np.isfinite(shifts).all():
            yield _repair(layer, found, gain, tuple(float(s) for s in shifts), low, names)


def _correction(layer: Layer, found: OutputError, kind: FloatType) -> tuple[_Array, float]:
    """What to add to each channel, and the part of the squared error that goes, at most 1.

    The corrected bias is a number of the low type: storing it takes nothing off it again.
    """
    off = found.mean
    bias = np.zeros(layer.channels)
    if layer.bias is not None and layer.bias.const is not None:
        bias = layer.bias.const().reshape(-1).astype(np.float64)
    if not layer.adds:  # what rounds the bias was not in the measurement
        off = off + bias - round_to(bias, kind)
    wanted = round_to(bias, kind) + off
    stored = round_to(wanted, kind)
    squared = float((off**2).sum() - ((wanted - stored) ** 2).sum()) - found.chance
    whole = float(found.squares.sum()) / max(found.count, 1)
    return stored - bias, squared / whole if whole > 0 else 0.0


def _repair(
    layer: Layer,
    found: OutputError,
    gain: float,
    shifts: tuple[float, ...],
    low: Low,
    names: Names,
) -> Repair:
    node = layer.node.name
    edit: Edit
    if layer.bias is not None:
        edit = ShiftWeight(layer.bias.name, shifts)
    elif layer.takes_bias:
        edit = SetBias(node, shifts)
    else:
        inner = names.fresh(f"{node}_uncorrected")
        edit = Wrap(node, inner, "add", (inner, Constant(shifts, (len(shifts),))))
    largest = float(np.abs(found.mean).max())
    return Repair(
        KIND,
        (node,),
        {"gain": gain, "largest": largest, "samples": float(found.count)},
        f"{min(gain, 1):.0%} of its squared error in {low} is a constant of each output channel, "
        f"{largest:.3g} at most: its bias takes it off.",
        (edit,),
        where=layer.node.where,
    )


def _can(layer: Layer, kind: FloatType) -> bool:
    """Whether there is a bias to change, or a place for one.

    A bias whose every number the low type holds was corrected before, or the model was stored in
    that type, and then its weights lose nothing.
    """
    if layer.bias is None or layer.bias.const is None:
        return not layer.adds
    data = layer.bias.const().reshape(-1)
    return not data.any() or not np.array_equal(round_to(data, kind), data.astype(np.float64))
