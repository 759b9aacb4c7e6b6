"""What a value can hold at all, by constants and by the functions that make it: quick and coarse.

One pass forward over the graph. It follows what keeps its elements, what is bounded by itself
(sigmoid, softmax, clamp), constants, and simple arithmetic; anything else is unknown. Float32's own
rounding is left out: no limit that hazards compare with is that close.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ampconvert import functions
from ampconvert.functions import Call
from ampconvert.graph import Graph, Value
from ampconvert.hazards.data import WeightFacts

Bounds = tuple[float, float]
UNKNOWN: Bounds = (-math.inf, math.inf)
UNIT: Bounds = (0.0, 1.0)
_INTEGERS: Mapping[str, Bounds] = {"bool": UNIT, "uint8": (0.0, 255.0), "int8": (-128.0, 127.0)}
_LOADED = 1 << 20  # elements; the data of larger integer weights is not read for this

_FIXED: Mapping[str, Bounds] = {
    "sigmoid": UNIT,
    "hardsigmoid": UNIT,
    "softmax": UNIT,
    "tanh": (-1.0, 1.0),
    "softsign": (-1.0, 1.0),
    "erf": (-1.0, 1.0),
    "sign": (-1.0, 1.0),
    "sin": (-1.0, 1.0),
    "cos": (-1.0, 1.0),
    "relu6": (0.0, 6.0),
    "atan": (-math.pi / 2, math.pi / 2),
    "log_softmax": (-math.inf, 0.0),
    "log_sigmoid": (-math.inf, 0.0),
}  # fmt: skip
# Their elements are some, or means, of their first operand's.
_FIRST = frozenset({"identity", "cast", "reshape", "squeeze", "unsqueeze", "transpose", "expand",
                    "tile", "slice", "select", "split", "gather", "embedding", "flip", "amax",
                    "amin", "mean", "max_pool", "topk", "depth_to_space"})  # fmt: skip
_UNION = frozenset({"concat", "stack", "phi", "maximum", "minimum"})
_WITH_ZERO = frozenset({"tril", "avg_pool"})
_NOT_NEGATIVE = frozenset({"abs", "square", "sqrt", "l1_norm", "l2_norm", "sum_square",
                           "vector_norm", "softplus", "var", "std", "rsqrt"})  # fmt: skip


def bounds_of(
    graph: Graph, calls: Mapping[str, Call], weights: Mapping[str, WeightFacts]
) -> dict[str, Bounds]:
    """The bounds of every value of `graph`; those of a weight come from its data."""
    found: dict[str, Bounds] = {}
    for value in graph.values.values():
        if value.kind == "weight":
            found[value.name] = _of_weight(value, weights.get(value.name))
        else:
            found[value.name] = _INTEGERS.get(value.dtype, UNKNOWN)
    for node in graph.nodes:
        call = calls.get(node.name)
        if call is None or call.function == "phi":  # a loop's state may come from further down
            continue
        made = _of_call(call, found)
        if math.isnan(made[0]) or math.isnan(made[1]):
            made = UNKNOWN
        for number, name in enumerate(node.outputs):
            if number == 0 or call.function == "split":
                found[name] = _meet(made, found[name])
    return found


def _of_call(call: Call, found: Mapping[str, Bounds]) -> Bounds:
    operands = [found[o] if isinstance(o, str) else UNKNOWN if o is None else (o, o)
                for o in call.operands]  # fmt: skip
    x = operands[0] if operands else UNKNOWN
    function = call.function
    if function in _FIXED:
        return _FIXED[function]
    if function in _FIRST:
        return x
    if function in _UNION:
        joined = [b for b, o in zip(operands, call.operands, strict=True) if o is not None]
        ends = _JOINS.get(function, (min, max))
        return ends[0](b[0] for b in joined), ends[1](b[1] for b in joined)
    if function in _WITH_ZERO:
        return min(x[0], 0.0), max(x[1], 0.0)
    if function in _RULES:
        made = _RULES[function](call, operands)
    else:
        made = UNKNOWN
    return _meet(made, (0.0, math.inf)) if function in _NOT_NEGATIVE else made


# Elementwise maximum and minimum bind both ends.
_JOINS: Mapping[str, tuple[Callable[..., float], Callable[..., float]]] = {
    "maximum": (max, max),
    "minimum": (min, min),
}


def _add(call: Call, operands: list[Bounds]) -> Bounds:
    x, y = operands[0], _times(operands[1], (call.factor, call.factor))
    return x[0] + y[0], x[1] + y[1]


def _sub(call: Call, operands: list[Bounds]) -> Bounds:
    x, y = operands[0], _times(operands[1], (call.factor, call.factor))
    made = (x[0] - y[1], x[1] - y[0])
    taken = _behind(call, 1)
    largest = taken is not None and taken.function in ("amax", "logsumexp")
    if taken is not None and largest and _root(call, 0) == _root(taken, 0):
        return _meet(made, (-math.inf, 0.0))
    return made


def _mul(call: Call, operands: list[Bounds]) -> Bounds:
    x, y = operands[:2]
    if call.name(0) is not None and call.name(0) == call.name(1):
        return _squared(x)
    return _times(x, y)


def _div(call: Call, operands: list[Bounds]) -> Bounds:
    x, y = operands[:2]
    whole = _behind(call, 1)
    is_sum = whole is not None and whole.function == "sum"
    if whole is not None and is_sum and x[0] >= 0 and _root(whole, 0) == _root(call, 0):
        return UNIT
    if y[0] > 0 or y[1] < 0:
        return _times(x, (1 / y[1], 1 / y[0]))
    return UNKNOWN


def _pow(call: Call, operands: list[Bounds]) -> Bounds:
    return _squared(operands[0]) if call.number(1) == 2 else UNKNOWN


def _clamp(call: Call, operands: list[Bounds]) -> Bounds:
    low, high = (call.number(1), call.number(2))
    low = call.attr("min") if low is None else low
    high = call.attr("max") if high is None else high
    x = operands[0]
    least = -math.inf if low is None else float(low)
    most = math.inf if high is None else float(high)
    return min(max(x[0], least), most), max(min(x[1], most), least)


def _sum(call: Call, operands: list[Bounds]) -> Bounds:
    count = _length(call)
    return UNKNOWN if count is None else _times(operands[0], (0.0, float(count)))


def _product(call: Call, operands: list[Bounds]) -> Bounds:
    """A matrix product: so many terms, each the product of one element of either side."""
    x, y = call.value(0), call.value(1)
    if x is None or y is None or not x.shape or not y.shape:
        return UNKNOWN
    inner = x.shape[-1] if isinstance(x.shape[-1], int) else None
    if inner is None and len(y.shape) > 1 and isinstance(y.shape[-2], int):
        inner = y.shape[-2]
    if not isinstance(inner, int):
        return UNKNOWN
    terms = _times(operands[0], operands[1])
    return terms[0] * inner, terms[1] * inner


def _full(call: Call, operands: list[Bounds]) -> Bounds:
    given = call.attr("fill_value", "value", "s")
    if isinstance(given, int | float):
        return float(given), float(given)
    name = call.node.op.rpartition("::")[2]
    if isinstance(given, np.ndarray) and given.size == 1:
        number = float(given.reshape(()))
        return number, number
    return (0.0, 0.0) if "zeros" in name else (1.0, 1.0) if "ones" in name else UNKNOWN


def _arange(call: Call, operands: list[Bounds]) -> Bounds:
    """From its start on, as many steps as the result is long; unknown where that varies."""
    onnx = len(call.operands) == 3
    start = call.number(0) if onnx else call.attr("start", default=0)
    step = call.number(2) if onnx else call.attr("step", default=1)
    length = (call.result.shape or (None,))[0]
    if not isinstance(length, int):
        return UNKNOWN
    if not isinstance(start, int | float) or not isinstance(step, int | float):
        return UNKNOWN
    last = start + step * max(length - 1, 0)
    return float(min(start, last)), float(max(start, last))


def _where(call: Call, operands: list[Bounds]) -> Bounds:
    x, y = operands[1:3]
    return min(x[0], y[0]), max(x[1], y[1])


def _masked_fill(call: Call, operands: list[Bounds]) -> Bounds:
    x, y = operands[0], operands[2]
    return min(x[0], y[0]), max(x[1], y[1])


def _pad(call: Call, operands: list[Bounds]) -> Bounds:
    filled = call.number(2)
    filled = call.attr("value", default=0.0) if filled is None else filled
    if not isinstance(filled, int | float):
        return UNKNOWN
    return min(operands[0][0], float(filled)), max(operands[0][1], float(filled))


def _monotone(function: Callable[[float], float]) -> Callable[[Call, list[Bounds]], Bounds]:
    def made(call: Call, operands: list[Bounds]) -> Bounds:
        return function(operands[0][0]), function(operands[0][1])

    return made


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf


_RULES: Mapping[str, Callable[[Call, list[Bounds]], Bounds]] = {
    "add": _add, "sub": _sub, "mul": _mul, "outer": _mul, "div": _div, "pow": _pow,
    "clamp": _clamp, "sum": _sum, "cumsum": _sum, "matmul": _product, "full": _full,
    "arange": _arange, "where": _where, "masked_fill": _masked_fill, "pad": _pad,
    "exp": _monotone(_exp),
    "relu": _monotone(lambda x: max(x, 0.0)),
    "sqrt": _monotone(lambda x: math.sqrt(max(x, 0.0))),
    "floor": _monotone(lambda x: math.floor(x) if math.isfinite(x) else x),
    "ceil": _monotone(lambda x: math.ceil(x) if math.isfinite(x) else x),
    "neg": lambda call, operands: (-operands[0][1], -operands[0][0]),
    "square": lambda call, operands: _squared(operands[0]),
    "abs": lambda call, operands: (0.0, max(abs(operands[0][0]), abs(operands[0][1]))),
}  # fmt: skip


def _of_weight(value: Value, facts: WeightFacts | None) -> Bounds:
    if facts is not None:
        return facts.minimum, facts.maximum
    if value.const is None or value.numel > _LOADED or value.is_float32:
        return UNKNOWN
    data: np.ndarray[Any, Any] = np.asarray(value.const())
    if not data.size or data.dtype.kind not in "iub":
        return UNKNOWN
    return float(data.min()), float(data.max())


def _length(call: Call) -> int | None:
    """How many elements a reduction takes together; None where that is unknown."""
    value, axes = call.value(0), call.axes()
    if value is None or value.shape is None:
        return None
    if axes is None or (call.function == "cumsum" and len(axes) != 1):
        return None
    sizes = [size for a in axes if isinstance(size := value.shape[a], int)]
    return math.prod(sizes) if len(sizes) == len(axes) else None


def _behind(call: Call, place: int) -> Call | None:
    """What makes the operand at `place`, behind changes of shape."""
    name = call.name(place)
    return None if name is None else functions.maker(call.graph, functions.source(call.graph, name))


def _root(call: Call, place: int) -> str | None:
    name = call.name(place)
    return None if name is None else functions.source(call.graph, name)


def _meet(a: Bounds, b: Bounds) -> Bounds:
    low, high = max(a[0], b[0]), min(a[1], b[1])
    return (low, high) if low <= high else b


def _times(x: Bounds, y: Bounds) -> Bounds:
    ends = [0.0 if a == 0 or b == 0 else a * b for a in x for b in y]
    return min(ends), max(ends)


def _squared(x: Bounds) -> Bounds:
    ends = [end * end for end in x]
    return 0.0 if x[0] <= 0 <= x[1] else min(ends), max(ends)
