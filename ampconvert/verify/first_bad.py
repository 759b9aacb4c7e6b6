"""Which tensor went wrong first, and how far each is off: the emulated model against float32."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from ampconvert.verify.metrics import Measurement
from ampconvert.verify.segment_cuts import Limits, is_constant
from ampconvert.verify.segments import lockstep

Array = np.ndarray[Any, Any]
Feeds = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class BadTensor:
    """The first tensor, in execution order, that is not finite though it is in float32."""

    tensor: str
    node: str
    op: str
    absmax: float  # its largest finite magnitude in float32
    bad: int  # elements that are inf or NaN
    total: int  # elements
    batch: int  # the first batch where it happens
    # The node's metadata: "pkg.torch.onnx.*", "ampconvert.*". A cast of the plan belongs to no
    # operator of the model: it carries that of the first operator that reads it.
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TensorError:
    """How far one tensor of the emulated model is from its float32 value, over all batches."""

    tensor: str
    node: str
    op: str
    rel_l2: float  # inf when it is not finite
    absmax: float  # its largest finite magnitude in float32
    metadata: Mapping[str, str] = field(default_factory=dict)


def first_bad(emulated: ir.Model, upcast: ir.Model, feeds: Feeds) -> BadTensor | None:
    """The first tensor that is non-finite in `emulated` and finite in `upcast`, or None.

    The two models are `emulate(m)` and `upcast(m)`. Infinities that float32 has as well (masks) do
    not count. Both run once per batch, in segments, up to the segment with the first such tensor.
    What happens inside the body of a Loop or an If is seen at that node's results.

    Raises:
        UserError: a model does not load or run.
    """
    shared = {value.name or "": value for value in _shared(emulated, upcast)}
    order = {name: i for i, name in enumerate(shared)}
    found: dict[str, BadTensor] = {}
    last = 0
    with closing(lockstep(emulated, upcast, feeds, list(shared))) as pairs:
        for batch, name, got, expected in pairs:
            if found and (batch < last or len(feeds) == 1):
                break  # all batches of a segment come before the next one
            last = batch
            if name in found or _all_finite(got):
                continue
            lost = _lost(got, expected)
            if lost:
                node, op, metadata = _maker(shared[name])
                peak, size = _absmax(expected), expected.size
                found[name] = BadTensor(name, node, op, peak, lost, size, batch, metadata)
    return found[min(found, key=order.__getitem__)] if found else None


def tensor_errors(
    emulated: ir.Model,
    upcast: ir.Model,
    feeds: Feeds,
    names: Sequence[str] | None = None,
    *,
    chunk: int | None = None,
) -> list[TensorError]:
    """The error of each tensor, in execution order; `names` picks some.

    Both models run once per batch, in segments, and no tensor is kept. `chunk` limits the tensors
    that are fetched in one segment; by default their bytes do.

    Raises:
        UserError: a model does not load or run.
    """
    shared = {value.name or "": value for value in _shared(emulated, upcast)}
    picked = set(shared if names is None else names)
    wanted = [name for name in shared if name in picked]
    measured = {name: Measurement(name, math.inf) for name in wanted}
    absmax = dict.fromkeys(wanted, 0.0)
    limits = Limits(tensors=chunk)
    for _, name, got, expected in lockstep(emulated, upcast, feeds, wanted, limits=limits):
        measured[name].add(expected, got)
        absmax[name] = max(absmax[name], _absmax(expected))
    found = []
    for name in wanted:
        parity = measured[name].parity()
        node, op, metadata = _maker(shared[name])
        error = parity.rel_l2 if parity.finite else math.inf
        found.append(TensorError(name, node, op, error, absmax[name], metadata))
    return found


def _shared(emulated: ir.Model, upcast: ir.Model) -> Iterator[ir.Value]:
    """The float32 tensors that nodes of `upcast` compute, in execution order, and `emulated` too.

    Constants are left out: an infinity in one shows in what reads it.
    """
    known = {v.name for node in emulated.graph if not is_constant(node) for v in node.outputs}
    for node in upcast.graph:
        for value in () if is_constant(node) else node.outputs:
            is_tensor = isinstance(value.type, ir.TensorType) and value.dtype == ir.DataType.FLOAT
            if is_tensor and value.name and value.name in known:
                yield value


def _all_finite(array: Array) -> bool:
    """Without a copy; NaN is the smallest and the largest element wherever there is one."""
    return not array.size or bool(np.isfinite(array.min()) and np.isfinite(array.max()))


def _lost(got: Array, expected: Array) -> int:
    return int(np.count_nonzero(~np.isfinite(got) & np.isfinite(expected)))


def _maker(value: ir.Value) -> tuple[str, str, dict[str, str]]:
    """Name, operator and metadata of the node that makes `value`."""
    node = value.producer()
    assert node is not None
    op = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    metadata = dict(node.metadata_props)
    if node.op_type == "Cast" and "ampconvert.node" not in metadata:
        readers = (user.metadata_props for user in value.consumers())
        metadata |= next((dict(m) for m in readers if "ampconvert.node" in m), {})
    return node.name or "", op, metadata


def _absmax(array: Array) -> float:
    finite = np.abs(array[np.isfinite(array)])
    return float(finite.max()) if finite.size else 0.0
