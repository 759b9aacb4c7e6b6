"""The cheapest choice of a type per node, and of the casts between them, as one exact minimum cut.

Every node n is a vertex; the side of the source runs in `low`, the side of the sink in float32.
With x_n = 1 for `low` the cost to minimise is

    sum over nodes   x_n * low_n + (1 - x_n) * full_n
    sum over values  down_v if v is float32 and any reader is in `low`      (one shared Cast)
                     up_v   if v is in `low` and any reader is float32

All terms that couple two nodes have the form w * x_a * (1 - x_b) with w >= 0, so the minimum cut of
this network is the minimum of the cost (Picard and Ratliff 1975; Kolmogorov and Zabih, PAMI 2004).
A value's readers share one cast through an auxiliary vertex: for the down-cast each reader points
to it without limit and it points to the producer with down_v; for the up-cast the other way round.
Where only one reader counts, the edge goes straight between the two.

scipy's solver has capacities of 32 bits, which is too coarse for a large model: beside the sum of
all casts, a single node's gain is nothing. So the flow is found in several rounds, as in scaling
algorithms for network flows (Gabow, JCSS 31(2), 1985): costs become integers of 60 bits, a round
solves for their leading bits, and the next one starts from what capacity is left.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

LOW, FULL = "low", "full"
SOURCE, SINK = 0, 1  # vertices
EXACT_BITS, SOLVER_BITS = 60, 30

Capacity: TypeAlias = Any  # csr_array of integers: from tail (row) to head (column)
Side: TypeAlias = np.ndarray[tuple[int], np.dtype[np.bool_]]


@dataclass(frozen=True)
class Wire:
    """One value that may be cast: who makes it (None: held in float32 outside), who reads it, what
    casts cost.

    `full_reader` says that something that is always float32 reads it too (a model output, an
    operand that must stay).
    """

    producer: str | None
    readers: tuple[str, ...]
    down: float
    up: float
    full_reader: bool = False


@dataclass
class Network:
    """Costs of one conversion. `fixed` pins a node to LOW or FULL, `ties` are nodes of one type."""

    low: dict[str, float] = field(default_factory=dict)
    full: dict[str, float] = field(default_factory=dict)
    fixed: dict[str, str] = field(default_factory=dict)
    wires: list[Wire] = field(default_factory=list)
    ties: list[tuple[str, ...]] = field(default_factory=list)

    def price(self, choice: Mapping[str, bool]) -> float:
        """What a choice (True: `low`) costs; infinite when it breaks a pin or a tie."""
        if any(choice[n] != (side == LOW) for n, side in self.fixed.items()):
            return float("inf")
        if any(len({choice[n] for n in tie}) > 1 for tie in self.ties):
            return float("inf")
        total = sum(self.low[n] if chosen else self.full[n] for n, chosen in choice.items())
        for wire in self.wires:
            made_low = wire.producer is not None and choice[wire.producer]
            if made_low and (wire.full_reader or any(not choice[r] for r in wire.readers)):
                total += wire.up
            if not made_low and any(choice[r] for r in wire.readers):
                total += wire.down
        return total


def minimise(network: Network) -> dict[str, bool]:
    """For each node whether it runs in `low`, at the least total cost; ties go to `low`.

    Exact for costs rounded to 2**-60 of their sum. A tie of nodes that are pinned to both types
    runs in float32.
    """
    if not network.low:
        return {}
    vertex = _vertices(network)
    edges = _Edges(max(SINK, *vertex.values()) + 1)
    low, full = defaultdict[int, float](float), defaultdict[int, float](float)
    for name, v in vertex.items():
        low[v] += network.low[name]
        full[v] += network.full[name]
    for v in low:  # only the difference decides
        edges.add(v, SINK, low[v] - full[v])
        edges.add(SOURCE, v, full[v] - low[v])
    for wire in network.wires:
        producer = SINK if wire.producer is None else vertex[wire.producer]
        readers = {vertex[name] for name in wire.readers}
        edges.add_down_cast(producer, readers, wire.down)
        edges.add_up_cast(producer, readers | ({SINK} if wire.full_reader else set()), wire.up)
    low_side = _source_side(edges.capacity())
    return {name: bool(low_side[v]) for name, v in vertex.items()}


def _vertices(network: Network) -> dict[str, int]:
    """The vertex of each node: a terminal for what is pinned, a common one for what is tied."""
    leader = {name: name for name in network.low}

    def find(name: str) -> str:
        while leader[name] != name:
            leader[name] = name = leader[leader[name]]
        return name

    for tie in network.ties:
        for name in tie:
            leader[find(name)] = find(tie[0])
    found: dict[str, int] = {}
    for side, terminal, cost in ((LOW, SOURCE, network.full), (FULL, SINK, network.low)):
        pinned = [n for n, to in network.fixed.items() if to == side]
        found |= {find(n): terminal for n in (*pinned, *(n for n in cost if cost[n] == math.inf))}
    free = SINK + 1
    for name in network.low:
        if find(name) not in found:
            found[find(name)] = free
            free += 1
    return {name: found[find(name)] for name in network.low}


class _Edges:
    """The edges of the flow network, with auxiliary vertices after the nodes' own."""

    def __init__(self, vertices: int) -> None:
        self.vertices = vertices
        self.tails: list[int] = []
        self.heads: list[int] = []
        self.costs: list[float] = []

    def add(self, tail: int, head: int, cost: float) -> None:
        """Pay `cost` where `tail` is in `low` and `head` in float32; nothing for what can't be."""
        if cost > 0 and tail not in (head, SINK) and head != SOURCE:
            self.tails.append(tail)
            self.heads.append(head)
            self.costs.append(cost)

    def add_down_cast(self, producer: int, readers: AbstractSet[int], cost: float) -> None:
        """Pay `cost` once where any reader is in `low` and the producer in float32."""
        able = readers - {producer, SINK}
        if producer == SOURCE or not able:
            return
        if SOURCE in able or len(able) == 1:
            self.add(SOURCE if SOURCE in able else next(iter(able)), producer, cost)
            return
        shared = self._new()
        for reader in able:
            self.add(reader, shared, math.inf)
        self.add(shared, producer, cost)

    def add_up_cast(self, producer: int, readers: AbstractSet[int], cost: float) -> None:
        """Pay `cost` once where the producer is in `low` and any reader in float32."""
        able = readers - {producer, SOURCE}
        if producer == SINK or not able:
            return
        if SINK in able or len(able) == 1:
            self.add(producer, SINK if SINK in able else next(iter(able)), cost)
            return
        shared = self._new()
        for reader in able:
            self.add(shared, reader, math.inf)
        self.add(producer, shared, cost)

    def _new(self) -> int:
        self.vertices += 1
        return self.vertices - 1

    def capacity(self) -> Capacity:
        """The costs as integers; scaled by a power of two, which leaves equal sums equal."""
        shape = (self.vertices, self.vertices)
        costs = csr_array((self.costs, (self.tails, self.heads)), shape=shape, dtype=np.float64)
        costs.sum_duplicates()
        finite = np.isfinite(costs.data)
        total = math.frexp(float(costs.data[finite].sum()))[1]
        scaled = np.rint(np.ldexp(np.where(finite, costs.data, 0.0), EXACT_BITS - total))
        whole = scaled.astype(np.int64)
        whole[~finite] = whole.sum() + 1  # no minimum cut has it
        return csr_array((whole, costs.indices, costs.indptr), shape=shape)


