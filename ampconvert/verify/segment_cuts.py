"""Where a model may be cut into segments: what its nodes read, and what they cost in memory."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from ampconvert.element_types import bodies, typed
from ampconvert.verify.runtimes import numbers

_LARGE = 1 << 20  # bytes of a weight that is handed to the runtime, not written into the model
_HUGE = 1 << 30  # bytes of one that does not fit into the model: protobuf ends at 2 GiB
_FLOATING = {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
# Types of tensors that numpy can hold between two segments, as they are.
_CROSSING = _FLOATING | {
    ir.DataType.BOOL,
    *(ir.DataType[f"{sign}INT{bits}"] for sign in ("", "U") for bits in (8, 16, 32, 64)),
}
Cut = tuple[int, ...]  # nodes before it, for each model that is cut


@dataclass(frozen=True)
class Limits:
    """What one segment may hold; a single node that needs more gets a segment of its own.

    A model that stays below all of them is one segment. The limit on nodes is there since the
    runtime's time to load a graph grows faster than the graph.
    """

    weights: int = 256 << 20  # bytes
    fetched: int = 256 << 20  # bytes of wanted tensors of one batch, by their shapes
    tensors: int | None = None  # wanted tensors
    nodes: int = 3000
    kept: int = 1 << 30  # bytes of values between segments that stay in memory; the rest: files
    batches: int = 64  # that values between segments are kept of, in memory and files


class Work:
    """The nodes behind the wanted values of a model, in execution order, and what each reads.

    Constant nodes are no work: like weights they are part of every segment that reads them. `fed`
    are the names that get values from outside; an input with a default has that if it is not one.
    """

    def __init__(self, model: ir.Model, wanted: Sequence[str], fed: Collection[str] = ()) -> None:
        self.model = known(model)
        graph = self.model.graph
        given = {v.name for v in graph.inputs if v.name in fed}
        stored = {name: v for name, v in graph.initializers.items() if name not in given}
        self.inputs = {v.name: v for v in graph.inputs if v.name and v.name not in stored}
        self.weights = {
            name: v.const_value for name, v in stored.items() if v.const_value is not None
        }
        self.constants: dict[str, ir.Node] = {}
        self.wanted = dict.fromkeys(wanted)
        self.values = {v.name: v for v in (*graph.inputs, *stored.values()) if v.name}
        ordered = []
        for node in graph:
            self.values |= {v.name: v for v in node.outputs if v.name}
            if not self._is_constant(node):
                ordered.append(node)
        self._collect(ordered)
        self.makes = {name: i for i, node in enumerate(self.nodes) for name in made_by(node)}

    def _is_constant(self, node: ir.Node) -> bool:
        name = node.outputs[0].name if is_constant(node) else None
        if not name:
            return False
        value = node.attributes.get("value")
        if value is not None and value.type == ir.AttributeType.TENSOR:
            self.weights[name] = value.as_tensor()
            return True
        if name not in self.wanted:
            self.constants[name] = node
        return name not in self.wanted

    def _collect(self, ordered: Sequence[ir.Node]) -> None:
        """The needed ones of the nodes, and their reads, last node first."""
        needed = set(self.wanted)
        known = set(self.values.values())
        self.nodes: list[ir.Node] = []
        self.reads: list[tuple[str, ...]] = []
        for node in reversed(ordered):
            if not needed.isdisjoint(made_by(node)):
                # By identity: a body may name a value of its own like one outside.
                read = dict.fromkeys(v.name for v in _reads(node) if v in known and v.name)
                needed.update(read)
                self.nodes.append(node)
                self.reads.append(tuple(read))
        self.nodes.reverse()
        self.reads.reverse()

    def legal(self) -> list[bool]:
        """Whether the model may be cut before each node, and after the last one.

        It may not where a later node reads a value that is no plain tensor: a sequence, an
        optional, text, or anything of a type that is not known.
        """
        last = {name: i for i, names in enumerate(self.reads) for name in names}
        crossed = [0] * (len(self.nodes) + 2)
        for name, i in self.makes.items():
            if name in last and not crosses(self.values[name]):
                crossed[i + 1] += 1
                crossed[last[name] + 1] -= 1
        sums = np.cumsum(crossed)
        return [not s for s in sums[: len(self.nodes) + 1]]

    def is_fed(self, name: str) -> bool:
        """Whether a weight is handed to the runtime at each run, which copies nothing.

        Small ones and integers stay constants of the model, since operators may want their shapes,
        axes and scales as such.
        """
        tensor = self.weights[name]
        if tensor.nbytes >= _HUGE:
            return tensor.dtype in _CROSSING
        return tensor.nbytes >= _LARGE and tensor.dtype in _FLOATING


def segments(works: Sequence[Work], feed: Mapping[str, Any], limits: Limits) -> list[list[range]]:
    """Consecutive ranges of nodes for each work; the ranges at one place make one segment.

    Of two works, both make the same wanted values in each segment.
    """
    cuts = _cuts(works)
    sizes = _Sizes(works[-1], feed)
    pieces = [[range(*ends) for ends in zip(*pair, strict=True)] for pair in pairwise(cuts)]
    found: list[list[range]] = []
    load = _Load(works, limits, sizes)
    for piece in pieces:
        if not found or not load.take(piece):
            load = _Load(works, limits, sizes)
            load.take(piece)
            found.append(piece)
        else:
            joined = zip(found[-1], piece, strict=True)
            found[-1] = [range(a.start, b.stop) for a, b in joined]
    return found


def known(model: ir.Model) -> ir.Model:
    """`model` if it has the type of every value and no functions, else a copy that has."""
    made = (v for node in model.graph for v in node.outputs if v.name)
    complete = not model.functions and all(v.type is not None for v in made)
    return model if complete else typed(model)


def is_constant(node: ir.Node) -> bool:
    """Whether a node is nothing but a stored value."""
    return node.domain == "" and node.op_type == "Constant"


def made_by(node: ir.Node) -> list[str]:
    """The names of a node's results."""
    return [value.name for value in node.outputs if value.name]


