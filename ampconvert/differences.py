"""How far each result inside a converted model is from float32, and where that grows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ampconvert.graph import Graph

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Difference:
    """One result of one node, over all batches.

    `rel_l2` is |converted - float32| / |float32|, infinite where the converted one is not finite
    and the other is, |converted| where float32 is zero throughout; `max_abs` the largest difference
    of one element; `absmax` the largest magnitude in float32. Infinities that float32 has are left
    out. `before` is the largest `rel_l2` among what the node reads, 0 where nothing of that was
    compared.
    """

    value: str
    node: str
    op: str
    scope: str
    where: str
    rel_l2: float
    max_abs: float
    absmax: float
    before: float = 0.0

    @property
    def grown(self) -> float:
        """How much of `rel_l2` was not there before the node; negative where it shrinks."""
        return self.rel_l2 - self.before if self.rel_l2 < math.inf else math.inf


@dataclass(frozen=True)
class LayerDifference:
    """One module: the largest error that enters it, the one of its last result, and the result
    inside with the largest growth.
    """

    scope: str
    before: float
    rel_l2: float
    worst: Difference

    @property
    def grown(self) -> float:
        """How much of `rel_l2` was not there before the layer."""
        return self.rel_l2 - self.before if self.rel_l2 < math.inf else math.inf


@dataclass(frozen=True)
class Differences:
    """Every result that both models have, in the order of execution, over `batches` batches;
    `missing` are the float32 results that the converted model does not show.
    """

    values: tuple[Difference, ...]
    layers: tuple[LayerDifference, ...]
    missing: tuple[str, ...]
    batches: int

    def growing(self, count: int = 10) -> tuple[LayerDifference, ...]:
        """The layers that add most to the error, worst first."""
        ranked = sorted(self.layers, key=lambda layer: layer.grown, reverse=True)
        return tuple(layer for layer in ranked[:count] if layer.grown > 0)


class DifferenceSums:
    """Sums over batches; no tensor is kept."""

    def __init__(self) -> None:
        self.sums: dict[str, _Sums] = {}

    def add(self, value: str, converted: Array, reference: Array) -> bool:
        """Count one result of one batch; False, and nothing counted, where the shapes differ."""
        if converted.shape != reference.shape:
            return False
        self.sums.setdefault(value, _Sums()).add(converted, reference)
        return True

    def finish(self, graph: Graph, batches: int) -> Differences:
        """What was found, with the nodes, modules and source lines of `graph`."""
        found = {d.value: d for d in self._differences(graph)}
        wanted = [v.name for node in graph.nodes for v in graph.output_values(node) if v.is_float32]
        missing = tuple(name for name in wanted if name not in found)
        values = tuple(found.values())
        return Differences(values, tuple(_layers(graph, found)), missing, batches)

    def _differences(self, graph: Graph) -> Iterator[Difference]:
        errors = {name: sums.rel_l2() for name, sums in self.sums.items()}
        for node in graph.nodes:
            before = max((errors.get(name or "", 0.0) for name in node.inputs), default=0.0)
            for name in node.outputs:
                if name in self.sums:
                    sums = self.sums[name]
                    yield Difference(
                        name, node.name, node.op, node.scope, node.where,
                        errors[name], sums.max_abs, sums.absmax, before,
                    )  # fmt: skip


@dataclass
class _Sums:
    lost: float = 0.0
    size: float = 0.0
    max_abs: float = 0.0
    absmax: float = 0.0
    bad: bool = False

    def add(self, converted: Array, reference: Array) -> None:
        right, got = reference.astype(np.float64), converted.astype(np.float64)
        shown = np.isfinite(right)
        if not shown.all():
            right, got = right[shown], got[shown]
        difference = np.abs(got - right)
        self.bad |= not bool(np.isfinite(difference).all())
        if not self.bad:
            self.lost += float(np.square(difference).sum())
            self.max_abs = max(self.max_abs, float(difference.max(initial=0.0)))
        self.size += float(np.square(right).sum())
        self.absmax = max(self.absmax, float(np.abs(right).max(initial=0.0)))

    def rel_l2(self) -> float:
        if self.bad:
            return math.inf
        return math.sqrt(self.lost / (self.size or 1.0))


def _layers(graph: Graph, found: dict[str, Difference]) -> Iterator[LayerDifference]:
    """Each module that makes something which was compared, in the order of its first result."""
    scopes: dict[str, list[Difference]] = {}
    for difference in found.values():
        scopes.setdefault(difference.scope, []).append(difference)
    nodes = {node.name: node for node in graph.nodes}
    for scope, inside in scopes.items():
        own = {d.value for d in inside}
        read = {name for d in inside for name in nodes[d.node].inputs if name and name not in own}
        before = max((found[name].rel_l2 for name in read if name in found), default=0.0)
        worst = max(inside, key=lambda d: d.grown)
        yield LayerDifference(scope, before, inside[-1].rel_l2, worst)
