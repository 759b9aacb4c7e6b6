"""How a power of two on a tensor travels through what is computed from it.

A function f is homogeneous of degree d where f(s x) = s^d f(x): with s a power of two that holds
to the last bit, barring overflow and underflow. Squares have degree 2, their mean too, its root 1,
the root's reciprocal -1; what is added on the way has to be scaled alike. A product of degree -1
with the scaled tensor itself is what it was, and there the scale is gone.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ampconvert import functions
from ampconvert.functions import Call
from ampconvert.graph import Graph, Node
from ampconvert.repairs.repair import Become, Edit, InsertAfter, Names, Read
from ampconvert.repairs.shapes import VIEWS, is_whole, same_rank

REDUCTIONS = ("sum", "mean")
_DEGREES: dict[str, Callable[[float], float]] = {
    **dict.fromkeys((*VIEWS, *REDUCTIONS, "abs", "neg", "relu"), lambda d: d),
    "sqrt": lambda d: d / 2,
    "rsqrt": lambda d: -d / 2,
    "reciprocal": lambda d: -d,
    "square": lambda d: 2 * d,
}
_BOUNDED = {"clamp", "maximum", "minimum"}


@dataclass
class Region:
    """What follows from scaling `source` where its square reads it.

    `degrees` of values, by name; `constants`, nodes with the numbers in them, unscaled;
    `cancelled`, the (node, position)s that read the source and may read it scaled because
    the scales cancel there; `boundary`, the (node, position)s that need what they read unscaled.
    """

    source: str
    degrees: dict[str, float] = field(default_factory=dict)
    constants: dict[str, Become] = field(default_factory=dict)
    cancelled: list[tuple[str, int]] = field(default_factory=list)
    boundary: list[tuple[str, int, str]] = field(default_factory=list)
    guard: float = 0.0  # the largest number added to, or bounding from below, in units of degree 2

    def edits(self, power: int, scaled: str, graph: Graph, names: Names) -> tuple[Edit, ...]:
        """Let the region compute with source * 2^power, which the value `scaled` holds."""
        found: list[Edit] = [Read(node, position, scaled) for node, position in self.cancelled]
        found += [self._scaled(become, power) for become in self.constants.values()]
        restored: dict[str, str] = {}
        for node, position, value in self.boundary:
            if value not in restored:
                maker = graph.producers[value].name
                restored[value] = names.fresh(f"{maker}_restored")
                back = 2.0 ** -(power * self.degrees[value])
                found.append(InsertAfter(restored[value], "mul", (value, back), maker))
            found.append(Read(node, position, restored[value]))
        return tuple(found)

    def _scaled(self, become: Become, power: int) -> Become:
        degree = self.degrees[next(o for o in become.operands if isinstance(o, str))]
        factor = 2.0 ** (power * degree)
        operands = tuple(o * factor if isinstance(o, float) else o for o in become.operands)
        return Become(become.node, become.function, operands, become.arguments)


def follow(
    graph: Graph, order: Mapping[str, int], source: str, start: Node, degree: float
) -> Region | None:
    """The region of nodes that stay right when `start` reads `source` scaled.

    `order` is each node's place in the graph. None where the model returns the square itself.
    """
    square = start.outputs[0]
    if square in graph.outputs:
        return None
    region = Region(source, {square: degree})
    ahead: list[int] = []
    waiting: set[int] = set()

    def reach(name: str) -> None:
        for reader, _ in graph.readers[name]:
            if order[reader.name] not in waiting:
                waiting.add(order[reader.name])
                heapq.heappush(ahead, order[reader.name])

    reach(square)
    while ahead:  # in execution order: what a node reads is settled when its turn comes
        node = graph.nodes[heapq.heappop(ahead)]
        _step(graph, region, node)
        for name in node.outputs:
            if name in region.degrees:
                reach(name)
    return region


def _step(graph: Graph, region: Region, node: Node) -> None:
    """Carry the region over `node`, or end it before."""
    call = functions.call(graph, node)
    degree = None if call is None else _degree(region, call)
    if degree is not None and call is not None and is_whole(degree) and call.result.is_float32:
        if degree == 0:
            return
        if call.result.name not in graph.outputs:
            region.degrees[call.result.name] = degree
            return
    region.constants.pop(node.name, None)
    region.cancelled = [place for place in region.cancelled if place[0] != node.name]
    for position, name in enumerate(node.inputs):
        if name is not None and name in region.degrees:
            region.boundary.append((node.name, position, name))


def _degree(region: Region, call: Call) -> float | None:
    """The degree of the call's result, 0 where the scales cancel; None where it has none.

    Notes in `region` which of the call's constants have to be scaled.
    """
    given = [region.degrees.get(call.name(i) or "") for i in range(len(call.operands))]
    function = call.function
    if function in ("mul", "div", "add", "sub") and len(given) == 2:
        return _binary(region, call, given[0], given[1])
    if given[0] is None or any(d is not None for d in given[1:]):
        return None
    if function in _BOUNDED:
        return given[0] if _bounded(region, call, given[0]) else None
    exponent = call.number(1) if function == "pow" else None
    if exponent is not None:
        return given[0] * exponent
    if function in _DEGREES and _keeps_type(call):
        return _DEGREES[function](given[0])
    return None


def _binary(region: Region, call: Call, one: float | None, other: float | None) -> float | None:
    if call.factor != 1.0 or call.attr("rounding_mode") is not None:
        return None
    if call.function in ("add", "sub"):
        return _sum(region, call, one, other)
    sign = 1 if call.function == "mul" else -1
    if one is not None and other is not None:
        return one + sign * other
    place = 0 if one is None else 1  # of the operand that has no degree
    degree = other if one is None else one
    assert degree is not None
    if call.number(place) is not None:
        return sign * degree if place == 0 else degree
    cancels = sign * degree == -1 if place == 0 else call.function == "mul" and degree == -1
    if call.name(place) == region.source and cancels:
        region.cancelled.append((call.node.name, call.node.inputs.index(region.source)))
        return 0.0
    return None


def _sum(region: Region, call: Call, one: float | None, other: float | None) -> float | None:
    if one is not None and other is not None:
        return one if one == other else None
    place = 0 if one is None else 1  # of the number
    degree = other if one is None else one
    number, data = call.number(place), call.value(1 - place)
    if number is None or degree is None or data is None or not same_rank(data, call.result):
        return None
    if not _spelled(call, data.name):
        return None
    operands = (number, data.name) if place == 0 else (data.name, number)
    region.constants[call.node.name] = Become(call.node.name, call.function, operands)
    _note_guard(region, number, degree)
    return degree


def _bounded(region: Region, call: Call, degree: float) -> bool:
    """Whether the bounds of `call` are numbers; they are scaled with what they bound."""
    data = call.value(0)
    if data is None or not same_rank(data, call.result) or not _spelled(call, data.name):
        return False
    stands = [place < len(call.operands) and call.operands[place] is not None for place in (1, 2)]
    bounds = [call.number(1), call.number(2)]
    if call.function == "clamp":  # older opsets have them as arguments
        named = (call.attr("min"), call.attr("max"))
        bounds = [n if b is None else b for b, n in zip(bounds, named, strict=True)]
    elif len(call.operands) != 2:
        return False
    known = [b is not None for b in bounds]
    if not any(known) or any(s and not k for s, k in zip(stands, known, strict=True)):
        return False
    limits = tuple(None if b is None else float(b) for b in bounds)
    operands = (data.name, *limits[: 2 if call.function == "clamp" else 1])
    region.constants[call.node.name] = Become(call.node.name, call.function, operands)
    if limits[0] is not None and call.function != "minimum":
        _note_guard(region, limits[0], degree)
    return True


def _note_guard(region: Region, number: float, degree: float) -> None:
    """A positive number beside squares, or beside their root, that keeps them from zero."""
    if number > 0 and degree > 0:
        region.guard = max(region.guard, number ** (2 / degree))


def _spelled(call: Call, data: str) -> bool:
    """Whether the node reads `data` once and changes no type."""
    return call.node.inputs.count(data) == 1 and _keeps_type(call)


def _keeps_type(call: Call) -> bool:
    return call.attr("dtype") in (None, "float32")
