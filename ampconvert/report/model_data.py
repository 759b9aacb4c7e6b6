"""The operators, casts and plans of a model as data: verdicts, and what each costs and errs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ampconvert.cost import BYTES, Target, flops, target_named
from ampconvert.dtypes import FLOAT_TYPES
from ampconvert.graph import Graph, Node, Value
from ampconvert.plan import FLOAT32, Plan
from ampconvert.report.words import verdict_name
from ampconvert.summary import VERDICTS, op_errors

if TYPE_CHECKING:
    from ampconvert.classify import Decision
    from ampconvert.conversion import Analysis, Conversion, Pareto
    from ampconvert.front import Point


@dataclass(frozen=True)
class Described:
    """One operator's figures by the plan: predicted seconds in float32 and as planned, bytes of
    float results and of weights that are read, before and after, and the relative L2 error of the
    outputs that its rounding is predicted to cause; None where that is not known.
    """

    flops: float
    seconds: tuple[float, float]
    result_bytes: tuple[int, int]
    weight_bytes: tuple[int, int]
    output_error: float | None


def nodes(found: Analysis) -> list[dict[str, Any]]:
    """Every operator with its verdict, what speaks for it, what it costs and what it errs."""
    described = describe(found)
    return [
        {**node(found, one), **vars(described[one.name]), "inputs": one.inputs,
         "outputs": one.outputs}
        for one in found.graph.nodes
    ]  # fmt: skip


def describe(found: Analysis) -> dict[str, Described]:
    """The figures of every operator by name; those that touch no float32 cost nothing here."""
    graph, plan = found.graph, found.plan
    target = target_named(found.target)
    errors = op_errors(graph, plan, found.errors) if found.errors is not None else None
    return {
        one.name: Described(
            flops(graph, one, _work(plan, one)) if one.name in plan.compute else 0.0,
            _seconds(graph, plan, one, target),
            _result_bytes(graph, plan, one),
            _weight_bytes(graph, plan, one),
            math.sqrt(errors.get(one.name, 0.0)) if errors is not None else None,
        )
        for one in graph.nodes
    }


def node(found: Analysis, one: Node) -> dict[str, Any]:
    """One node with its verdict and everything that speaks for it."""
    decision = found.plan.decisions[one.name]
    return {
        "node": one.name,
        "op": one.op,
        "overload": one.overload,
        "scope": one.scope,
        "where": one.where,
        "runs_in": found.plan.compute.get(one.name),
        **verdict(found.low, decision),
        "keep_inputs": [one.operands[i] if one.operands else str(i) for i in decision.keep],
        "seen": {name: found.ranges[name] for name in one.outputs if name in found.ranges},
        "predicted_error": predicted_error(found, one),
        "alone": _alone(found, one),
        "safety": found.safety.get(one.name),
    }


def verdict(low: str, decision: Decision) -> dict[str, Any]:
    """A decision as a report tells it."""
    return {
        "verdict": verdict_name(VERDICTS[decision.cls], low),
        "class": decision.cls,
        "rule": decision.rule,
        "reason": decision.reason,
        "source": decision.source,
        "evidence": decision.evidence,
        "figure": decision.figure,
        "unknown": decision.unknown,
    }


def predicted_error(found: Analysis, one: Node) -> float | None:
    """The relative output error of rounding this node's results alone; None when not measured."""
    if found.errors is None:
        return None
    known = [found.errors[name] for name in one.outputs if name in found.errors]
    return math.sqrt(sum(known)) if known else None


def casts(found: Analysis) -> Iterator[dict[str, Any]]:
    """The casts of activations in the order of the plan, each with its maker, readers and price."""
    graph, plan = found.graph, found.plan
    target = target_named(found.target)
    for cast in plan.casts:
        value = graph.values[cast.value]
        maker = graph.producers.get(cast.value)
        yield {
            "value": cast.value,
            "label": value.label,
            "from": FLOAT32 if cast.to != FLOAT32 else plan.low,
            "to": cast.to,
            "maker": maker.name if maker else None,
            "scope": maker.scope if maker else "",
            "readers": list(dict.fromkeys(name for name, _ in cast.readers)),
            "bytes": value.numel * (BYTES[FLOAT32] + BYTES[plan.low]),
            "seconds": target.cast_seconds(value),
            "clamp": cast.clamp,
        }


