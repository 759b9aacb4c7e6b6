"""Transfer functions of operators that put the same elements in another place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ampconvert.functions import Call
from ampconvert.ranges.domain import Abstract, Dims, Norm, build, collapse, same_dim
from ampconvert.ranges.reshapes import reshape
from ampconvert.ranges.transfer import Results, State, constants, result_dims, transfer


@transfer("identity")
def _identity(state: State, call: Call) -> Results:
    x = state.operand(call, 0)
    rest = call.node.outputs[1:]
    training = call.number(2) if call.node.op.startswith("onnx::") else None
    if call.attr("train", default=False) or training:
        return None  # a dropout that is active scales what it keeps
    mask = build(None, 0.0, 1.0, whole=True)  # Dropout's second result
    return None if x is None else [held(x, result_dims(call)), *(mask for _ in rest)]


@transfer("reshape", "squeeze", "unsqueeze")
def _reshape(state: State, call: Call) -> Results:
    x = state.operand(call, 0)
    return None if x is None else reshape(x, result_dims(call))


@transfer("transpose")
def _transpose(state: State, call: Call) -> Results:
    x, dims = state.operand(call, 0), result_dims(call)
    if x is None:
        return None
    order = _order(call, None if x.dims is None else len(x.dims))
    if order is None or x.dims is None or dims is None or len(dims) != len(x.dims):
        return build(dims, *x.worst, hidden=x.hidden, whole=x.whole)
    return permute(x, order, dims)


def permute(x: Abstract, order: list[int], dims: Dims) -> Abstract:
    """`x` with its axes in another order: axis i of the result is axis order[i] of `x`."""
    rank = len(order)

    def moved(norm: Norm | None) -> Norm | None:
        if norm is None:
            return None
        return Norm(
            order.index(norm.axis % rank) - rank,
            lambda: np.transpose(full_rank(norm.radius, rank), order),
        )

    data = x.data
    return build(
        dims, np.transpose(x.lo, order), np.transpose(x.hi, order),
        ball=moved(x.ball), mass=moved(x.mass), image=x.image if order[-1] == rank - 1 else None,
        data=None if data is None else lambda: np.transpose(data(), order),
        hidden=x.hidden, whole=x.whole,
    )  # fmt: skip


def _order(call: Call, rank: int | None) -> list[int] | None:
    """The permutation that a transpose makes."""
    if rank is None:
        return None
    order = list(range(rank))
    given = call.attr("perm", "dims")
    if isinstance(given, list):
        return [int(a) % rank for a in given] if len(given) == rank else None
    a = call.attr("dim0", "axis0", "source")
    b = call.attr("dim1", "axis1", "destination")
    moves = {"dim0", "dim1", "axis0", "axis1", "source", "destination"} & set(call.node.attrs)
    if not moves:
        if call.node.op.startswith("onnx::") or rank <= 2:
            return order[::-1]  # Transpose without perm, t()
        return None
    if call.attr("source") is not None:
        sources, targets = _listed(a), _listed(b)
        rest = [i for i in order if i not in {s % rank for s in sources}]
        for source, target in sorted(zip(sources, targets, strict=True), key=lambda p: p[1] % rank):
            rest.insert(target % rank, source % rank)
        return rest
    if isinstance(a, int) and isinstance(b, int):
        order[a % rank], order[b % rank] = order[b % rank], order[a % rank]
        return order
    return None


def _listed(value: Any) -> list[int]:
    return [int(v) for v in value] if isinstance(value, list) else [int(value)]


@transfer("expand", "tile")
def _expand(state: State, call: Call) -> Results:
    x, dims = state.operand(call, 0), result_dims(call)
    if x is None:
        return None
    bare = build(dims, *x.worst, hidden=x.hidden, whole=x.whole)
    if x.dims is None or dims is None or len(x.dims) > len(dims):
        return bare
    if call.function == "tile":
        return bare if len(dims) != len(x.dims) else _expanded(collapse_changed(x, dims), x, dims)
    return _expanded(x, x, dims)


def _expanded(bounds: Abstract, x: Abstract, dims: Dims) -> Abstract:
    assert dims is not None and x.dims is not None

    def kept(norm: Norm | None) -> Norm | None:
        if norm is None or not same_dim(x.dims[norm.axis], dims[norm.axis]):  # type: ignore[index]
            return None
        same = all(same_dim(a, b) for a, b in zip(x.dims[::-1], dims[::-1], strict=False))  # type: ignore[index]
        return norm if same or bounds is x else norm.moved(norm.axis)

    return build(dims, bounds.lo, bounds.hi, ball=kept(x.ball), mass=kept(x.mass),
                 hidden=x.hidden, whole=x.whole)  # fmt: skip


def collapse_changed(x: Abstract, dims: Dims) -> Abstract:
    """`x` with one bound along every axis whose size changes."""
    if x.dims is None or dims is None or len(x.dims) != len(dims):
        return build(dims, *x.worst, hidden=x.hidden, whole=x.whole)
    changed = [i for i, (a, b) in enumerate(zip(x.dims, dims, strict=True)) if not same_dim(a, b)]
    return collapse(x, changed, dims)


@transfer("slice")
def _slice(state: State, call: Call) -> Results:
    x, dims = state.operand(call, 0), result_dims(call)
    if x is None:
        return None
    if x.dims is None or dims is None or len(dims) != len(x.dims):
        return build(dims, *x.worst, hidden=x.hidden, whole=x.whole)
    index = _slices(state, call, x.dims)
    if index is None:
        bounds = collapse(x, range(len(dims)), dims)
        return replace(bounds, ball=part_of(x.ball), mass=part_of(x.mass))
    return take(x, index, dims)


def part_of(norm: Norm | None) -> Norm | None:
    """The norm of parts of the vectors, wherever they come from."""
    return None if norm is None else norm.moved(norm.axis)


def _slices(state: State, call: Call, dims: tuple[Any, ...]) -> dict[int, slice] | None:
    """What is taken along each axis; None when that is not known."""
    rank = len(dims)
    if call.node.op.startswith("onnx::"):
        starts = call.attr("starts") or constants(state, call, "starts", 1)
        ends = call.attr("ends") or constants(state, call, "ends", 2)
        axes = call.attr("axes") or constants(state, call, "axes", 3)
        steps = constants(state, call, "steps", 4) if len(call.node.inputs) > 4 else None
        if starts is None or ends is None:
            return None
        axes_given = len(call.node.inputs) > 3 and call.node.inputs[3] is not None
        if axes is None and axes_given:
            return None
        if steps is None and len(call.node.inputs) > 4 and call.node.inputs[4] is not None:
            return None
        axes = axes if axes is not None else list(range(len(starts)))
        steps = steps or [1] * len(starts)
        parts = zip(axes, starts, ends, steps, strict=True)
        return {a % rank: slice(s, e, t) for a, s, e, t in parts}
    axis, step = call.attr("dim", default=0), call.attr("step", default=1)
    if "length" in call.node.attrs:  # narrow
        start = call.attr("start")
        length = call.attr("length")
        if not isinstance(start, int) or not isinstance(length, int) or start < 0:
            return None
        return {axis % rank: slice(start, start + length)}
    start, end = call.attr("start", default=0), call.attr("end", default=2**63 - 1)
    if not all(isinstance(n, int) for n in (axis, step, start, end)):
        return None
    return {axis % rank: slice(start, end, step)}


def take(x: Abstract, index: dict[int, slice], dims: Dims) -> Abstract:
    """Slices of `x` along some axes; the rank stays."""
    assert x.dims is not None
    rank = len(x.dims)

    def cut(array: Any, skipped: int | None = None) -> Any:
        picked = [
            index[a] if a in index and a != skipped and array.shape[a] > 1 else slice(None)
            for a in range(rank)
        ]
        return array[tuple(picked)]

    def kept(norm: Norm | None) -> Norm | None:
        if norm is None:
            return None
        return Norm(norm.axis, lambda: cut(full_rank(norm.radius, rank), norm.axis % rank))

    image = x.image
    last = index.get(rank - 1)
    if image is not None and last is not None:
        image = image.taken(last)
    data = x.data
    whole_index = tuple(index.get(a, slice(None)) for a in range(rank))
    return build(
        dims, cut(x.lo), cut(x.hi), ball=kept(x.ball), mass=kept(x.mass), image=image,
        data=None if data is None else lambda: data()[whole_index],
        hidden=x.hidden, whole=x.whole,
    )  # fmt: skip


@transfer("select")
def _select(state: State, call: Call) -> Results:
    x, dims = state.operand(call, 0), result_dims(call)
    axis, number = call.attr("dim"), call.attr("index")
    if x is None:
        return None
    if x.dims is None or not isinstance(axis, int):
        return build(dims, *x.worst, hidden=x.hidden, whole=x.whole)
    axis %= len(x.dims)
    size = x.dims[axis]
    one: Dims = (*x.dims[:axis], 1, *x.dims[axis + 1 :])
    if isinstance(number, int) and isinstance(size, int) and -size <= number < size:
        taken = take(x, {axis: slice(number % size, number % size + 1)}, one)
    else:
        taken = replace(collapse(x, [axis], one), ball=part_of(x.ball), mass=part_of(x.mass))
    return reshape(taken, dims)


@transfer("split")
def _split(state: State, call: Call) -> Results:
    x = state.operand(call, 0)
    axis = call.attr("dim", "axis", default=0)
    if x is None:
        return None
    if x.dims is None or not isinstance(axis, int):
        parts = (result_dims(call, i) for i in range(len(call.node.outputs)))
        return [build(dims, *x.worst, hidden=x.hidden, whole=x.whole) for dims in parts]
    axis %= len(x.dims)
    found: list[Abstract] = []
    start: int | None = 0
    for number in range(len(call.node.outputs)):
        dims = result_dims(call, number)
        gone = dims is not None and len(dims) == len(x.dims) - 1  # unbind
        size = 1 if gone else dims[axis] if dims is not None and len(dims) > axis else "?"
        one: Dims = (*x.dims[:axis], size, *x.dims[axis + 1 :])
        if start is not None and isinstance(size, int):
            part = take(x, {axis: slice(start, start + size)}, one)
            start += size
        else:
            part = replace(collapse(x, [axis], one), ball=part_of(x.ball), mass=part_of(x.mass))
            start = None
        found.append(reshape(part, dims) if gone else held(part, dims))
    return found


def held(x: Abstract, dims: Dims) -> Abstract:
    """`x` where its value is described by other dimensions of the same rank."""
    if x.dims is not None and dims is not None and len(x.dims) == len(dims):
        return replace(x, dims=dims, lo=build(dims, x.lo, x.hi).lo, hi=build(dims, x.lo, x.hi).hi)
    return build(dims, *x.worst, hidden=x.hidden, whole=x.whole)


def full_rank(array: Any, rank: int) -> Any:
    """`array` with leading axes of size 1 up to `rank`."""
    array = np.asarray(array)
    return array.reshape((1,) * (rank - array.ndim) + array.shape)
