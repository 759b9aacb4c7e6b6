"""What a hazard is: a class with a code, a page, examples and a check."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from ampconvert.dtypes import Low
from ampconvert.findings import Finding, Location, Severity
from ampconvert.graph import Node
from ampconvert.hazards.scene import Scene
from ampconvert.plan import FLOAT32, Plan
from ampconvert.ranges.calibrate import MASK_BELOW, Range


@dataclass(frozen=True)
class Case:
    """An ONNX graph as text, the (minimum, maximum) seen in some of its values, and the type."""

    text: str
    seen: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    low: Low = "float16"

    @property
    def ranges(self) -> dict[str, Range]:
        """`seen` as calibration would have left it."""
        return {name: _range(*ends) for name, ends in self.seen.items()}


class Hazard:
    """One way to go wrong. The docstring is its page: what is wrong, why, and the source.

    `check` must find something in every INVALID case and nothing in a VALID one.
    """

    CODE: ClassVar[str]
    NAME: ClassVar[str]
    ADVICE: ClassVar[str]
    VALID: ClassVar[tuple[Case, ...]]
    INVALID: ClassVar[tuple[Case, ...]]

    def check(self, scene: Scene) -> Iterator[Finding]:
        """Everything in `scene` that this hazard describes."""
        raise NotImplementedError

    def handled(self, found: Finding, scene: Scene, plan: Plan) -> str:
        """How `plan` has dealt with `found` already; "" where it has not."""
        kept = all(plan.compute.get(name, FLOAT32) == FLOAT32 for name in found.nodes)
        return "kept in FP32 by this plan" if kept else ""

    def finding(
        self,
        message: str,
        at: Node,
        nodes: tuple[Node, ...],
        severity: Severity = "warning",
        values: tuple[str, ...] = (),
    ) -> Finding:
        """A Finding of this hazard at the node `at`; `nodes` are those that would go wrong."""
        names = tuple(dict.fromkeys(node.name for node in (at, *nodes)))
        return Finding(
            self.CODE, message, location(at), severity, self.ADVICE, "", self.NAME, names, values
        )


def _range(low: float, high: float) -> Range:
    inside = [abs(end) for end in (low, high) if end > MASK_BELOW]
    return Range(low, high, max(inside, default=0.0), min(abs(low), abs(high)) or 1.0, elements=1)


def location(node: Node) -> Location:
    """Where `node` stands in its model, and in its source where that is known."""
    path, _, line = node.where.rpartition(":")
    if not line.isdigit():
        path, line = node.where, "0"
    return Location(node.name, node.op, node.scope, path, int(line))
