"""A variance as E[x^2] - E[x]^2: as E[(x - E[x])^2] instead.

The difference of two large numbers keeps what their roundings leave: with a mean of 100 deviations,
float16 has no digit of the variance left, bfloat16 not at 16, and the result may be negative. Two
passes lose nothing (Chan, Golub and LeVeque, The American Statistician 37(3), 1983).
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
from ampconvert.repairs.repair import Become, Declined, Edit, Insert, Names, Repair

KIND = "two-pass-variance"


def examine(
    graph: Graph, low: Low, ranges: Mapping[str, Range], target: Target | None = None
) -> Iterator[Repair | Declined]:
    """Every difference of a mean of squares and a squared mean, along the same axes.

    The squares may run in `low` where the spread of what was seen fits, squared.
    """
    names = Names(graph)
    for node in graph.nodes:
        difference = functions.call(graph, node)
        if difference is None or difference.function != "sub" or difference.factor != 1.0:
            continue
        squares = _mean(graph, difference.name(0))
        mean = _mean(graph, _squared(graph, difference.name(1)))
        if squares is None or mean is None:
            continue
        data = _squared(graph, squares.data)
        alike = squares.axes == mean.axes and squares.result_shape == mean.result_shape
        if data is not None and data == mean.data and alike and difference.result.is_float32:
            yield _repair(graph, difference, squares, mean, low, ranges, names)


class _Mean:
    """A mean of `data` along `axes`, as one node or as a sum over the number of its elements."""

    def __init__(self, call: Call, last: Call, data: str, axes: tuple[int, ...]) -> None:
        self.name = last.result.name
        self.data = data
        self.axes = axes
        self.result_shape = last.result.shape
        rank = len(call.graph.values[data].shape or ())
        self.keeps_axes = len(last.result.shape or ()) == rank


def _mean(graph: Graph, name: str | None) -> _Mean | None:
    """The mean that `name` holds; None where it is something else, or its axes are unknown."""
    last = functions.maker(graph, name)
    if last is None or not last.result.is_float32:
        return None
    call: Call | None = last
    count = None
    if last.function in ("div", "mul") and last.number(1) is not None:
        call = functions.maker(graph, last.name(0))
        count = last.number(1) if last.function == "div" else 1 / (last.number(1) or math.nan)
    data = None if call is None else call.value(0)
    if call is None or data is None or call.attr("dtype") not in (None, "float32"):
        return None
    axes = call.axes()
    if call.function != ("mean" if count is None else "sum") or axes is None or not data.is_float32:
        return None
    sizes = [(data.shape or ())[a] for a in axes]
    if count is not None and (
        not all(isinstance(s, int) for s in sizes)
        or not math.isclose(math.prod(s for s in sizes if isinstance(s, int)), count, rel_tol=1e-6)
    ):
        return None
    return _Mean(call, last, data.name, axes)


def _squared(graph: Graph, name: str | None) -> str | None:
    """What `name` is the square of."""
    made = functions.maker(graph, name)
    if made is None:
        return None
    if made.function == "mul":
        return made.name(0) if made.name(0) == made.name(1) else None
    if made.function == "square" or (made.function == "pow" and made.number(1) == 2.0):
        return made.name(0)
    return None


def _repair(
    graph: Graph,
    difference: Call,
    squares: _Mean,
    mean: _Mean,
    low: Low,
    ranges: Mapping[str, Range],
    names: Names,
) -> Repair:
    node, data = difference.node, mean.data
    edits: list[Edit] = []
    centre = mean.name
    if not mean.keeps_axes and len(mean.axes) < len(graph.values[data].shape or ()):
        centre = names.fresh(f"{node.name}_mean")
        arguments = {"axes": mean.axes, "keepdims": True}
        edits.append(Insert(centre, "mean", (data,), node.name, arguments))
    deviation = names.fresh(f"{node.name}_deviation")
    edits.append(Insert(deviation, "sub", (data, centre), node.name))
    square = names.fresh(f"{node.name}_squared")
    edits.append(Insert(square, "mul", (deviation, deviation), node.name))
    arguments = {"axes": mean.axes, "keepdims": mean.keeps_axes}
    edits.append(Become(node.name, "mean", (square,), arguments))
    seen, found = ranges.get(data), ranges.get(difference.result.name)
    fits, numbers = _fit(seen, found, low)
    return Repair(
        KIND,
        (node.name,),
        numbers,
        "The difference of a mean of squares and a squared mean keeps only what their roundings "
        "leave; the mean of squared deviations loses nothing and is never negative.",
        tuple(edits),
        allows=(square, node.name) if fits else (),
        where=node.where,
    )


def _fit(seen: Range | None, variance: Range | None, low: Low) -> tuple[bool, dict[str, float]]:
    """Whether squared deviations of data so spread, and their means, stay among `low`'s normal
    numbers, and the numbers that say so.
    """
    if seen is None or seen.elements == 0:
        return False, {}
    limits = FLOAT_TYPES[low]
    spread = seen.maximum - seen.minimum
    numbers = {"spread": spread}
    smallest = 0.0
    if variance is not None and variance.elements:
        numbers["variance"] = smallest = max(variance.minimum, 0.0)
    return (HEADROOM * spread) ** 2 < limits.overflow and smallest >= limits.tiny, numbers
