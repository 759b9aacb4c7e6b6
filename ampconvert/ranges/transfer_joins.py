"""Transfer functions that join values, fill up their edges or rearrange all their elements."""

from __future__ import annotations

from typing import Any

import numpy as np

from ampconvert.functions import Call
from ampconvert.ranges.domain import (
    Abstract,
    Dims,
    Norm,
    build,
    collapse,
    hidden_of,
    radius_along,
    same_dim,
)
from ampconvert.ranges.transfer import Results, State, constants, result_dims, transfer
from ampconvert.ranges.transfer_moves import part_of

_MOST_JOINED = 2**14  # elements along the axis up to which each keeps its own bound


@transfer("flip", "depth_to_space")
def _rearrange(state: State, call: Call) -> Results:
    x = state.operand(call, 0)
    return None if x is None else scattered(x, result_dims(call))


def scattered(x: Abstract, dims: Dims) -> Abstract:
    """The elements of `x` in unknown order."""
    return build(dims, *x.worst, hidden=x.hidden, whole=x.whole)


@transfer("tril")
def _tril(state: State, call: Call) -> Results:
    """Elements on one side of the diagonal become zero."""
    x = state.operand(call, 0)
    if x is None:
        return None
    return build(result_dims(call), np.minimum(x.lo, 0), np.maximum(x.hi, 0), ball=x.ball,
                 mass=x.mass, hidden=x.hidden, whole=x.whole)  # fmt: skip


@transfer("concat")
def _concat(state: State, call: Call) -> Results:
    dims = result_dims(call)
    parts = [state.of(o) for o in call.operands if isinstance(o, str)]
    if not parts or dims is None or any(p.dims is None or len(p.dims) != len(dims) for p in parts):
        return _joined_scalars(dims, parts)
    axis = int(call.attr("axis", "dim", default=0)) % len(dims)
    sizes = [p.dims[axis] for p in parts if p.dims is not None]
    known = [s for s in sizes if isinstance(s, int)]
    if len(known) == len(sizes) and sum(known) <= _MOST_JOINED:
        lo = _spread([p.lo for p in parts], known, axis)
        hi = _spread([p.hi for p in parts], known, axis)
    else:
        lo = np.minimum.reduce([p.lo.min(axis=axis, keepdims=True) for p in parts])
        hi = np.maximum.reduce([p.hi.max(axis=axis, keepdims=True) for p in parts])
    loads = [p.data for p in parts if p.data is not None]
    return build(
        dims, lo, hi, ball=_joined_ball(parts, axis - len(dims), dims), hidden=hidden_of(parts),
        whole=all(p.whole for p in parts),
        data=(lambda: np.concatenate([load() for load in loads], axis=axis))
        if len(loads) == len(parts) else None,
    )  # fmt: skip


def _joined_scalars(dims: Dims, parts: list[Abstract]) -> Abstract | None:
    """One bound for all elements of all parts."""
    if not parts:
        return None
    worst = [p.worst for p in parts]
    return build(dims, min(w[0] for w in worst), max(w[1] for w in worst),
                 hidden=hidden_of(parts), whole=all(p.whole for p in parts))  # fmt: skip


def _spread(arrays: list[Any], sizes: list[int], axis: int) -> Any:
    """Bounds of a concatenation: each part at its full size along the axis."""
    others = [max(a.shape[i] for a in arrays) for i in range(arrays[0].ndim)]
    full = []
    for array, size in zip(arrays, sizes, strict=True):
        full.append(np.broadcast_to(array, [*others[:axis], size, *others[axis + 1 :]]))
    return np.concatenate(full, axis=axis)


def _joined_ball(parts: list[Abstract], axis: int, dims: tuple[Any, ...]) -> Norm | None:
    """The norm of concatenated vectors, or of vectors that are one or another part's."""
    known = next((p.ball for p in parts if p.ball is not None), None)
    if known is None:
        return None
    along = known.axis

    def radius() -> Any:
        sizes = [p.dims[along] if p.dims is not None else dims[along] for p in parts]
        each = [float(radius_along(p, along, s).max()) for p, s in zip(parts, sizes, strict=True)]
        if along != axis:
            return np.float64(max(each))
        return np.float64(np.linalg.norm(each) * (1 + 1e-12))

    return Norm(along, radius)


@transfer("stack")
def _stack(state: State, call: Call) -> Results:
    return _joined_scalars(
        result_dims(call), [state.of(o) for o in call.operands if isinstance(o, str)]
    )


@transfer("pad")
def _pad(state: State, call: Call) -> Results:
    """Constants around the operand, or copies of its own elements."""
    x, dims = state.operand(call, 0), result_dims(call)
    if x is None:
        return None
    # Those without a mode repeat elements if they call their argument `padding`.
    mode = call.attr("mode", default="copies" if "padding" in call.node.attrs else "constant")
    spread = _along_padded(state, call, x, dims)
    if mode != "constant":
        return spread
    filled = _filling(state, call)
    if filled is None:
        return None
    zero = filled.worst == (0.0, 0.0) and filled.hidden is None
    lo, hi = np.minimum(spread.lo, filled.worst[0]), np.maximum(spread.hi, filled.worst[1])
    return build(
        dims, lo, hi, ball=part_of(x.ball) if zero else None, hidden=hidden_of([x, filled]),
        mass=part_of(x.mass) if zero else None, whole=x.whole and filled.whole,
    )  # fmt: skip


def _along_padded(state: State, call: Call, x: Abstract, dims: Dims) -> Abstract:
    """`x` with one bound along every axis that may be padded or cropped."""
    if x.dims is None or dims is None or len(x.dims) != len(dims):
        return scattered(x, dims)
    rank = len(dims)
    axes = {i for i in range(rank) if not same_dim(x.dims[i], dims[i])}
    onnx_pads = call.attr("pads") or constants(state, call, "pads", 1)
    aten_pads = call.attr("pad", "padding")
    chosen = any(call.node.inputs[i] for i in call.node.operand("axes"))
    if isinstance(aten_pads, list) and all(isinstance(n, int) for n in aten_pads):
        axes |= {rank - 1 - i // 2 for i, n in enumerate(aten_pads) if n}
    elif onnx_pads is not None and len(onnx_pads) == 2 * rank and not chosen:
        axes |= {i % rank for i, n in enumerate(onnx_pads) if n}
    else:
        axes = set(range(rank))
    return collapse(x, axes, dims)


def _filling(state: State, call: Call) -> Abstract | None:
    """What a pad puts around its operand."""
    places = call.node.operand("constant_value")
    name = call.node.inputs[places[0]] if places else None
    if name is not None:
        return state.of(name)
    given = call.attr("value", default=0.0)
    return state.number(float(given)) if isinstance(given, int | float) else None
