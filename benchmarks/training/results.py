"""What the children printed, and what is said of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev
from typing import Any


@dataclass(frozen=True)
class Results:
    """What each measurement printed, by "part | argument | ..."."""

    found: dict[str, dict[str, Any]]

    def of(self, part: str) -> list[tuple[list[str], dict[str, Any]]]:
        """The results of one part with their arguments."""
        keys = [(key.split(" | "), r) for key, r in self.found.items()]
        return [(words[1:], r) for words, r in keys if words[0] == part and "error" not in r]

    def failures(self) -> list[str]:
        """What ampconvert, or a measurement itself, could not do."""
        return [line for key, result in self.found.items() for line in failures(key, result)]


def failures(key: str, result: dict[str, Any]) -> Iterator[str]:
    """What failed in the result of one measurement. What torch.autocast can't train is a result, no
    failure.
    """
    for path, error in errors(result):
        name = " ".join((key, *path))
        if not path or "ours" in name:
            yield f"{name}: {error}"


def errors(result: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every "error" in a nested result, with the keys that lead to it."""
    if isinstance(result, dict):
        if isinstance(result.get("error"), str):
            yield path, result["error"]
        for key, inner in result.items():
            yield from errors(inner, (*path, key))


def chance_outside(seeds: int) -> float:
    """How often the means of two equal ways, of `seeds` independent runs each, are further apart
    than the standard deviation of one run: for normal errors.
    """
    return 2 * (1 - NormalDist(sigma=(2 / seeds) ** 0.5).cdf(1.0))


def within(values: Sequence[float], reference: Sequence[float], resolution: float) -> bool:
    """Whether the mean of `values` is no further from the reference's than the reference's standard
    deviation (that of a sample, n - 1), or than `resolution` where that is more.
    """
    if not all(map(math.isfinite, (*values, *reference))):
        return False
    spread = stdev(reference) if len(reference) > 1 else 0.0
    return abs(fmean(values) - fmean(reference)) <= max(spread, resolution) * (1 + 1e-9)
