"""A model as hazards look at it: calls, who reads what, and what numbers a value can hold."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from ampconvert.dtypes import FLOAT_TYPES, FloatType, Low
from ampconvert.functions import Call
from ampconvert.graph import Graph, Node, Value
from ampconvert.hazards.bounds import UNKNOWN, Bounds, bounds_of
from ampconvert.hazards.data import WeightFacts, weight_facts
from ampconvert.ranges.calibrate import Range

# They hand on elements as they are, in another place or shape.
PASSES = frozenset(
    {"identity", "cast", "reshape", "expand", "unsqueeze", "squeeze", "transpose", "tile"}
)
HEADROOM = 4.0  # seen magnitudes may grow this much on data not seen before


@dataclass(frozen=True)
class Scene:
    """What a hazard's check is given: the graph, the type, what was seen, and the graph's calls by
    node name.
    """

    graph: Graph
    low: Low
    ranges: Mapping[str, Range]
    calls: Mapping[str, Call]

    @cached_property
    def limits(self) -> FloatType:
        """The facts about `low`."""
        return FLOAT_TYPES[self.low]

    def of(self, *names: str) -> Iterator[Call]:
        """The calls of these functions whose result is float32, in execution order."""
        found = [pair for name in names for pair in self._by_function.get(name, ())]
        return (call for _, call in sorted(found, key=lambda pair: pair[0]))

    @cached_property
    def _by_function(self) -> Mapping[str, list[tuple[int, Call]]]:
        """The calls whose result is float32, with their place in the order of execution."""
        found: dict[str, list[tuple[int, Call]]] = {}
        for place, node in enumerate(self.graph.nodes):
            call = self.calls.get(node.name)
            if call is not None and call.result.is_float32:
                found.setdefault(call.function, []).append((place, call))
        return found

    def maker(self, name: str | float | None) -> Call | None:
        """The call that makes the value `name`, behind all that only hands elements on."""
        call = self._maker(name)
        while call is not None and call.function in PASSES:
            name = call.name(0)
            value = call.value(0)
            if value is None or (call.function == "cast" and not _is_float(value)):
                return None
            call = self._maker(name)
        return call

    def source(self, name: str | float | None) -> str | None:
        """The value that `name` holds the elements of, behind all that only hands them on."""
        if not isinstance(name, str):
            return None
        call = self._maker(name)
        while call is not None and call.function in PASSES and call.name(0) is not None:
            name = call.name(0) or ""
            call = self._maker(name)
        return name

    def uses(self, name: str) -> Iterator[tuple[Node, Call | None, int]]:
        """Who reads the elements of `name`: node, call, place among its operands (-1: unknown).

        Whoever only hands elements on is passed over, and everyone is given once.
        """
        stack, known = [name], {name}
        while stack:
            read = stack.pop()
            for node, _ in self.graph.readers[read]:
                call = self.calls.get(node.name)
                if call is None or read not in call.operands:
                    yield node, call, -1
                elif call.function not in PASSES or not call.result.is_float32:
                    yield node, call, call.operands.index(read)
                elif call.result.name not in known:
                    known.add(call.result.name)
                    stack.append(call.result.name)

    def seen(self, name: str | None) -> Range | None:
        """What was seen in `name`, or in the value whose elements it hands on."""
        for known in (name, self.source(name)):
            found = self.ranges.get(known) if known is not None else None
            if found is not None and found.elements and found.minimum <= found.maximum:
                return found
        return None

    @cached_property
    def _bounds(self) -> Mapping[str, Bounds]:
        return bounds_of(self.graph, self.calls, self.weights)

    @cached_property
    def weights(self) -> Mapping[str, WeightFacts]:
        """What `low` makes of each float32 weight that is read, by name."""
        return weight_facts(self.graph, self.limits, self.ranges)

    def bounds(self, name: str | float | None) -> Bounds:
        """What `name` can hold at all, by constants and by the functions that make it."""
        if isinstance(name, str):
            return self._bounds.get(name, UNKNOWN)
        return UNKNOWN if name is None else (name, name)

    def reach(self, name: str | float | None) -> float:
        """The largest magnitude that `name` can have; infinite where nothing bounds it."""
        low, high = self.bounds(name)
        return max(abs(low), abs(high))

    def number(self, call: Call, place: int) -> float | None:
        """The constant at `place`, through the node's own factor; None for anything else."""
        found = call.number(place)
        if found is None or place != len(call.operands) - 1:
            return found
        return found * call.factor

    def size(self, name: str | None, axes: tuple[int, ...] | None) -> int | None:
        """How many elements lie along `axes` of `name`; None where that is unknown."""
        value = self.graph.values.get(name) if name is not None else None
        if value is None or value.shape is None or axes is None:
            return None
        if value.hint is None and any(not isinstance(value.shape[a], int) for a in axes):
            return None
        return math.prod(value.sizes[a] for a in axes)

    def _maker(self, name: str | float | None) -> Call | None:
        node = self.graph.producers.get(name) if isinstance(name, str) else None
        return None if node is None else self.calls.get(node.name)


def _is_float(value: Value) -> bool:
    return "float" in value.dtype
