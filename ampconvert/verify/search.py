"""What to change in a plan whose parity failed: extra denials, and a price on error.

Not hundreds of runs, and never one node at a time: an overflow names its node, and for the rest the
error predicted per op goes into the minimum cut, whose price of error is bisected until the whole
plan is predicted to stay inside the tolerance. A handful of cuts, then one run that measures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ampconvert.classify import Decision, Verdicts
from ampconvert.cost import Target
from ampconvert.dtypes import Low
from ampconvert.graph import Graph
from ampconvert.plan import FLOAT32, Plan, make_plan
from ampconvert.summary import op_errors
from ampconvert.verify.first_bad import BadTensor

BISECTIONS = 20
PRICES = (-12.0, 12.0)  # powers of ten, seconds per squared relative error


def blame(plan: Plan, bad: BadTensor | None) -> dict[str, Decision]:
    """A denial for the node whose value overflowed first, when one did and it ran in `low`."""
    name = bad.metadata.get("ampconvert.node", "") if bad else ""
    decision = plan.decisions.get(name)
    if bad is None or decision is None or decision.cls == "deny":
        return {}
    reason = f"It overflowed in the emulated run: {bad.tensor} reaches {bad.absmax:.4g} in float32."
    return {name: denied(decision, "parity", reason, bad.absmax)}


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
