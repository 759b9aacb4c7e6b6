"""Whether a plan that was read from a file is one, and fits the graph that it is applied to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ampconvert.graph import Graph
from ampconvert.plan import FLOAT32, Cast, Plan, casts_and_weights, touches_float32
from ampconvert.rules import CLASSES, WORKS

_EVIDENCE_TEXTS = ("rule", "reason", "source", "evidence")


def checked(plan: Plan) -> Plan:
    """`plan`, whose fields are as JSON had them. Raises ValueError for the first that is of another
    type than a plan's, or a word that no plan has.
    """
    for complaint in _complaints(plan):
        raise ValueError(f"the plan is damaged: {complaint}")
    return plan


def misfit(plan: Plan, graph: Graph) -> str:
    """What of a checked plan is about something else than `graph`; "" where all of it fits."""
    floats = {node.name for node in graph.nodes if touches_float32(graph, node)}
    if plan.compute.keys() != floats:
        wrong = min(plan.compute.keys() ^ floats)
        return f"it has a type for {wrong}, which needs none" if wrong in plan.compute else (
            f"it has no type for {wrong}"
        )  # fmt: skip
    nodes = {node.name for node in graph.nodes}
    for name in (*(plan.decisions.keys() - nodes), *(plan.scalars.keys() - nodes)):
        return f"the model has no operator {name!r}"
    for name in (*plan.io, *plan.masks):
        if name not in graph.values:
            return f"the model has no value {name!r}"
    if casts_and_weights(graph, plan) != (plan.casts, dict(plan.weights)):
        return "its casts and weights are not those that its types need"
    return ""


def _complaints(plan: Any) -> Iterator[str]:  # no field is sure to be of its type
    types = (FLOAT32, plan.low)
    if not isinstance(plan.fingerprint, str):
        yield "its fingerprint is no text"
    for name, compute in plan.compute.items():
        if compute not in types or name not in plan.decisions:
            yield f"node {name!r} runs in {compute!r}"
    for name, decision in plan.decisions.items():
        if decision.cls not in CLASSES or decision.work not in WORKS:
            yield f"node {name!r} is of the class {decision.cls!r} and the work {decision.work!r}"
        if not all(isinstance(getattr(decision, key), str) for key in _EVIDENCE_TEXTS):
            yield f"the reason for node {name!r} is no text"
        if not (decision.figure is None or _is_number(decision.figure)):
            yield f"the figure of node {name!r} is no number"
        if not all(type(position) is int for position in decision.keep):
            yield f"node {name!r} keeps an input that is no number"
    for cast in plan.casts:
        if not _is_cast(cast, types):
            yield f"the cast of {cast.value!r} is none"
    for name, held in plan.weights.items():
        if not held or any(one not in types for one in held):
            yield f"the weight {name!r} is kept in {held!r}"
    for name, new in plan.scalars.items():
        if not all(_is_number(number) for number in new.values()):
            yield f"a constant of node {name!r} becomes no number"
    if not all(isinstance(name, str) for name in (*plan.masks, *plan.io)):
        yield "a mask, an input or an output has no name"
    if not all(isinstance(repair, Mapping) for repair in plan.repairs):
        yield "a repair is none"


def _is_cast(cast: Cast, types: tuple[str, ...]) -> bool:
    return (
        isinstance(cast.value, str)
        and cast.to in types
        and isinstance(cast.clamp, bool)
        and all(isinstance(node, str) and type(at) is int for node, at in cast.readers)
    )


def _is_number(given: Any) -> bool:
    return isinstance(given, int | float) and not isinstance(given, bool)
