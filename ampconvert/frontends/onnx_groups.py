"""Groups of an ONNX model's values, and each value's part in what groups were measured at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ampconvert.frontends.onnx_scopes import Layout

Array = np.ndarray[Any, Any]


def kinds_of(model: ir.Model, names: Sequence[str], sizes: Mapping[str, int]) -> Array:
    """A number for each value, equal for those of one kind (operator that makes or reads it, number
    of elements), near for kinds that are alike.
    """
    layout = Layout(model)
    makers = {layout.values[made]: step.op for step in layout.steps for made in step.makes}
    readers: dict[str, str] = {}
    for step in layout.steps:
        for position in range(len(step.reads)):
            value = step.operand(position)
            if value is not None:
                readers.setdefault(layout.values[value], f"{step.op}:{position}")
    keys = [
        (name in makers, makers.get(name) or readers.get(name, ""), sizes[name]) for name in names
    ]
    order = {key: number for number, key in enumerate(sorted(set(keys)))}
    return np.array([order[key] for key in keys])


def evenly(keys: Array, groups: int) -> Array:
    """A group number for each key: equal keys in one group, groups of about equal size, in the
    order of the keys.
    """
    _, kind, counts = np.unique(keys, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2
    rough = (middle * groups / len(keys)).astype(int)
    _, dense = np.unique(rough, return_inverse=True)
    found: Array = dense[kind]
    return found


def members_of(names: Sequence[str], way: Array) -> list[list[str]]:
    """The names in each group; `way` has a group number for each name."""
    found: list[list[str]] = [[] for _ in range(int(way.max(initial=-1)) + 1)]
    for name, number in zip(names, way, strict=True):
        found[number].append(name)
    return found


def fitted(ways: Sequence[Array], sums: Sequence[Array], turns: int = 200) -> Array:
    """Parts, products of one factor per way, that give each group its finite sum; infinite where
    every group of a value is infinite.
    """
    parts = np.ones(len(ways[0]))
    for _ in range(turns if len(ways) > 1 else 1):
        for way, wanted in zip(ways, sums, strict=True):
            have = np.bincount(way, parts, len(wanted))
            known = np.isfinite(wanted) & (have > 0)
            factors = np.where(known, wanted, 1.0) / np.where(known, have, 1.0)
            parts = parts * factors[way]
    lost = np.all([np.isinf(wanted)[way] for way, wanted in zip(ways, sums, strict=True)], axis=0)
    return np.where(lost, math.inf, parts)
