"""How safe each operator is from overflow in the low type, and what says so."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ampconvert.dtypes import FLOAT_TYPES, FloatType, Low
from ampconvert.graph import Graph, Node, Value
from ampconvert.ranges.calibrate import Range, array_range
from ampconvert.ranges.prove import Proof, stored_values

Level = Literal["PROVED", "CALIBRATED", "AT RISK"]
MARGIN = 8.0  # how much larger than on the calibration data a value may get and still be safe


@dataclass(frozen=True)
class Safety:
    """The evidence for one node, about the largest of its results and operands.

    PROVED: no input within the declared ranges can overflow it. CALIBRATED: what was seen, times
    MARGIN, stays below the limit. AT RISK: neither. `bound` is the proved magnitude and `seen` the
    largest seen one, None where unknown; `slack` is bound / seen, how much the proof overestimates
    at most; `margin` is the limit / bound of a proved node, else the limit / seen.
    """

    node: str
    level: Level
    bound: float | None
    slack: float | None
    seen: float | None
    margin: float | None
    reason: str


def safety(
    graph: Graph,
    proof: Proof | None,
    ranges: Mapping[str, Range],
    low: Low,
    masks: Collection[str] = (),
) -> dict[str, Safety]:
    """The safety of every node that touches float32, by node name.

    `ranges` is what was seen in the float32 model; weights that it lacks are looked at here.
    `masks` names values that hold "minus infinity", whose hidden elements are no risk.
    """
    limits = FLOAT_TYPES[low]
    weights: dict[str, Range] = {}
    found: dict[str, Safety] = {}
    for node in graph.nodes:
        values = [*stored_values(graph, node)]
        if values or _touches_float32(graph, node):
            bound = _bound(proof, [v for v, _ in values])
            seen = {v.name: _seen(v, ranges, weights, proof, masks, low) for v, _ in values}
            found[node.name] = _judge(graph, node, proof, values, bound, seen, limits)
    return found


def _judge(
    graph: Graph,
    node: Node,
    proof: Proof | None,
    values: list[tuple[Value, str]],
    bound: float | None,
    seen: Mapping[str, float | None],
    limits: FloatType,
) -> Safety:
    known = [s for s in seen.values() if s is not None]
    largest = max(known) if known else None
    slack = bound / largest if bound is not None and largest else None
    obstacle = proof.obstacle(graph, node) if proof is not None else "no proof was asked for"
    if not obstacle:
        room = limits.overflow / bound if bound else math.inf
        reason = f"no input within the declared ranges takes it beyond {bound or 0.0:.4g}"
        return Safety(node.name, "PROVED", bound, slack, largest, room, reason)
    margin = limits.overflow / largest if largest else None
    blind = next((v for v, _ in values if seen[v.name] is None), None)
    if blind is not None:
        reason = f"nothing is known of {blind.label or blind.name}: {obstacle}"
        return Safety(node.name, "AT RISK", bound, slack, largest, margin, reason)
    for value, role in values:
        size = seen[value.name] or 0.0
        allowance = 1.0 if value.kind == "weight" else MARGIN
        if size * allowance >= limits.overflow:
            name = value.label or value.name
            reason = f"its {role} {name} reaches {size:.4g}, and {limits.name} ends at "
            reason += f"{limits.max:.5g}; {obstacle}"
            return Safety(node.name, "AT RISK", bound, slack, largest, margin, reason)
    reason = f"seen at {largest or 0.0:.4g} at most; {obstacle}"
    return Safety(node.name, "CALIBRATED", bound, slack, largest, margin, reason)


def _bound(proof: Proof | None, values: list[Value]) -> float | None:
    """The largest proved magnitude; None unless all of them are bounded."""
    if proof is None:
        return None
    bounds = [proof.bounds.get(v.name) for v in values]
    known = [max(-b.lo, b.hi, 0.0) for b in bounds if b is not None]
    return max(known, default=0.0) if len(known) == len(bounds) else None


def _seen(
    value: Value,
    ranges: Mapping[str, Range],
    weights: dict[str, Range],
    proof: Proof | None,
    masks: Collection[str],
    low: Low,
) -> float | None:
    """The largest magnitude seen in a value, without what a mask hides; None if it was not seen."""
    found = ranges.get(value.name) or weights.get(value.name)
    if (found is None or not found.elements) and value.const is not None:
        data = np.asarray(value.const(), dtype=np.float32)
        found = weights[value.name] = array_range(data, low)
    if found is None or not found.elements:
        return None
    bound = proof.bounds.get(value.name) if proof is not None else None
    is_mask = value.name in masks or (bound is not None and bound.hidden is not None)
    return max(found.maximum, found.unmasked, 0.0) if is_mask else found.absmax


def _touches_float32(graph: Graph, node: Node) -> bool:
    values: Iterator[Value | None] = iter((*graph.input_values(node), *graph.output_values(node)))
    return any(v is not None and v.is_float32 for v in values)
