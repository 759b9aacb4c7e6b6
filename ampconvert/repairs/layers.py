"""Products with a weight: which of a weight's axes are output channels, and where the bias is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ampconvert import functions
from ampconvert.functions import Call
from ampconvert.graph import Graph, Node, Value
from ampconvert.repairs.shapes import read_once

# Where each function has its weight and its bias; a product's data stand elsewhere.
_PLACES: dict[str, tuple[int, int | None]] = {
    "linear": (1, 2),
    "conv": (1, 2),
    "conv_transpose": (1, 2),
    "gemm": (1, 2),
    "addmm": (2, 0),
    "matmul": (1, None),
}
_TAKES_BIAS = ("linear", "conv", "conv_transpose", "gemm")  # and need not have one


@dataclass(frozen=True)
class Layer:
    """A product of data and `weight`, which nothing else reads.

    `axis` of the weight, and `channel` of the result, are the output channels; `windows` dimensions
    follow them in the result. `bias` is the
    stored vector that the product, or the sum right behind it, adds; `takes_bias` says that the
    product has a free operand for one. `adds` says that it adds something, be it no vector.
    """

    node: Node
    weight: Value
    axis: int
    channel: int
    windows: int
    bias: Value | None
    takes_bias: bool
    adds: bool

    @property
    def channels(self) -> int:
        """How many output channels there are."""
        return self.weight.sizes[self.axis]


def layers(graph: Graph) -> Iterator[Layer]:
    """Every layer of `graph`, in execution order."""
    for node in graph.nodes:
        call = functions.call(graph, node)
        if call is not None and call.function in _PLACES and call.result.is_float32:
            found = _layer(graph, call)
            if found is not None:
                yield found


def _layer(graph: Graph, call: Call) -> Layer | None:
    place, bias_place = _PLACES[call.function]
    weight, swapped = _weight(graph, call.name(place))
    shape = call.result.shape
    if weight is None or shape is None or len(weight.sizes) < 2:
        return None
    axis = _axis(call, weight, swapped)
    windows = len(weight.sizes) - 2 if call.function in ("conv", "conv_transpose") else 0
    channel = len(shape) - 1 - windows
    if axis is None or channel < 0:
        return None
    given = None if bias_place is None else call.name(bias_place)
    adds = bias_place is not None and bias_place < len(call.operands)
    adds = adds and call.operands[bias_place or 0] is not None
    bias = _vector(graph, given, weight.sizes[axis])
    if bias_place is None:
        bias = _added_behind(graph, call, weight.sizes[axis])
    takes = call.function in _TAKES_BIAS and not adds
    return Layer(call.node, weight, axis, channel, windows, bias, takes, adds)


def _weight(graph: Graph, name: str | None) -> tuple[Value | None, bool]:
    """The stored matrix behind `name`, if this is all it is for, and whether it is transposed."""
    swapped = False
    while name is not None and read_once(graph, name):
        value = graph.values[name]
        if value.kind == "weight" and value.const is not None and value.is_float32:
            return value, swapped
        made = functions.maker(graph, name)
        if made is None or made.function != "transpose" or len(made.result.sizes) != 2:
            return None, False
        swapped = not swapped
        name = made.name(0)
    return None, False


def _axis(call: Call, weight: Value, swapped: bool) -> int | None:
    """The axis of the weight that the output channels lie along; None where they are several."""
    if call.function == "conv" and not call.attr("transposed", default=False):
        return 0
    if call.function in ("conv", "conv_transpose"):
        return 1 if call.attr("groups", "group", default=1) == 1 else None
    if call.function == "linear":
        return 1 if swapped else 0
    if len(weight.sizes) != 2:
        return None
    transposed = bool(call.attr("transB", default=0)) != swapped
    return 0 if transposed else 1


def _vector(graph: Graph, name: str | None, size: int) -> Value | None:
    """The stored vector of this size that `name` is, if nothing else reads it."""
    value = None if name is None else graph.values[name]
    if value is None or value.const is None or not value.is_float32 or value.kind != "weight":
        return None
    fits = value.numel == size and value.sizes[-1:] == (size,) and read_once(graph, value.name)
    return value if fits else None


def _added_behind(graph: Graph, call: Call, size: int) -> Value | None:
    """The vector that is added to the product by the one node that reads it."""
    if not read_once(graph, call.result.name):
        return None
    reader = functions.call(graph, graph.readers[call.result.name][0][0])
    if reader is None or reader.function != "add" or reader.factor != 1.0:
        return None
    names = [reader.name(0), reader.name(1)]
    other = next((n for n in names if n != call.result.name), None)
    return _vector(graph, other, size)
