"""What one conversion amounts to: verdicts and their FLOPs, casts and their bytes, memory, the
worst ops.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ampconvert.cost import BYTES, CONTRACTIONS, Target, flops
from ampconvert.graph import Graph, Node, Value
from ampconvert.plan import FLOAT32, OUTPUT, Plan

VERDICTS = {"allow": "FP16-safe", "deny": "FP32-required", "infer": "neutral", "clear": "neutral"}


@dataclass(frozen=True)
class Verdict:
    """One verdict's nodes: how many, how many of them run in `low`, and their share of all FLOPs
    (0..1).
    """

    name: str
    nodes: int
    in_low: int
    flops_share: float


@dataclass(frozen=True)
class WorstOp:
    """An op and the output error its rounding is predicted to cause (relative L2, share of the
    squared total).
    """

    node: str
    op: str
    scope: str
    where: str
    error: float
    share: float
    compute: str
    reason: str


@dataclass(frozen=True)
class Summary:
    """The figures of one plan; bytes and shares are for the example's sizes."""

    nodes: int
    float_nodes: int
    verdicts: tuple[Verdict, ...]
    flops: float
    flops_low_share: float  # of matrix products and convolutions
    casts: int
    cast_bytes: int
    weight_bytes: tuple[int, int]  # before, after
    activation_bytes: tuple[int, int]  # peak of live values, before and after
    predicted_error: float | None
    worst: tuple[WorstOp, ...]
    unknown_ops: tuple[str, ...]
    predicted_seconds: tuple[float, float] | None = None  # of one run, in float32 and by the plan


def summarise(
    graph: Graph,
    plan: Plan,
    errors: Mapping[str, float] | None = None,
    target: Target | None = None,
) -> Summary:
    """The Summary of `plan` on `graph`; `errors` is the squared relative output error per rounded
    value, `target` what the time is predicted for.
    """
    floats = [node for node in graph.nodes if node.name in plan.compute]
    work = {node.name: flops(graph, node, plan.decisions[node.name].work) for node in floats}
    products = [n for n in floats if plan.decisions[n.name].work in CONTRACTIONS]
    total = sum(work.values())
    heavy = sum(work[n.name] for n in products)
    moved = [graph.values[cast.value].numel * 6 for cast in plan.casts]
    by_op = op_errors(graph, plan, errors) if errors is not None else {}
    return Summary(
        nodes=len(graph.nodes),
        float_nodes=len(floats),
        verdicts=tuple(
            _verdict(
                name,
                [n for n in floats if VERDICTS[plan.decisions[n.name].cls] == name],
                plan,
                work,
                total,
            )
            for name in ("FP16-safe", "FP32-required", "neutral")
        ),
        flops=total,
        flops_low_share=sum(work[n.name] for n in products if plan.compute[n.name] != FLOAT32)
        / heavy
        if heavy
        else 0.0,
        casts=len(plan.casts),
        cast_bytes=sum(moved),
        weight_bytes=_weight_bytes(graph, plan),
        activation_bytes=(_peak_bytes(graph, None), _peak_bytes(graph, plan)),
        predicted_error=sum(by_op.values()) ** 0.5 if errors is not None else None,
        worst=_worst(graph, plan, by_op),
        unknown_ops=tuple(sorted({n.op for n in floats if plan.decisions[n.name].unknown})),
        predicted_seconds=_seconds(graph, plan, floats, target) if target is not None else None,
    )


def _seconds(graph: Graph, plan: Plan, floats: list[Node], target: Target) -> tuple[float, float]:
    before = after = 0.0
    for node in floats:
        types, work = (FLOAT32, plan.compute[node.name]), plan.decisions[node.name].work
        times, launch = target.seconds_in(graph, node, work, types), target.launch_seconds(work)
        before, after = before + launch + times[0], after + launch + times[1]
    return before, after + sum(target.cast_seconds(graph.values[c.value]) for c in plan.casts)


