"""All choices of one conversion as one frozen value: types, casts, weights, and the reason of each.

How it is made:

1. A node that is allow runs in `low`, one that is deny in float32 (`classify`).
2. Every other node, and the place of every Cast, come from one exact minimum cut (`cut`): a node
costs
   its time in each type, a value one shared Cast per direction, weights nothing, because they are
   cast offline. Denied nodes that are neighbours therefore form one island: nothing between them is
   ever rounded.
3. `low` error can be priced too: with `penalty` (seconds per unit of predicted squared error) the
cut
   keeps in float32 what costs more error than it saves time.

A model's inputs and outputs keep their float32 unless `io` names them; their casts are part of the
plan.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ampconvert.classify import Decision, Verdicts
from ampconvert.cost import Target
from ampconvert.cut import FULL, LOW, Network, Wire, minimise
from ampconvert.dtypes import SPELLINGS, Low
from ampconvert.graph import Graph, Node

OUTPUT = "output"  # stands for the caller among a Cast's readers
FLOAT32 = "float32"


@dataclass(frozen=True)
class Cast:
    """One changed tensor type, shared by its readers, each (node, input position) or (OUTPUT,
    number).

    `clamp` limits what is cast to `low`'s finite range first: a mask given as a huge negative
    number.
    """

    value: str
    to: str
    readers: tuple[tuple[str, int], ...]
    clamp: bool = False


@dataclass(frozen=True)
class Plan:
    """What each node runs in, each weight is kept in, where casts stand, and why.

    `compute` holds a type for every node that touches float32. `weights` gives the types a weight
    is needed in: one, or both where readers differ. `scalars` replaces mask constants of nodes.
    """

    low: Low
    compute: Mapping[str, str]
    casts: tuple[Cast, ...]
    weights: Mapping[str, tuple[str, ...]]
    decisions: Mapping[str, Decision]
    scalars: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    masks: frozenset[str] = frozenset()
    fingerprint: str = ""  # of the graph it was made for
    io: frozenset[str] = frozenset()  # the model's inputs and outputs that are `low` outside too

    def type_at(self, node: str, position: int) -> str:
        """The type that `node` reads its float input `position` in."""
        decision = self.decisions[node]
        return FLOAT32 if position in decision.keep else self.compute[node]

    def type_of(self, graph: Graph, value: str) -> str:
        """The type that a float32 input or result of the model's nodes is held in."""
        maker = _maker(graph, value)
        if maker is not None:
            return self.compute[maker]
        is_input = graph.values[value].kind == "input"
        return self.low if is_input and value in self.io else FLOAT32

    def count(self, cls: str) -> int:
        """How many nodes that touch float32 were given this class."""
        return sum(self.decisions[n].cls == cls for n in self.compute)


def make_plan(
    graph: Graph,
    verdicts: Verdicts,
    low: Low,
    target: Target,
    *,
    error: Mapping[str, float] | None = None,
    penalty: float = 0.0,
    io: frozenset[str] = frozenset(),
) -> Plan:
    """Solve for the types of neutral nodes and for the casts; see the module's text.

    `io` names the float32 inputs and outputs of the model that are to be `low` outside too. `error`
    is the predicted squared output error of running a node in `low`, `penalty` its price in
    seconds; where it is priced, an allow node may be kept in float32 too.
    """
    floats = {n.name: n for n in graph.nodes if touches_float32(graph, n)}
    network = _network(graph, floats, verdicts, low, target, io)
    if error and penalty:
        for name in network.low:
            network.low[name] += penalty * error.get(name, 0.0)
            if network.fixed.get(name) == LOW:
                del network.fixed[name]
    chosen = minimise(network)
    compute = {name: low if chosen[name] else FLOAT32 for name in floats}
    draft = Plan(
        low,
        compute,
        (),
        {},
        verdicts.decisions,
        verdicts.scalars,
        verdicts.masks,
        fingerprint(graph),
        io,
    )
    casts, weights = _casts(graph, draft)
    return replace(draft, casts=casts, weights=weights)


def touches_float32(graph: Graph, node: Node) -> bool:
    """Whether any float32 tensor goes into or comes out of `node`: only then there is a choice."""
    inputs = (v for v in graph.input_values(node) if v is not None)
    return any(v.is_float32 for v in (*inputs, *graph.output_values(node)))


def low_is_unused(plan: Plan) -> bool:
    """Whether everything that could run in `low` was left in float32."""
    return bool(plan.compute) and all(dtype == FLOAT32 for dtype in plan.compute.values())


def fingerprint(graph: Graph) -> str:
    """A digest of the operators and their wiring, so that a saved plan is refused for another
    model.
    """
    import hashlib

    digest = hashlib.sha256()
    for node in graph.nodes:
        digest.update(
            f"{node.name}={node.op}.{node.overload}{node.inputs}{node.outputs}\n".encode()
        )
    return digest.hexdigest()[:16]


