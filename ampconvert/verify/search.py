"""What to change in a plan whose parity failed: extra denials, and a price on error.

Not hundreds of runs, and never one node at a time: an overflow names its node, and for the rest the
error predicted per op goes into the minimum cut, whose price of error is bisected until the whole
plan is predicted to stay inside the tolerance. A handful of cuts, then one run that measures.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from ampconvert.classify import Decision, Verdicts
from ampconvert.cost import Target
from ampconvert.dtypes import Low
from ampconvert.graph import Graph, Node
from ampconvert.plan import FLOAT32, Plan, make_plan
from ampconvert.summary import op_errors
from ampconvert.verify.first_bad import BadTensor

BISECTIONS = 20
FUSED = 8  # operators that runtimes fuse into one, one behind the other
PRICES = (-12.0, 12.0)  # powers of ten, seconds per squared relative error


def blame(plan: Plan, bad: BadTensor | None) -> dict[str, Decision]:
    """A denial for the node whose value overflowed first, when one did and it ran in `low`."""
    name = bad.metadata.get("ampconvert.node", "") if bad else ""
    decision = plan.decisions.get(name)
    if bad is None or decision is None or decision.cls == "deny":
        return {}
    reason = f"It overflowed in the emulated run: {bad.tensor} reaches {bad.absmax:.4g} in float32."
    return {name: denied(decision, "parity", reason, bad.absmax)}


def loosened(graph: Graph, plan: Plan, message: str) -> dict[str, Decision]:
    """Denials for what a runtime fused across types, so that the model does not load.

    `message` is the runtime's and names the fused node. Neutral operators before it that are mixed
    up with denied ones, as the parts of a normalisation are, and the ones right behind it, become
    float32 too: then the fused operator has one type.
    """
    words = set(re.findall(r"[^\s()'\"]+", message))
    named = [
        n for n in graph.nodes if any(w == n.name or w.startswith(f"{n.name}/") for w in words)
    ]
    found: dict[str, Decision] = {}
    for node in named:
        before = _before(graph, plan, node)
        behind = {r.name for out in node.outputs for r, _ in graph.readers[out]}
        for name in (*before, *behind, node.name):
            decision = plan.decisions[name]
            if decision.cls in ("infer", "clear") and plan.compute.get(name) == plan.low:
                reason = f"It is fused with float32 neighbours, and would not load: {node.name}."
                found[name] = denied(decision, "fusion", reason)
    return found


def _beginnings(path: str) -> Iterator[str]:
    """A name, and what stands before each of its slashes."""
    yield path
    yield from (path[:i] for i, letter in enumerate(path) if letter == "/")


def _before(graph: Graph, plan: Plan, node: Node) -> set[str]:
    """The neutral operators up to FUSED steps before `node` that read from or feed denied ones."""
    nodes = {n.name: n for n in graph.nodes}
    mixed: set[str] = set()
    reached, front = {node.name}, [node]
    for _ in range(FUSED):
        makers = [graph.producers.get(v) for n in front for v in n.inputs if v is not None]
        front = [
            m for m in makers
            if m is not None and m.name not in reached and plan.decisions[m.name].cls != "allow"
        ]  # fmt: skip
        reached |= {m.name for m in front}
    for name in reached:
        if plan.decisions[name].cls == "deny":
            own = nodes[name]
            sides = [graph.producers.get(v) for v in own.inputs if v is not None]
            sides += [r for v in own.outputs for r, _ in graph.readers[v]]
            mixed |= {n.name for n in sides if n is not None and n.name in reached}
    return mixed


def denied(decision: Decision, rule: str, reason: str, figure: float | None = None) -> Decision:
    """`decision` as a deny that the search settled."""
    return replace(
        decision, cls="deny", rule=rule, reason=reason, source="", evidence="search", figure=figure
    )


def within(
    graph: Graph,
    verdicts: Verdicts,
    low: Low,
    target: Target,
    errors: Mapping[str, float],
    aim: float,
    io: frozenset[str] = frozenset(),
) -> Plan:
    """The cheapest plan that is predicted to have a relative error of at most `aim`.

    `errors` is the squared relative output error of rounding each value. Where even the dearest
    plan is predicted to miss, that one is returned.
    """
    plan = make_plan(graph, verdicts, low, target, io=io)
    everything = replace(plan, compute=dict.fromkeys(plan.compute, low))
    price_of = op_errors(graph, everything, errors)
    alone = f"Its rounding alone is predicted to cost more than the error budget of {aim:.2g}."
    verdicts = replace(
        verdicts,
        decisions={
            name: denied(decision, "tolerance", alone)
            if price_of.get(name, 0.0) > aim**2
            and decision.cls != "deny"
            and decision.evidence != "user"
            else decision
            for name, decision in verdicts.decisions.items()
        },
    )
    price_of = {name: min(energy, aim**2) for name, energy in price_of.items()}

    def priced(power: float) -> Plan:
        price = 10.0**power
        return make_plan(graph, verdicts, low, target, error=price_of, penalty=price, io=io)

    cheap, dear = PRICES
    best = priced(dear)
    for _ in range(BISECTIONS):
        middle = (cheap + dear) / 2
        candidate = priced(middle)
        if sum(op_errors(graph, candidate, errors).values()) <= aim**2:
            best, dear = candidate, middle
        else:
            cheap = middle
    return _explained(best, aim)


def _explained(plan: Plan, aim: float) -> Plan:
    """`plan`, where the decision of each allow node that was kept in float32 says why."""
    reason = f"Its rounding costs more of the error budget of {aim:.2g} than it saves time."
    decisions = {
        name: denied(decision, "tolerance", reason)
        if decision.cls == "allow" and plan.compute.get(name) == FLOAT32
        else decision
        for name, decision in plan.decisions.items()
    }
    return replace(plan, decisions=decisions)