def crosses(value: ir.Value) -> bool:
    """Whether a value can be handed from one segment to another."""
    maker = value.producer()
    if maker is not None and maker.op_type == "Optional":
        return False  # some operators tell an optional tensor from a tensor
    return isinstance(value.type, ir.TensorType) and value.dtype in _CROSSING


def node_proto(node: ir.Node) -> onnx.NodeProto:
    """A node with all its data in it; its metadata, which may be long, is left out."""
    proto = ir.serde.serialize_node(node)
    _inline(proto, node)
    proto.ClearField("doc_string")
    proto.ClearField("metadata_props")
    return proto


def tensor_proto(name: str, tensor: ir.TensorProtocol) -> onnx.TensorProto:
    """A tensor with its data in it."""
    if isinstance(tensor, ir.ExternalTensor):
        tensor = ir.Tensor(numbers(tensor), dtype=tensor.dtype, name=name)
    proto = ir.serde.serialize_tensor(tensor)
    proto.name = name
    return proto


class _Load:
    """What the nodes of one segment hold together."""

    def __init__(self, works: Sequence[Work], limits: Limits, sizes: _Sizes) -> None:
        self.works, self.limits, self.sizes = works, limits, sizes
        self.weights: list[set[str]] = [set() for _ in works]
        self.weight_bytes = self.fetched = self.tensors = 0
        self.nodes = [0] * len(works)

    def take(self, piece: Sequence[range]) -> bool:
        """Add the nodes; False when that passes a limit."""
        for k, (work, part) in enumerate(zip(self.works, piece, strict=True)):
            self.nodes[k] += len(part)
            for i in part:
                fresh = {n for n in work.reads[i] if n in work.weights} - self.weights[k]
                self.weights[k] |= fresh
                self.weight_bytes += sum(work.weights[n].nbytes for n in fresh)
                self.weight_bytes += sum(t.nbytes for t in _own_tensors(work.nodes[i]))
                wanted = [n for n in made_by(work.nodes[i]) if n in work.wanted]
                self.tensors += len(wanted)
                self.fetched += sum(self.sizes.bytes_of(n) for n in wanted)
        limit = self.limits.tensors
        return (
            self.weight_bytes <= self.limits.weights
            and self.fetched <= self.limits.fetched
            and (limit is None or self.tensors <= limit * len(self.works))
            and max(self.nodes) <= self.limits.nodes
        )


class _Sizes:
    """How large a work's values are for one batch: as declared, else as ONNX infers them."""

    def __init__(self, work: Work, feed: Mapping[str, Any]) -> None:
        self.work = work
        self.names = _dimensions(work, feed)
        self.known: dict[str, int] = {}
        for name in work.makes:
            size = self._declared(work.values[name])
            if size is not None:
                self.known[name] = size
        if any(name in work.makes and name not in self.known for name in work.wanted):
            self.known = _inferred(work, feed) | self.known

    def bytes_of(self, name: str) -> int:
        """Bytes of a wanted value; 0 where nobody can tell."""
        return self.known.get(name, 0)

    def _declared(self, value: ir.Value) -> int | None:
        if value.shape is None or not crosses(value) or value.dtype is None:
            return None
        size = value.dtype.itemsize
        for dim in value.shape:
            number = dim if isinstance(dim, int) else self.names.get(dim.value)
            if number is None:
                return None
            size *= number
        return math.ceil(size)


def _dimensions(work: Work, feed: Mapping[str, Any]) -> dict[str | None, int]:
    """The sizes of named dimensions, as the inputs have them."""
    found: dict[str | None, int] = {}
    for name, value in work.inputs.items():
        given = feed.get(name)
        if value.shape is not None and isinstance(given, np.ndarray):
            pairs = zip(value.shape, given.shape, strict=False)
            found |= {d.value: size for d, size in pairs if not isinstance(d, int) and d.value}
    return found