def _network(
    graph: Graph,
    floats: Mapping[str, Node],
    verdicts: Verdicts,
    low: Low,
    target: Target,
    io: frozenset[str],
) -> Network:
    network = Network()
    for name, node in floats.items():
        decision = verdicts.decisions[name]
        seconds = target.seconds_in(graph, node, decision.work, (low, FLOAT32))
        network.low[name], network.full[name] = seconds
        if decision.cls in ("allow", "deny"):
            network.fixed[name] = LOW if decision.cls == "allow" else FULL
    # What is low outside the model is made, and read, by something that is fixed in it.
    outside = {name: f"{OUTPUT}:{name}" for name in io}
    for stand_in in outside.values():
        network.low[stand_in] = network.full[stand_in] = 0.0
        network.fixed[stand_in] = LOW
    outputs = set(graph.outputs)
    for value in graph.values.values():
        if not value.is_float32 or value.kind == "weight":
            continue
        full_reader = value.name in outputs and value.name not in io
        readers = {outside[value.name]} if value.name in outputs and value.name in io else set()
        for node, position in graph.readers[value.name]:
            if position in verdicts.decisions[node.name].keep:
                full_reader = True
            else:
                readers.add(node.name)
        maker = _maker(graph, value.name)
        if maker is None and value.kind == "input" and value.name in io:
            maker = outside[value.name]
        price = target.cast_seconds(value)
        wire = Wire(maker, tuple(sorted(readers)), price, price, full_reader)
        network.wires.append(wire)
    network.ties = [tie for tie in graph.ties if all(name in floats for name in tie)]
    return network


def _maker(graph: Graph, value: str) -> str | None:
    """The node whose type `value` has; None where it is float32 whatever that runs in."""
    producer = graph.producers.get(value)
    if producer is None or producer.outputs.index(value) in producer.fixed_outputs:
        return None
    return producer.name


def _casts(graph: Graph, plan: Plan) -> tuple[tuple[Cast, ...], dict[str, tuple[str, ...]]]:
    """The casts that the chosen types need, and the types that each weight is read in."""
    casts: list[Cast] = []
    weights: dict[str, tuple[str, ...]] = {}
    places: dict[str, list[int]] = defaultdict(list)
    for i, name in enumerate(graph.outputs):
        places[name].append(i)
    for value in graph.values.values():
        if not value.is_float32:
            continue
        wanted: dict[str, list[tuple[str, int]]] = {FLOAT32: [], plan.low: []}
        for node, position in graph.readers[value.name]:
            wanted[plan.type_at(node.name, position)].append((node.name, position))
        outside = plan.low if value.name in plan.io else FLOAT32
        wanted[outside] += [(OUTPUT, i) for i in places[value.name]]
        if value.kind == "weight":
            weights[value.name] = tuple(t for t, readers in wanted.items() if readers) or (FLOAT32,)
            continue
        held = plan.type_of(graph, value.name)
        for dtype, readers in wanted.items():
            if readers and dtype != held:
                casts.append(Cast(value.name, dtype, tuple(readers), value.name in plan.masks))
    return tuple(casts), weights


def describe_counts(plan: Plan) -> dict[str, int]:
    """Nodes per verdict as users read it: FP16-safe, FP32-required, neutral."""
    neutral = plan.count("infer") + plan.count("clear")
    return {"safe": plan.count("allow"), "required": plan.count("deny"), "neutral": neutral}


def to_dict(plan: Plan) -> dict[str, Any]:
    """The plan as JSON-ready data; `from_dict` reads it back to an equal plan."""
    return {
        "schema": 1,
        "low": plan.low,
        "fingerprint": plan.fingerprint,
        "nodes": {
            name: {"compute": plan.compute.get(name), **vars(decision)}
            for name, decision in plan.decisions.items()
        },
        "casts": [dict(vars(cast)) for cast in plan.casts],
        "weights": {name: list(types) for name, types in plan.weights.items()},
        "scalars": {name: dict(new) for name, new in plan.scalars.items()},
        "masks": sorted(plan.masks),
        "io": sorted(plan.io),
    }


def from_dict(data: Mapping[str, Any]) -> Plan:
    """A plan from `to_dict`'s data. Raises ValueError naming what is missing or of another
    schema.
    """
    if not isinstance(data, Mapping) or data.get("schema") != 1:
        raise ValueError("this is no ampconvert plan of schema 1")
    try:
        nodes = {name: dict(entry) for name, entry in data["nodes"].items()}
        compute = {n: c for n, e in nodes.items() if (c := e.pop("compute")) is not None}
        decisions = {n: Decision(**{**e, "keep": tuple(e["keep"])}) for n, e in nodes.items()}
        casts = tuple(
            Cast(c["value"], c["to"], tuple((n, i) for n, i in c["readers"]), c["clamp"])
            for c in data["casts"]
        )
        weights = {name: tuple(types) for name, types in data["weights"].items()}
        if data["low"] not in SPELLINGS.values():
            raise TypeError(f"no type is named {data['low']!r}")
        scalars = {name: dict(new) for name, new in data["scalars"].items()}
        return Plan(data["low"], compute, casts, weights, decisions, scalars,
                    frozenset(data["masks"]), data["fingerprint"],
                    frozenset(data["io"]))  # fmt: skip
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the plan is damaged: {error!r}") from error
