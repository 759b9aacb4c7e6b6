"""Masks: constants that mean "minus infinity", followed to the operators that turn them into zero.

Every way from a mask leads over operators that hand it on (`mask = "carry"` in their rule) into one
that turns it into zero (`mask = "absorb"`); a large negative constant with any other reader is a
number like others.
"""

from __future__ import annotations

from collections.abc import Mapping

from ampconvert.dtypes import FloatType
from ampconvert.graph import Graph, Node
from ampconvert.ranges.calibrate import Range
from ampconvert.rules import OpRule


class MaskCone:
    """Which values are masks: followed forward from a constant to the operators that absorb it."""

    def __init__(self, graph: Graph, rules: Mapping[str, OpRule | None]) -> None:
        self.graph = graph
        self.rules = rules

    def holds(self, values: tuple[str, ...]) -> bool:
        """Whether every way from `values` ends in an operator that absorbs masks."""
        return all(self._absorbed(name) for name in values)

    def closure(self, values: list[str]) -> frozenset[str]:
        """`values` and all that carries them on."""
        found: set[str] = set()
        stack = list(values)
        while stack:
            name = stack.pop()
            if name in found:
                continue
            found.add(name)
            for node, position in self.graph.readers[name]:
                if self._word(node, position) == "carry":
                    stack.extend(node.outputs)
        return frozenset(found)

    def _absorbed(self, start: str) -> bool:
        cone = self.closure([start])
        for name in cone:
            if name in self.graph.outputs:
                return False
            for node, position in self.graph.readers[name]:
                if not self._word(node, position) and any(
                    v.is_float32 for v in self.graph.output_values(node)
                ):
                    return False
        return any(
            self._word(node, position) == "absorb"
            for name in cone
            for node, position in self.graph.readers[name]
        )

    def _word(self, node: Node, position: int) -> str:
        rule = self.rules[node.name]
        if rule is None or not rule.mask:
            return ""
        word, _, operand = rule.mask.partition(":")
        if operand and node.operands and node.operands[position] != operand:
            return ""
        return word


def mask_sources(
    graph: Graph, seen: Mapping[str, Range], cone: MaskCone, limits: FloatType
) -> frozenset[str]:
    """Inputs and weights that hold "minus infinity" as a large finite number, and only as that."""
    return frozenset(
        value.name
        for value in graph.values.values()
        if value.kind != "computed"
        and value.is_float32
        and (found := seen.get(value.name)) is not None
        and found.minimum <= -limits.overflow
        and max(found.maximum, found.unmasked) < limits.overflow
        and cone.holds((value.name,))
    )
