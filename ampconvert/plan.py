"""All choices of one conversion as one frozen value: types, casts, weights, and the reason of each.

How it is made:

1. A node that is allow runs in `low`, one that is deny in float32 (`classify`).
2. Every other node, and the place of every Cast, come from one exact minimum cut (`cut`): a node
   costs its time in each type, a value one shared Cast per direction, weights nothing, because they
   are cast offline. Denied nodes that are neighbours therefore form one island: nothing between
   them is ever rounded.
3. `low` error can be priced too: with `penalty` (seconds per unit of predicted squared error) the
   cut keeps in float32 what costs more error than it saves time. A result's rounding is paid by its
   node, that of a cast value or a weight once for all that read it there: their sum is the error
   that `summary.op_errors` predicts for the plan: the cut is exact for time and error together.

A model's inputs and outputs keep their float32 unless `io` names them; their casts are part of the
plan.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
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
    repairs: tuple[Mapping[str, Any], ...] = ()  # made before, as data: `repairs.repair.to_dict`

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
    errors: Mapping[str, float] | None = None,
    penalty: float = 0.0,
    io: frozenset[str] = frozenset(),
) -> Plan:
    """Solve for the types of neutral nodes and for the casts; see the module's text.

    `io` names the float32 inputs and outputs of the model that are to be `low` outside too.
    `errors` is the predicted squared output error of rounding each value, `penalty` its price in
    seconds.
    """
    return Problem(graph, verdicts, low, target, io).plan(errors, penalty)


class Problem:
    """What one plan is to be found for. Time is priced once, so that many prices of error can be
    tried. A model that `trains` keeps its parameters in float32 and casts them in every run.
    """

    def __init__(
        self,
        graph: Graph,
        verdicts: Verdicts,
        low: Low,
        target: Target,
        io: frozenset[str] = frozenset(),
        trains: bool = False,
    ) -> None:
        self.graph, self.verdicts, self.low, self.target, self.io = graph, verdicts, low, target, io
        self.trains = trains
        self.floats = {n.name: n for n in graph.nodes if touches_float32(graph, n)}
        self._times = {
            name: target.seconds_in(graph, node, verdicts.decisions[name].work, (low, FLOAT32))
            for name, node in self.floats.items()
        }

    @cached_property
    def launches(self) -> float:
        """Seconds to start the kernels of all operators: no choice of types changes them."""
        works = (self.verdicts.decisions[name].work for name in self.floats)
        return sum(map(self.target.launch_seconds, works))

    def plan(
        self,
        errors: Mapping[str, float] | None = None,
        penalty: float = 0.0,
        *,
        free: bool | None = None,
        keen: bool = False,
        limit: float = math.inf,
    ) -> Plan:
        """The cheapest plan when squared output error costs `penalty` seconds per unit.

        `errors` is the error of rounding each value; one above `limit` is never rounded. `free`
        lets allow nodes stay in float32 too, as they may where error is priced; with `keen` they
        do so for their error alone, and not because casts cost more than they save.
        """
        network = self.network(errors or {}, penalty, limit)
        if (bool(penalty) and bool(errors)) if free is None else free:
            decisions = self.verdicts.decisions
            for name in self.floats:
                if network.fixed.get(name) == LOW and decisions[name].evidence != "user":
                    del network.fixed[name]
        if keen:
            for name in self.floats:
                network.full[name] += self.bonus(name)
        chosen = minimise(network)
        return self.with_types(
            {name: self.low if chosen[name] else FLOAT32 for name in self.floats}
        )

    def with_types(self, compute: Mapping[str, str]) -> Plan:
        """The plan in which each node runs in the type given, with the casts that this needs."""
        draft = Plan(
            self.low,
            compute,
            (),
            {},
            self.verdicts.decisions,
            self.verdicts.scalars,
            self.verdicts.masks,
            fingerprint(self.graph),
            self.io,
        )
        casts, weights = casts_and_weights(self.graph, draft)
        return replace(draft, casts=casts, weights=weights)

    def bonus(self, node: str) -> float:
        """Seconds that make `low` cheaper for an allow node whatever stands around it; 0 for
        others.
        """
        if self.verdicts.decisions[node].cls != "allow":
            return 0.0
        one = self.floats[node]
        values = [*self.graph.input_values(one), *self.graph.output_values(one)]
        moved = (v for v in values if v is not None and v.is_float32 and v.kind != "weight")
        return sum(map(self.target.cast_seconds, moved)) + max(0.0, -self.saved(node))

    def saved(self, node: str) -> float:
        """The seconds that `node` takes less in `low` than in float32, casts not counted."""
        in_low, in_full = self._times[node]
        return in_full - in_low

    def seconds(self, plan: Plan) -> float:
        """What the target is predicted to take for one run of `plan`: operators and casts."""
        nodes = sum(self._times[n][dtype == FLOAT32] for n, dtype in plan.compute.items())
        casts = (self.graph.values[cast.value] for cast in plan.casts)
        return self.launches + nodes + sum(self.target.cast_seconds(value) for value in casts)

    def network(
        self,
        errors: Mapping[str, float] | None = None,
        penalty: float = 0.0,
        limit: float = math.inf,
    ) -> Network:
        """What the cut is made in: time, and the price of each rounding; that of a result is its
        node's, that of a cast value or a weight is paid once for all that read it there.
        """
        graph, decisions, io = self.graph, self.verdicts.decisions, self.io
        network = Network()
        insisted = {n for n, d in decisions.items() if d.evidence == "user" and d.cls == "allow"}

        known = errors or {}

        def price(name: str) -> float:
            error = known.get(name, 0.0)
            return math.inf if error > limit else penalty * error if penalty else 0.0

        for name, node in self.floats.items():
            network.low[name], network.full[name] = self._times[name]
            if decisions[name].cls in ("allow", "deny"):
                network.fixed[name] = LOW if decisions[name].cls == "allow" else FULL
            made = 0.0  # a clear node rounds nothing that its operand was not rounded to before
            if decisions[name].cls != "clear":
                made = sum(price(v.name) for v in graph.output_values(node) if v.is_float32)
            if math.isinf(made) and name not in insisted:
                network.fixed[name] = FULL
            elif math.isfinite(made):
                network.low[name] += made
        # What is low outside the model is made, and read, by something that is fixed in it.
        outside = {name: f"{OUTPUT}:{name}" for name in io}
        for stand_in in outside.values():
            network.low[stand_in] = network.full[stand_in] = 0.0
            network.fixed[stand_in] = LOW
        outputs = set(graph.outputs)
        for value in graph.values.values():
            if not value.is_float32:
                continue
            full_reader = value.name in outputs and value.name not in io
            readers = {outside[value.name]} if value.name in outputs and value.name in io else set()
            for node, position in graph.readers[value.name]:
                if position in decisions[node.name].keep:
                    full_reader = True
                else:
                    readers.add(node.name)
            rounding = 0.0 if readers & insisted else price(value.name)
            live = self.trains and value.const is None  # a parameter: cast in every run
            if value.kind == "weight" and not live:  # cast offline: that costs no time
                if rounding and readers:
                    wire = Wire(None, tuple(sorted(readers)), rounding, 0.0, full_reader)
                    network.wires.append(wire)
                continue
            maker = _maker(graph, value.name)
            if maker is None and value.kind == "input" and value.name in io:
                maker = outside[value.name]
            seconds = self.target.cast_seconds(value)
            wire = Wire(maker, tuple(sorted(readers)), seconds + rounding, seconds, full_reader)
            network.wires.append(wire)
        network.ties = [tie for tie in graph.ties if all(name in self.floats for name in tie)]
        return network


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


def _maker(graph: Graph, value: str) -> str | None:
    """The node whose type `value` has; None where it is float32 whatever that runs in."""
    producer = graph.producers.get(value)
    if producer is None or producer.outputs.index(value) in producer.fixed_outputs:
        return None
    return producer.name


def casts_and_weights(
    graph: Graph, plan: Plan
) -> tuple[tuple[Cast, ...], dict[str, tuple[str, ...]]]:
    """The casts that the types of `plan` need, and the types that each weight is read in."""
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
        "repairs": list(plan.repairs),
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
                    frozenset(data["io"]), tuple(data["repairs"]))  # fmt: skip
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"the plan is damaged: {error!r}") from error
