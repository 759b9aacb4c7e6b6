"""Statistics of one value, streamed over batches and merged exactly; no tensor is kept."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

MASK_BELOW = (
    -16376.0
)  # a quarter of float16's range: only "minus infinity" masks are meant to be lower


@dataclass(frozen=True)
class Range:
    """What one float value was seen to hold. Infinities are masks and stay out of every figure.

    `absmax` is the largest magnitude, `unmasked` the same without elements below MASK_BELOW, `tiny`
    the smallest magnitude that is not zero (inf when all are zero). `elements` counts what was
    seen.
    """

    minimum: float = math.inf
    maximum: float = -math.inf
    unmasked: float = 0.0
    tiny: float = math.inf
    has_nan: bool = False
    has_inf: bool = False
    elements: int = 0

    @property
    def absmax(self) -> float:
        """The largest finite magnitude; 0 when nothing finite was seen."""
        return max(-self.minimum, self.maximum, 0.0)

    def merge(self, other: Range) -> Range:
        """The statistics of both together; exact, in any order."""
        return Range(
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
            max(self.unmasked, other.unmasked),
            min(self.tiny, other.tiny),
            self.has_nan or other.has_nan,
            self.has_inf or other.has_inf,
            self.elements + other.elements,
        )


def merge_all(ranges: Iterable[Range]) -> Range:
    """The statistics of all together."""
    return reduce(Range.merge, ranges, Range())