def op_errors(graph: Graph, plan: Plan, errors: Mapping[str, float]) -> dict[str, float]:
    """The squared output error that each op's rounding causes, every rounded tensor counted once.

    A tensor that is made in `low` counts for its op; one that is cast to `low`, and a weight,
    count in equal parts for the ops that read it there. A clear op rounds nothing that its operand
    was not rounded to before.
    """
    found: dict[str, float] = {}
    for node in graph.nodes:
        if plan.compute.get(node.name, FLOAT32) == FLOAT32:
            continue
        if plan.decisions[node.name].cls == "clear":
            found[node.name] = 0.0
        else:
            found[node.name] = sum(
                errors.get(v.name, 0.0) for v in graph.output_values(node) if v.is_float32
            )
    cast = {
        c.value: [n for n, _ in c.readers if n != OUTPUT] for c in plan.casts if c.to == plan.low
    }
    for name, types in plan.weights.items():
        if plan.low in types:
            readers = graph.readers[name]
            cast[name] = [n.name for n, i in readers if plan.type_at(n.name, i) == plan.low]
    for name, users in cast.items():
        for user in users:
            found[user] = found.get(user, 0.0) + errors.get(name, 0.0) / len(users)
    return found


def _verdict(
    name: str, nodes: list[Node], plan: Plan, work: Mapping[str, float], total: float
) -> Verdict:
    in_low = sum(plan.compute[n.name] != FLOAT32 for n in nodes)
    share = sum(work[n.name] for n in nodes) / total if total else 0.0
    return Verdict(name, len(nodes), in_low, share)


def _worst(
    graph: Graph, plan: Plan, by_op: Mapping[str, float], count: int = 5
) -> tuple[WorstOp, ...]:
    total = sum(by_op.values())
    nodes = {node.name: node for node in graph.nodes}
    ranked = sorted(by_op, key=lambda name: by_op[name], reverse=True)[:count]
    return tuple(
        WorstOp(
            name, nodes[name].op, nodes[name].scope, nodes[name].where, by_op[name] ** 0.5,
            by_op[name] / total if total not in (0.0, float("inf")) else 1.0,
            plan.compute[name], plan.decisions[name].reason,
        )
        for name in ranked
        if by_op[name] > 0
    )  # fmt: skip


def _weight_bytes(graph: Graph, plan: Plan) -> tuple[int, int]:
    weights = [v for v in graph.values.values() if v.kind == "weight" and graph.readers[v.name]]
    before = sum(v.numel * _item(v) for v in weights)
    after = sum(
        v.numel * sum(BYTES[t] for t in plan.weights[v.name])
        if v.name in plan.weights
        else v.numel * _item(v)
        for v in weights
    )
    return before, after


def _peak_bytes(graph: Graph, plan: Plan | None) -> int:
    """The largest sum of values alive at one time, each freed after its last reader; casts add
    nothing.
    """
    order = {node.name: i for i, node in enumerate(graph.nodes)}
    last = {
        name: max((order[n.name] for n, _ in readers), default=-1)
        for name, readers in graph.readers.items()
    }
    for name in graph.outputs:
        last[name] = len(graph.nodes)
    alive = sum(graph.values[name].numel * _item(graph.values[name]) for name in graph.inputs)
    peak = alive
    freed_at: dict[int, int] = {}
    for name in graph.inputs:
        freed_at[last[name]] = freed_at.get(last[name], 0) + graph.values[name].numel * _item(
            graph.values[name]
        )
    for i, node in enumerate(graph.nodes):
        low = plan is not None and plan.compute.get(node.name, FLOAT32) != FLOAT32
        for value in graph.output_values(node):
            size = value.numel * (2 if low and value.is_float32 else _item(value))
            alive += size
            end = max(last[value.name], i)
            freed_at[end] = freed_at.get(end, 0) + size
        peak = max(peak, alive)
        alive -= freed_at.get(i, 0)
    return peak


def _item(value: Value) -> int:
    """Bytes per element, from the type's name."""
    digits = "".join(c for c in value.dtype.split("_")[0] if c.isdigit())
    return max(1, int(digits) // 8) if digits else 1
