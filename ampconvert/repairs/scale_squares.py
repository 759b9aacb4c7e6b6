"""Norms by hand, x * rsqrt(mean(x^2) + eps): a power of two on x before it is squared.

A float16 square is infinite from 256 on and loses bits below 2^-7; the mean of squares of
activations with large outliers, or tiny ones, leaves float16 though x itself fits well. With x
scaled by 2^k, and eps by 4^k, the same normalised x comes out, exactly; the squares and their sum
may then run in the low type, and what follows of them, a number per row, stays in float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from ampconvert import functions
from ampconvert.classify import HEADROOM
from ampconvert.cost import Target
from ampconvert.dtypes import FLOAT_TYPES, Low
from ampconvert.functions import Call
from ampconvert.graph import Graph
from ampconvert.ranges.calibrate import Range
from ampconvert.repairs.homogeneous import REDUCTIONS, Region, follow
from ampconvert.repairs.repair import Declined, Insert, Names, Read, Repair

KIND = "scale-squares"
# Functions that square inside, with the degree of their result.
_SQUARING = {"sum_square": 2.0, "l2_norm": 1.0, "vector_norm": 1.0, "var": 2.0, "std": 1.0}


def examine(
    graph: Graph, low: Low, ranges: Mapping[str, Range], target: Target | None = None
) -> Iterator[Repair | Declined]:
    """Every sum or mean of squares whose squares leave `low`'s range as they are.

    Offered where one power of two holds both ends: the largest square, with headroom, below
    overflow, and the smallest mean that was seen, or the epsilon that guards it, in the normal
    numbers, so that underflow costs no more than a rounding.
    """
    names = Names(graph)
    order = {node.name: i for i, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        start = functions.call(graph, node)
        region = None if start is None else _region(graph, order, start)
        if start is not None and region is not None:
            found = _judge(graph, start, region, low, ranges, names)
            if found is not None:
                yield found


def _region(graph: Graph, order: Mapping[str, int], start: Call) -> Region | None:
    """What follows from scaling the operand of a square that is summed; None for other nodes."""
    data = start.value(0)
    if (
        data is None
        or not data.is_float32
        or not start.result.is_float32
        or _is_scaled(data.name, graph)
    ):
        return None
    if data.kind == "weight" or start.attr("dtype") not in (None, "float32"):
        return None
    if start.function in _SQUARING:
        if start.function == "vector_norm" and start.attr("ord", "p", default=2) != 2:
            return None
        return follow(graph, order, data.name, start.node, _SQUARING[start.function])
    if not _is_square(start) or not _sums(graph, start):
        return None
    return follow(graph, order, data.name, start.node, 2.0)


def _is_square(call: Call) -> bool:
    if call.function == "mul":
        return call.name(0) == call.name(1)
    return call.function == "square" or (call.function == "pow" and call.number(1) == 2.0)


def _is_scaled(name: str, graph: Graph) -> bool:
    """Whether the value was scaled by a power of two already: by this repair, or by hand."""
    made = functions.maker(graph, name)
    if made is None or made.function != "mul":
        return False
    factors = [abs(n) for i in (0, 1) if (n := made.number(i)) is not None and math.isfinite(n)]
    return any(math.frexp(factor)[0] == 0.5 for factor in factors)


def _sums(graph: Graph, square: Call) -> list[Call]:
    """The sums and means of the squares themselves."""
    readers = (functions.call(graph, node) for node, _ in graph.readers[square.result.name])
    return [call for call in readers if call is not None and call.function in REDUCTIONS]


def _judge(
    graph: Graph,
    start: Call,
    region: Region,
    low: Low,
    ranges: Mapping[str, Range],
    names: Names,
) -> Repair | Declined | None:
    """None where nothing was seen, or the squares fit as they are."""
    data = ranges.get(region.source)
    sums = [start] if start.function in _SQUARING else _sums(graph, start)
    seen = [ranges.get(call.result.name) for call in sums]
    if data is None or data.absmax == 0 or any(r is None for r in seen):
        return None
    limits = FLOAT_TYPES[low]
    exponent = [2 / region.degrees[call.result.name] for call in sums]
    totals = [(r.absmax**e, r.tiny**e) for r, e in zip(seen, exponent, strict=True) if r]
    peak = max(data.absmax**2, *(largest for largest, _ in totals)) * HEADROOM**2
    floor = max(min(smallest for _, smallest in totals), region.guard)
    # Powers of four that keep the largest finite, and the smallest normal.
    most = math.floor(_log4(limits.overflow / peak))
    if 4.0**most * peak >= limits.overflow:
        most -= 1
    least = math.ceil(_log4(limits.tiny / floor)) if 0 < floor < math.inf else -(10**6)
    if least <= 0 <= most:
        return None
    nodes = (start.node.name, *(c.node.name for c in sums if c is not start))
    if least > most:
        return Declined(
            KIND, nodes, f"its squares reach from {floor:.3g} to {peak:.3g}, headroom included: no "
            f"power of two brings both into {low}'s {limits.tiny:.3g} to {limits.max:.5g}",
            start.node.where,
        )  # fmt: skip
    power = most if most < 0 else least
    scaled = names.fresh(f"{start.node.name}_scaled")
    reads = [Read(start.node.name, i, scaled)
             for i, name in enumerate(start.node.inputs) if name == region.source]  # fmt: skip
    insert = Insert(scaled, "mul", (region.source, 2.0**power), start.node.name)
    return Repair(
        KIND, nodes,
        {"power": power, "largest": peak / HEADROOM**2, "smallest": floor},
        f"Its squares reach {peak / HEADROOM**2:.4g} and their sum comes down to {floor:.3g}: with "
        f"2^{power} on what is squared they fit {low}, and the result is the same.",
        (insert, *reads, *region.edits(power, scaled, graph, names)),
        allows=nodes, where=start.node.where,
    )  # fmt: skip


def _log4(number: float) -> float:
    return math.log2(number) / 2
