"""What to deny in a plan that failed a check: what overflowed, and what a runtime can't fuse.

Where the error is too large and nothing overflowed, `ampconvert.front` finds another plan.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ampconvert.classify import Decision
from ampconvert.front import denied
from ampconvert.graph import Graph, Node
from ampconvert.plan import Plan
from ampconvert.verify.first_bad import BadTensor

FUSED = 8  # operators that runtimes fuse into one, one behind the other


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
