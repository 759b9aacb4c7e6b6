"""What the low type would make of a weight's data; each weight is read once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ampconvert.dtypes import FloatType
from ampconvert.graph import Graph, Value
from ampconvert.ranges.calibrate import Range


@dataclass(frozen=True)
class WeightFacts:
    """The finite elements of one float32 weight.

    `beyond` counts those that overflow, `beyond_positive` those of them above zero; `lost` and
    `subnormal` those that become zero or keep fewer bits, of `nonzero`. `error` is the relative L2
    error that the lost and subnormal ones make.
    """

    minimum: float = math.inf
    maximum: float = -math.inf
    nonzero: int = 0
    beyond: int = 0
    beyond_positive: int = 0
    lost: int = 0
    subnormal: int = 0
    error: float = 0.0


def weight_facts(
    graph: Graph, limits: FloatType, ranges: Mapping[str, Range]
) -> dict[str, WeightFacts]:
    """The facts of every float32 weight that a node reads.

    What is known to lie within the normal range by `ranges` is not read again.
    """
    return {
        value.name: _from_range(value, limits, ranges.get(value.name)) or _from_data(value, limits)
        for value in graph.values.values()
        if value.const is not None and value.is_float32 and graph.readers[value.name]
    }


def _from_range(value: Value, limits: FloatType, seen: Range | None) -> WeightFacts | None:
    if seen is None or not seen.elements or seen.has_inf or seen.has_nan:
        return None
    if seen.absmax >= limits.overflow or seen.tiny < limits.tiny:
        return None
    return WeightFacts(seen.minimum, seen.maximum, seen.elements)


def _from_data(value: Value, limits: FloatType) -> WeightFacts:
    assert value.const is not None
    data: np.ndarray[Any, Any] = np.asarray(value.const(), dtype=np.float32).reshape(-1)
    if not np.isfinite(data).all():
        data = data[np.isfinite(data)]
    if not data.size:
        return WeightFacts()
    magnitudes = np.abs(data)
    nonzero = int(np.count_nonzero(magnitudes))
    beyond = magnitudes >= limits.overflow
    small = magnitudes[(magnitudes > 0) & (magnitudes < limits.tiny)].astype(np.float64)
    kept = np.round(small / limits.smallest) * limits.smallest
    energy = float(np.square(magnitudes, dtype=np.float64).sum())
    wrong = float(np.square(small - kept).sum())
    return WeightFacts(
        float(data.min()),
        float(data.max()),
        nonzero,
        int(beyond.sum()),
        int((beyond & (data > 0)).sum()),
        int((kept == 0).sum()),
        small.size,
        math.sqrt(wrong / energy) if energy else 0.0,
    )
