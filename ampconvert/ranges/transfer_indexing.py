"""Transfer functions that pick elements: tables, indices, conditions; and what casts leave."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ampconvert import functions
from ampconvert.dtypes import FLOAT_TYPES
from ampconvert.functions import Call
from ampconvert.graph import Value
from ampconvert.ranges.domain import (
    Abstract,
    Dims,
    Norm,
    build,
    collapse,
    hidden_of,
    hull,
    top,
)
from ampconvert.ranges.rounding import outward, round_to, row_norms
from ampconvert.ranges.transfer import Results, State, result_dims, transfer
from ampconvert.ranges.transfer_moves import held

_MOST_ROWS = 2**26  # elements of a table that are looked at one by one


@transfer("embedding")
def _embedding(state: State, call: Call) -> Results:
    table, index = state.operand(call, 0), state.plain(call, 1)
    return None if table is None else rows(state, call, table, index, 0, result_dims(call))


@transfer("gather")
def _gather(state: State, call: Call) -> Results:
    """One index along one axis keeps the other axes; anything else gives elements in any place."""
    x, index = state.operand(call, 0), state.plain(call, 1)
    dims = result_dims(call)
    if x is None:
        return None
    scattered = build(dims, *x.worst, hidden=x.hidden, whole=x.whole)
    if x.dims is None or dims is None:
        return scattered
    places = call.node.operand("indices")
    listed = bool(places) and call.node.op.startswith("aten::") and "dim" not in call.node.attrs
    if listed:  # x[:, i]: a list with one index, and None before it
        given = [call.node.inputs[p] for p in places]
        axis = next((i for i, name in enumerate(given) if name is not None), None)
        if axis is None or sum(name is not None for name in given) != 1:
            return scattered
        index = state.of(given[axis]).shown()
        value: Value | None = state.graph.values[given[axis] or ""]
    else:
        axis, value = call.attr("dim", "axis", default=0), call.value(1)
        if "batch_dims" in call.node.attrs or not isinstance(axis, int):
            return scattered
    if value is None or index is None or value.shape is None or value.dtype in ("bool", "uint8"):
        return scattered
    axis = int(axis) % len(x.dims)
    if len(value.shape) == len(x.dims) > 1 and len(dims) == len(x.dims):
        return collapse(x, range(len(x.dims)), dims)  # element by element
    if len(dims) != len(x.dims) - 1 + len(value.shape):
        return scattered
    return rows(state, call, x, index, axis, dims)


def rows(
    state: State, call: Call, x: Abstract, index: Abstract | None, axis: int, dims: Dims
) -> Abstract:
    """The slices of `x` at any index within the bounds of `index`, or at any valid one."""
    if x.dims is None or dims is None:
        return build(dims, *x.worst, hidden=x.hidden, whole=x.whole)
    rank, extra = len(x.dims), len(dims) - len(x.dims)
    chosen = _valid_rows(x.dims[axis], index)
    data = x.data() if x.data is not None and _elements(x) <= _MOST_ROWS else None
    ball: Norm | None = None
    if data is not None and x.hidden is None and np.issubdtype(data.dtype, np.floating):
        data = np.take(data, range(*chosen.indices(data.shape[axis])), axis=axis)
        lo, hi = _with_rounding(data, axis, state)
        if axis == 0 and rank == 2 and extra >= 0:
            longest = _longest_row(data, state)
            ball = Norm(-1, lambda: np.asarray(longest))
    else:
        cut = tuple(chosen if a == axis and x.lo.shape[a] > 1 else slice(None) for a in range(rank))
        lo = x.lo[cut].min(axis=axis, keepdims=True)
        hi = x.hi[cut].max(axis=axis, keepdims=True)
        if x.ball is not None and x.ball.axis % rank > axis:
            ball = x.ball.moved(x.ball.axis)
    shape = (*lo.shape[:axis], *(1 for _ in range(extra + 1)), *lo.shape[axis + 1 :])
    return build(dims, lo.reshape(shape), hi.reshape(shape), ball=ball, hidden=x.hidden,
                 whole=x.whole)  # fmt: skip


def _valid_rows(size: Any, index: Abstract | None) -> slice:
    """The rows that an index can name; negative ones count from the end."""
    if index is None or not isinstance(size, int):
        return slice(None)
    lo, hi = index.worst
    if 0 <= lo <= hi < size:
        return slice(int(lo), int(hi) + 1)
    return slice(None)


def _with_rounding(data: npt.NDArray[Any], axis: int, state: State) -> tuple[Any, Any]:
    """The column-wise extremes of a table."""
    lo = np.asarray(data.min(axis=axis, keepdims=True), dtype=np.float64)
    hi = np.asarray(data.max(axis=axis, keepdims=True), dtype=np.float64)
    if max(-float(lo.min()), float(hi.max())) < state.low.overflow:
        lo, hi = np.minimum(lo, round_to(lo, state.low)), np.maximum(hi, round_to(hi, state.low))
    return lo, hi


def _longest_row(data: npt.NDArray[Any], state: State) -> float:
    """The largest L2 norm of a row of a table whose elements may be rounded."""
    if data.size == 0:
        return 0.0
    norms = row_norms(np.asarray(data, dtype=np.float64))
    return (
        float(norms.max()) * (1 + state.low.unit) + math.sqrt(data.shape[-1]) * state.low.smallest
    )


def _elements(x: Abstract) -> float:
    return math.prod(d if isinstance(d, int) else math.inf for d in x.dims or (math.inf,))


@transfer("where")
def _where(state: State, call: Call) -> Results:
    a, b = state.operand(call, 1), state.operand(call, 2)
    if a is None or b is None:
        return None
    return chosen(a, b, result_dims(call))


@transfer("masked_fill")
def _masked_fill(state: State, call: Call) -> Results:
    x, filling = state.operand(call, 0), state.operand(call, 2)
    return None if x is None or filling is None else chosen(x, filling, result_dims(call))


def chosen(a: Abstract, b: Abstract, dims: Dims) -> Abstract:
    """Elements of one or the other."""
    made = hull(dims, [a, b])
    zero = [p.worst == (0.0, 0.0) and p.hidden is None for p in (a, b)]
    if any(zero) and dims is not None:  # zeros in place of elements shorten a vector
        rest = b if zero[0] else a
        if rest.dims is not None and len(rest.dims) == len(dims):
            same = all(x == y for x, y in zip(rest.dims, dims, strict=True))
            if same:
                return replace(made, ball=rest.ball, mass=rest.mass)
    return made


@transfer("cast")
def _cast(state: State, call: Call) -> Results:
    """Numbers stay what they are within the new type; what doesn't fit is unknown."""
    x = state.operand(call, 0)
    if x is None:
        return None
    dims, kind = result_dims(call), call.result.dtype
    if kind == "bool":
        return build(dims, 0.0, 1.0, whole=True)
    if kind in ("float32", "float64"):
        found = held(x, dims)
        source = (call.value(0) or call.result).dtype
        small = x.whole and x.largest <= FLOAT_TYPES["float32"].exact_integers
        if kind == "float64" or small or ("float" in source and source != "float64"):
            return found
        found = found.shown()
        return build(dims, *outward(found.lo, found.hi), whole=x.whole)
    if kind in FLOAT_TYPES:
        shown, limit = x.shown(), FLOAT_TYPES[kind]
        if shown.largest >= limit.overflow:
            return top(dims)
        return build(dims, round_to(shown.lo, limit), round_to(shown.hi, limit), whole=x.whole)
    limits = integer_limits(kind)
    shown = x.shown()
    if limits is None or not _inside(shown, limits):
        return None  # numbers outside wrap around
    return build(dims, np.trunc(shown.lo), np.trunc(shown.hi), whole=True)


