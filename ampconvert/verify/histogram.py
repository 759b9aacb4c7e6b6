"""Errors and values of an output counted by magnitude, batch by batch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Histogram:
    """How many elements have an error, and a reference value, of each magnitude.

    An entry (e, n) says that n of them lie in [2^e, 2^(e+1)). `exact` counts the elements without
    any error; zeros of the reference stand in no entry. Elements count where both sides are finite.
    """

    errors: tuple[tuple[int, int], ...]
    values: tuple[tuple[int, int], ...]
    exact: int


class Magnitudes:
    """Errors and values counted by powers of two."""

    def __init__(self) -> None:
        self._errors: Counter[int] = Counter()
        self._values: Counter[int] = Counter()
        self._exact = 0

    def add(self, r: Array, c: Array) -> None:
        """Float64 arrays of one batch."""
        keep = np.isfinite(r) & np.isfinite(c)
        r, c = r[keep], c[keep]
        with np.errstate(over="ignore"):
            d = np.abs(c - r)
        self._exact += int(np.count_nonzero(d == 0))
        _count(self._errors, d)
        _count(self._values, r)

    @property
    def histogram(self) -> Histogram:
        """What was counted so far."""
        errors, values = (tuple(sorted(c.items())) for c in (self._errors, self._values))
        return Histogram(errors, values, self._exact)


def _count(into: Counter[int], numbers: Array) -> None:
    """Add the exponents of those `numbers` that are neither zero nor infinite."""
    mantissas, exponents = np.frexp(numbers)  # mantissas from 0.5 on, so one below the exponent
    found, counts = np.unique(
        exponents[(mantissas != 0) & np.isfinite(numbers)], return_counts=True
    )
    for exponent, count in zip(found.tolist(), counts.tolist(), strict=True):
        into[exponent - 1] += count
