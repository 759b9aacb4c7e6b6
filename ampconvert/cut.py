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
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

FREE, LOW, FULL = "free", "low", "full"


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

    Costs are scaled to integers of about 30 bits in total, the solver's limit.
    """
    names = list(network.low)
    if not names:
        return {}
    index = {name: i + 2 for i, name in enumerate(names)}
    source, sink = 0, 1
    edges: list[tuple[int, int, float]] = []
    unlimited = float("inf")
    for name in names:
        side = network.fixed.get(name, FREE)
        edges.append((source, index[name], unlimited if side == LOW else network.full[name]))
        edges.append((index[name], sink, unlimited if side == FULL else network.low[name]))
    for tie in network.ties:  # around in a circle: none can leave the others' side
        ring = zip(tie, (*tie[1:], *tie[:1]), strict=True)
        edges += [(index[a], index[b], unlimited) for a, b in ring if a != b]
    vertex = len(names) + 2
    for wire in network.wires:
        producer = sink if wire.producer is None else index[wire.producer]
        if wire.readers:
            edges += [(index[r], vertex, unlimited) for r in wire.readers]
            edges.append((vertex, producer, wire.down))
            vertex += 1
        if producer != sink and (wire.readers or wire.full_reader):
            edges.append((producer, vertex, wire.up))
            edges += [(vertex, index[r], unlimited) for r in wire.readers]
            if wire.full_reader:
                edges.append((vertex, sink, unlimited))
            vertex += 1
    low_side = _source_side(edges, vertex, source, sink)
    return {name: bool(low_side[index[name]]) for name in names}


def _source_side(
    edges: Sequence[tuple[int, int, float]], vertices: int, source: int, sink: int
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """The largest source side among the minimum cuts: all that cannot reach the sink in the
    residual.
    """
    tails = np.array([e[0] for e in edges])
    heads = np.array([e[1] for e in edges])
    costs = np.array([e[2] for e in edges])
    finite = np.isfinite(costs)
    total = float(costs[finite].sum()) or 1.0
    scaled = np.where(
        finite, np.rint(np.where(finite, costs, 0.0) / total * 2.0**29), 2.0**29 + len(edges)
    )
    capacity = csr_array(
        (scaled.astype(np.int32), (tails, heads)), shape=(vertices, vertices), dtype=np.int32
    )
    capacity.sum_duplicates()
    flow = maximum_flow(capacity, source, sink).flow
    residual = csr_array(capacity - flow)
    residual.eliminate_zeros()
    reaches_sink = breadth_first_order(csr_array(residual.T), sink, return_predecessors=False)
    side = np.ones(vertices, dtype=np.bool_)
    side[reaches_sink] = False
    return side
