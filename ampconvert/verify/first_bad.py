"""Which tensor went wrong first, and how far each is off: the emulated model against float32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from ampconvert.verify.metrics import compare
from ampconvert.verify.runtimes import run_onnx, session

Array = np.ndarray[Any, Any]
Feeds = Sequence[Mapping[str, Array]]

_CHUNK = 8  # tensors fetched at once in full


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
    not count. One run sums up every tensor to a number; only those that hold an inf or NaN are
    fetched. What happens inside the body of a Loop or an If is seen at that node's results.

    Raises:
        UserError: a model does not load or run.
    """
    names = [value.name or "" for value in _shared(emulated, upcast)]
    suspects = _suspects(emulated, names, feeds)
    for start in range(0, len(suspects), _CHUNK):
        chunk = suspects[start : start + _CHUNK]
        with session(_tapped(emulated, chunk)) as low, session(_tapped(upcast, chunk)) as full:
            worst: dict[str, BadTensor] = {}
            for batch, feed in enumerate(feeds):
                got, expected = low.run(feed), full.run(feed)
                for name in chunk:
                    if name not in worst and (lost := _lost(got[name], expected[name])):
                        worst[name] = _bad(upcast, name, expected[name], lost, batch)
        for name in chunk:
            if name in worst:
                return worst[name]
    return None


def tensor_errors(
    emulated: ir.Model,
    upcast: ir.Model,
    feeds: Feeds,
    names: Sequence[str] | None = None,
    *,
    chunk: int = 64,
) -> list[TensorError]:
    """The error of each tensor, in execution order; `names` picks some.

    `chunk` tensors are fetched per run, which bounds the memory; the number of runs is tensors
    over chunk.

    Raises:
        UserError: a model does not load or run.
    """
    shared = {value.name or "": value for value in _shared(emulated, upcast)}
    wanted = [name for name in shared if names is None or name in set(names)]
    found = []
    for start in range(0, len(wanted), chunk):
        part = wanted[start : start + chunk]
        got = run_onnx(_tapped(emulated, part), feeds)
        expected = run_onnx(_tapped(upcast, part), feeds)
        for name in part:
            truth = [batch[name] for batch in expected]
            parity = compare(name, truth, [batch[name] for batch in got], np.inf)
            node, op, metadata = _maker(shared[name])
            error = parity.rel_l2 if parity.finite else np.inf
            found.append(TensorError(name, node, op, error, max(map(_absmax, truth)), metadata))
    return found


def _shared(emulated: ir.Model, upcast: ir.Model) -> Iterator[ir.Value]:
    """The float32 tensors of `upcast`'s nodes, in execution order, that `emulated` has too."""
    known = {value.name for node in emulated.graph for value in node.outputs}
    for node in upcast.graph:
        for value in node.outputs:
            is_tensor = isinstance(value.type, ir.TensorType) and value.dtype == ir.DataType.FLOAT
            if is_tensor and value.name and value.name in known:
                yield value


def _suspects(emulated: ir.Model, names: Sequence[str], feeds: Feeds) -> list[str]:
    """Those of `names` that hold an inf or NaN in some batch, by one run of one number each."""
    probed = emulated.clone()
    graph = probed.graph
    values = _made(graph)
    graph.outputs.clear()
    for i, name in enumerate(names):
        # x - x is 0 for finite numbers and NaN for the rest, and a sum keeps a NaN.
        source = values[name]
        zero = ir.Value(name=f"probe/{i}/zero", type=ir.TensorType(ir.DataType.FLOAT))
        total = ir.Value(
            name=f"probe/{i}", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([])
        )
        keep = [ir.AttrInt64("keepdims", 0)]
        graph.append(ir.Node("", "Sub", [source, source], outputs=[zero], name=f"probe/{i}/Sub"))
        graph.append(
            ir.Node("", "ReduceSum", [zero], keep, outputs=[total], name=f"probe/{i}/ReduceSum")
        )
        graph.outputs.append(total)
    if not names:
        return []
    runs = run_onnx(probed, feeds)
    return [
        n for i, n in enumerate(names) if any(not np.isfinite(run[f"probe/{i}"]) for run in runs)
    ]


def _tapped(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """`model` with the named tensors as its outputs, without the nodes behind the last of them."""
    tapped = model.clone()
    graph = tapped.graph
    values = _made(graph)
    graph.outputs.clear()
    graph.outputs.extend(values[name] for name in names)
    needed = set(graph.outputs)
    for node in reversed(list(graph)):
        if any(value in needed for value in node.outputs):
            needed.update(v for v in _reads(node) if v is not None)
        else:
            graph.remove(node)
    return tapped


def _reads(node: ir.Node) -> Iterator[ir.Value | None]:
    """What a node reads, captures of its bodies included."""
    yield from node.inputs
    for attr in node.attributes.values():
        if attr.type == ir.AttributeType.GRAPH:
            inner = [attr.as_graph()]
        elif attr.type == ir.AttributeType.GRAPHS:
            inner = list(attr.as_graphs())
        else:
            continue
        for body in inner:
            yield from body.outputs
            for one in body:
                yield from _reads(one)


def _made(graph: ir.Graph) -> dict[str | None, ir.Value]:
    return {value.name: value for node in graph for value in node.outputs}


def _lost(got: Array, expected: Array) -> int:
    return int(np.count_nonzero(~np.isfinite(got) & np.isfinite(expected)))


def _bad(upcast: ir.Model, name: str, expected: Array, lost: int, batch: int) -> BadTensor:
    node, op, metadata = _maker(_made(upcast.graph)[name])
    return BadTensor(name, node, op, _absmax(expected), lost, expected.size, batch, metadata)


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