def limits(low: str) -> dict[str, Any]:
    """What the low type can hold, as plain numbers."""
    kind = FLOAT_TYPES[low]
    return {
        "name": kind.name,
        "max": kind.max,
        "smallest_normal": kind.tiny,
        "smallest": kind.smallest,
        "unit_roundoff": kind.unit,
    }


def predicted_front(done: Conversion) -> dict[str, Any] | None:
    """The plans worth having by prediction, and those that were tried, with what they measured;
    None where no front was made.
    """
    if not done.front or done.summary.predicted_seconds is None:
        return None
    chosen = done.plan.compute
    points = [_point(p, None, p.plan.compute == chosen) for p in done.front]
    for attempt in done.attempts:
        same = [
            p
            for p in points
            if p["full"] == attempt.full and math.isclose(p["seconds"], attempt.seconds)
        ]
        for point in same:
            point["measured"] = attempt.measured
            point["default"] |= attempt.aim is None
        if not same:
            points.append(
                {
                    "seconds": attempt.seconds, "error": attempt.predicted,
                    "measured": attempt.measured, "full": attempt.full, "casts": None,
                    "chosen": attempt is done.attempts[-1] and not any(p["chosen"] for p in points),
                    "default": attempt.aim is None,
                }
            )  # fmt: skip
    return {"seconds_full": done.summary.predicted_seconds[0], "points": points}


def measured_front(found: Pareto) -> dict[str, Any]:
    """The front of `--pareto`, every point of it measured."""
    default = found.default.point.plan.compute
    points = [
        {**_point(t.point, t.measured, False), "default": t.point.plan.compute == default}
        for t in found.points
    ]
    if not any(point["default"] for point in points):
        points.append(
            {**_point(found.default.point, found.default.measured, False), "default": True}
        )
    return {"seconds_full": found.seconds_full, "points": points}


def _point(point: Point, measured: float | None, chosen: bool) -> dict[str, Any]:
    return {
        "seconds": point.seconds,
        "error": point.error,
        "measured": measured,
        "full": point.full,
        "casts": len(point.plan.casts),
        "chosen": chosen,
        "default": False,
    }


def _alone(found: Analysis, one: Node) -> dict[str, float | None] | None:
    """The relative output error of running this node alone in the low type, where it was asked
    for.
    """
    if one.name not in found.alone:
        return None
    predicted, energy = found.alone[one.name]
    guess = math.sqrt(predicted) if predicted is not None else None
    return {"predicted": guess, "measured": math.sqrt(energy)}


def _work(plan: Plan, one: Node) -> str:
    return plan.decisions[one.name].work


def _seconds(graph: Graph, plan: Plan, one: Node, target: Target) -> tuple[float, float]:
    if one.name not in plan.compute:
        return (0.0, 0.0)
    work = _work(plan, one)
    launch = target.launch_seconds(work)
    full, planned = target.seconds_in(graph, one, work, (FLOAT32, plan.compute[one.name]))
    return launch + full, launch + planned


def _result_bytes(graph: Graph, plan: Plan, one: Node) -> tuple[int, int]:
    results = [v for v in graph.output_values(one) if v.is_float32]
    before = sum(v.numel for v in results) * BYTES[FLOAT32]
    after = sum(v.numel * BYTES[plan.type_of(graph, v.name)] for v in results)
    return before, after


def _weight_bytes(graph: Graph, plan: Plan, one: Node) -> tuple[int, int]:
    """Bytes of the float32 weights that the node reads, each in the type that it reads it in."""
    before = after = 0
    for position, value in enumerate(graph.input_values(one)):
        if value is not None and _is_weight(value) and one.name in plan.compute:
            before += value.numel * BYTES[FLOAT32]
            after += value.numel * BYTES[plan.type_at(one.name, position)]
    return before, after


def _is_weight(value: Value) -> bool:
    return value.kind == "weight" and value.is_float32
