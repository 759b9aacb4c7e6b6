"""Statistics of one value, streamed over batches and merged exactly; no tensor is kept."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from ampconvert.dtypes import FLOAT_TYPES, Low

Array = np.ndarray[Any, Any]

MASK_BELOW = (
    -16376.0
)  # a quarter of float16's range: only "minus infinity" masks are meant to be lower

_CHUNK = 1 << 16  # elements: their bits stay in the processor's cache from pass to pass
_ZERO = 0xFFFFFFFF  # the bits of zero, less one
# By low type: the bits, less one, of its smallest normal number and of its smallest number.
_BOUNDS = {
    name: tuple(int(np.float32(x).view(np.uint32)) - 1 for x in (kind.tiny, kind.smallest))
    for name, kind in FLOAT_TYPES.items()
}


@dataclass(frozen=True)
class Range:
    """What one float value was seen to hold. Infinities are masks and stay out of every figure.

    `absmax` is the largest magnitude, `unmasked` the same without elements below MASK_BELOW, `tiny`
    the smallest magnitude that is not zero (inf when all are zero). `elements` counts what was
    seen, `subnormal` the elements that are not zero and below the smallest normal number of the low
    type that they were counted for, `lost` those of them that are below its smallest number of all.
    """

    minimum: float = math.inf
    maximum: float = -math.inf
    unmasked: float = 0.0
    tiny: float = math.inf
    has_nan: bool = False
    has_inf: bool = False
    elements: int = 0
    subnormal: int = 0
    lost: int = 0

    @property
    def absmax(self) -> float:
        """The largest finite magnitude; 0 when nothing finite was seen."""
        return max(-self.minimum, self.maximum, 0.0)

    @property
    def subnormal_share(self) -> float:
        """`subnormal` as a share of all elements, from 0 to 1."""
        return self.subnormal / self.elements if self.elements else 0.0

    @property
    def lost_share(self) -> float:
        """`lost` as a share of all elements, from 0 to 1."""
        return self.lost / self.elements if self.elements else 0.0

    def merge(self, other: Range) -> Range:
        """The statistics of both together, counted for one low type; exact, in any order."""
        return Range(
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
            max(self.unmasked, other.unmasked),
            min(self.tiny, other.tiny),
            self.has_nan or other.has_nan,
            self.has_inf or other.has_inf,
            self.elements + other.elements,
            self.subnormal + other.subnormal,
            self.lost + other.lost,
        )


def merge_all(ranges: Iterable[Range]) -> Range:
    """The statistics of all together."""
    return reduce(Range.merge, ranges, Range())


def array_range(array: Array, low: Low) -> Range:
    """The Range of a float32 array, in few passes and without a copy where all is finite.

    `low` is the type whose smallest numbers `subnormal` and `lost` are counted by.
    """
    if not array.size:
        return Range()
    flat = np.ascontiguousarray(array).reshape(-1)
    # NaN wins both. A zero's sign would depend on the order of the data, so it goes: -0 + 0 is 0.
    least, largest = float(flat.min()) + 0.0, float(flat.max()) + 0.0
    has_nan = has_inf = False
    finite = flat
    if not (math.isfinite(least) and math.isfinite(largest)):
        finite = flat[np.isfinite(flat)]
        least = float(finite.min(initial=math.inf)) + 0.0
        largest = float(finite.max(initial=-math.inf)) + 0.0
        has_nan, has_inf = bool(np.isnan(flat).any()), bool(np.isinf(flat).any())
    tiny, subnormal, lost = _small(finite, low)
    return Range(
        least,
        largest,
        _unmasked(finite, least, largest),
        tiny,
        has_nan,
        has_inf,
        flat.size,
        subnormal,
        lost,
    )


def _unmasked(finite: Array, least: float, largest: float) -> float:
    if least > MASK_BELOW:
        return max(-least, largest, 0.0) + 0.0
    inside = finite[finite > MASK_BELOW]
    return max(-float(inside.min(initial=0.0)), float(inside.max(initial=0.0))) + 0.0


def _small(finite: Array, low: Low) -> tuple[float, int, int]:
    """The smallest magnitude that is not zero, inf where all are zero, and how many such magnitudes
    are below `low`'s smallest normal number and below its smallest number.

    Bits of positive floats have the order of their numbers, subnormal ones too: without the sign,
    and less one so that zero becomes the largest, whole numbers are compared.
    """
    normal, smallest = _BOUNDS[low]
    least, subnormal, lost = _ZERO, 0, 0
    bits = np.empty(min(_CHUNK, finite.size), np.uint32)
    for start in range(0, finite.size, _CHUNK):
        part = finite[start : start + _CHUNK].view(np.uint32)
        chunk = bits[: part.size]
        np.bitwise_and(part, 0x7FFFFFFF, out=chunk)
        np.subtract(chunk, 1, out=chunk)
        here = int(chunk.min())
        least = min(least, here)
        if here < normal:
            subnormal += int(np.count_nonzero(chunk < normal))
        if here < smallest:
            lost += int(np.count_nonzero(chunk < smallest))
    tiny = math.inf if least == _ZERO else float(np.uint32(least + 1).view(np.float32))
    return tiny, subnormal, lost