def _inside(x: Abstract, limits: tuple[float, float]) -> bool:
    lo, hi = x.worst
    return limits[0] <= lo and hi <= limits[1]


def integer_limits(dtype: str) -> tuple[float, float] | None:
    """The smallest and largest number of an integer type or bool; None for other types."""
    if dtype == "bool":
        return 0.0, 1.0
    try:
        kind = np.iinfo(dtype)
    except (TypeError, ValueError):
        return None
    return float(kind.min), float(kind.max)


@transfer("phi")
def _phi(state: State, call: Call) -> Results:
    """Where branches meet. A loop's state depends on turns that come later: unknown inside the
    loop; behind it, it is what the body made of any state, or what it was before the loop.
    """
    names = list(call.operands)
    for tie in state.graph.ties:
        if call.node.name in tie:
            if call.node.name == tie[0] or len(tie) != 2:
                return None
            entry = next(node for node in state.graph.nodes if node.name == tie[0])
            names += entry.inputs
    if not names or any(not isinstance(n, str) for n in names):
        return None
    parts = [state.of(n) for n in names if isinstance(n, str)]
    dims = result_dims(call)
    worst = [p.worst for p in parts]
    same = all(p.dims is not None and dims is not None and len(p.dims) == len(dims) for p in parts)
    if len(parts) > 1 and same:
        return hull(dims, parts)
    return build(dims, min(w[0] for w in worst), max(w[1] for w in worst),
                 hidden=hidden_of(parts), whole=all(p.whole for p in parts))  # fmt: skip


@transfer("full")
def _full(state: State, call: Call) -> Results:
    """One number everywhere; operators that take none make zeros or ones."""
    dims = result_dims(call)
    given = call.attr("fill_value", "value", "s")
    places = [i for name in ("value", "fill_value") for i in call.node.operand(name)]
    if places and call.node.op.startswith("aten::"):
        return held(state.of(call.node.inputs[places[0]]), dims)
    if isinstance(given, int | float):
        found = state.number(float(given))
        return build(dims, found.lo, found.hi, hidden=found.hidden, whole=found.whole)
    if given is None and not {"fill_value", "value", "s"} & set(call.node.attrs):
        return build(dims, 0.0, 1.0, whole=True)
    return None


@transfer("arange")
def _arange(state: State, call: Call) -> Results:
    """From start to end; without an upper end where that is no constant."""
    if call.node.op.startswith("onnx::"):
        start, end, step = (functions.constant(state.graph, name) if name else None
                            for name in (*call.node.inputs, None, None, None)[:3])  # fmt: skip
    else:
        start, end, step = (call.attr(n) for n in ("start", "end", "step"))
        start = 0 if "start" not in call.node.attrs else start
        step = 1 if "step" not in call.node.attrs else step
    numbers = [float(n) if isinstance(n, int | float) else None for n in (start, end, step)]
    if numbers[2] is None or numbers[2] == 0:
        return None
    rising = numbers[2] > 0
    first, last = (numbers[0], numbers[1]) if rising else (numbers[1], numbers[0])
    whole = all(n is None or n.is_integer() for n in numbers)
    return build(result_dims(call), -math.inf if first is None else first,
                 math.inf if last is None else last, whole=whole)  # fmt: skip