def _inferred(work: Work, feed: Mapping[str, Any]) -> dict[str, int]:
    """Bytes of all values whose shape follows from the inputs'."""
    graph = onnx.GraphProto(name="shapes", node=[node_proto(n) for n in work.constants.values()])
    for name, tensor in work.weights.items():
        if tensor.nbytes < 1024:  # shapes, axes: their numbers decide about other shapes
            graph.initializer.append(tensor_proto(name, tensor))
        else:
            graph.input.append(tensor_info(name, tensor.dtype, tensor.shape.numpy()))
    for name, value in work.inputs.items():
        given = feed.get(name)
        if isinstance(given, np.ndarray) and crosses(value):
            graph.input.append(tensor_info(name, value.dtype, given.shape))
        else:
            graph.input.append(ir.serde.serialize_value(value))
    graph.node.extend(node_proto(node) for node in work.nodes)
    try:
        made = onnx.shape_inference.infer_shapes(whole(work.model, graph), data_prop=True)
    except Exception:  # an operator that ONNX does not know, or a wrong shape: it is an estimate
        return {}
    return {
        info.name: size
        for info in (*made.graph.value_info, *made.graph.output)
        if (size := _bytes(info.type.tensor_type)) is not None
    }


def tensor_info(
    name: str, dtype: ir.DataType | None, shape: Sequence[int | None] | None
) -> onnx.ValueInfoProto:
    """The declaration of a tensor; None stands for a dimension, or a rank, that varies."""
    return onnx.helper.make_tensor_value_info(name, int(dtype or 0), shape)


def whole(model: ir.Model, graph: onnx.GraphProto) -> onnx.ModelProto:
    """`graph` as a model of `model`'s versions."""
    opsets = [onnx.helper.make_opsetid(d, v) for d, v in model.graph.opset_imports.items()]
    return onnx.ModelProto(ir_version=model.ir_version, graph=graph, opset_import=opsets)


def _bytes(kind: onnx.TypeProto.Tensor) -> int | None:
    dims = [d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim]
    if not kind.HasField("shape") or ir.DataType(kind.elem_type) not in _CROSSING or -1 in dims:
        return None
    return math.ceil(math.prod(dims) * ir.DataType(kind.elem_type).itemsize)


def _cuts(works: Sequence[Work]) -> list[Cut]:
    """Where all works may be cut at once, the start and the end included."""
    first, *others = works
    legal = first.legal()
    ends = [i for i in range(1, len(first.nodes)) if legal[i]]
    if not others:
        return [(0,), *((i,) for i in ends), (len(first.nodes),)]
    (second,) = others
    follow = _following(first, second)
    joint = [(i, j) for i in ends if (j := follow[i]) is not None]
    return [(0, 0), *joint, (len(first.nodes), len(second.nodes))]


def _following(first: Work, second: Work) -> list[int | None]:
    """For each cut of `first` the cut of `second` with the same wanted values before it."""
    legal = second.legal()
    count = [0]  # wanted values before each node of `second`
    for node in second.nodes:
        count.append(count[-1] + sum(n in second.wanted for n in made_by(node)))
    upper = [len(second.nodes)] * (len(second.nodes) + 1)  # the next legal cut from here on
    for j in range(len(second.nodes) - 1, -1, -1):
        upper[j] = j if legal[j] else upper[j + 1]
    found: list[int | None] = [0]
    reach = wanted = 0
    for node in first.nodes:
        names = [name for name in made_by(node) if name in first.wanted]
        wanted += len(names)
        reach = max([reach, *(second.makes[name] + 1 for name in names)])
        cut = upper[reach]
        found.append(cut if count[cut] == wanted else None)
    return found


def _reads(node: ir.Node) -> Iterator[ir.Value]:
    """What a node reads, captures of its bodies included (and the bodies' own values)."""
    yield from (value for value in node.inputs if value is not None)
    for body in bodies(node):
        yield from body.outputs
        for inner in body:
            yield from _reads(inner)


def _own_tensors(node: ir.Node) -> Iterator[ir.TensorProtocol]:
    """Tensors in a node's attributes, those of its bodies included."""
    for attr in node.attributes.values():
        if attr.type == ir.AttributeType.TENSOR:
            yield attr.as_tensor()
    for body in bodies(node):
        yield from (v.const_value for v in body.initializers.values() if v.const_value is not None)
        for inner in body:
            yield from _own_tensors(inner)


def _inline(proto: onnx.NodeProto, node: ir.Node) -> None:
    """Tensors in files of their own, also in bodies, become part of the node."""
    for made, attr in zip(proto.attribute, node.attributes.values(), strict=True):
        if attr.type == ir.AttributeType.TENSOR and isinstance(attr.value, ir.ExternalTensor):
            made.t.CopyFrom(tensor_proto(made.t.name, attr.value))
        graphs = [made.g] if attr.type == ir.AttributeType.GRAPH else made.graphs
        inner = [attr.as_graph()] if attr.type == ir.AttributeType.GRAPH else []
        inner += attr.as_graphs() if attr.type == ir.AttributeType.GRAPHS else []
        for graph, body in zip(graphs, inner, strict=True):
            for stored in graph.initializer:
                tensor = body.initializers[stored.name].const_value
                if isinstance(tensor, ir.ExternalTensor):
                    stored.CopyFrom(tensor_proto(stored.name, tensor))
            for inner_proto, inner_node in zip(graph.node, body, strict=True):
                _inline(inner_proto, inner_node)