def _source_side(capacity: Capacity) -> Side:
    """The largest source side among the minimum cuts: all that cannot reach the sink in the
    residual.
    """
    left = capacity
    bound = int(min(left[[SOURCE]].sum(), left[:, [SINK]].sum()))  # on what can flow yet
    while not (side := _cannot_reach_sink(left))[SOURCE]:
        shift = max(0, bound.bit_length() - SOLVER_BITS)
        step = (np.minimum(left.data, max(bound, 1)) >> shift).astype(np.int32)
        coarse = csr_array((step, left.indices, left.indptr), shape=left.shape)
        found = maximum_flow(coarse, SOURCE, SINK)
        upper = _cannot_reach_sink(csr_array(coarse - found.flow))
        left = csr_array(left - found.flow.astype(np.int64) * (1 << shift))
        left.eliminate_zeros()
        tails = np.repeat(np.arange(left.shape[0]), np.diff(left.indptr))
        crossing = left.data[upper[tails] & ~upper[left.indices]]
        bound = min(bound - (int(found.flow_value) << shift), int(crossing.sum()))
    return side


def _cannot_reach_sink(residual: Capacity) -> Side:
    edges = csr_array(residual.T)
    edges.eliminate_zeros()
    side = np.ones(residual.shape[0], dtype=np.bool_)
    side[breadth_first_order(edges, SINK, return_predecessors=False)] = False
    return side
