"""A copy of a model for onnx's checker: the same nodes and types, without weights of any size."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, TypeProto, ValueInfoProto

from ampconvert.frontends.onnx_tensors import MOST_AXES, called, external_range

SMALL = 1024  # bytes: shapes, axes and scales, whose numbers decide about shapes

# Operators of ONNX Runtime and TensorRT that stand in ONNX's own domain without being ONNX's.
_FOREIGN = frozenset(
    {
        *("Affine", "Crop", "DynamicSlice", "GRUUnit", "GivenTensorFill", "ImageScaler"),
        *("ParametricSoftplus", "Scale", "ScaledTanh", "SimplifiedLayerNormalization"),
    }
)
_FOREIGN_DOMAIN = "ampconvert.foreign"

Outside = Callable[[TensorProto], str]


def light(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `proto` in which large weights are inputs of the same type and shape.

    Declared shapes are left out except the inputs': programs that change a model's batch size
    often leave stale ones behind, which ONNX Runtime merely warns of. A node's name is what
    messages call it. Operators that onnx does not know have a domain of their own. `proto`'s
    tensors must be checked.
    """
    copy = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import)
    copy.functions.extend(proto.functions)
    for user in (copy, *copy.functions):
        user.opset_import.add(domain=_FOREIGN_DOMAIN, version=1)
    source, graph = proto.graph, copy.graph
    graph.name = source.name or "graph"
    graph.node.extend(source.node)
    graph.input.extend(source.input)
    for value in graph.input:
        _forget_length(value.type.tensor_type)
    inputs = {value.name for value in source.input}
    # Of inputs and weights onnx would take the shape to be the missing one, not the known one.
    known = inputs | {tensor.name for tensor in source.initializer}
    _add_types(graph.output, source.output)
    _add_types(graph.value_info, (v for v in source.value_info if v.name not in known))
    for tensor in source.initializer:
        if not _large(tensor):
            graph.initializer.append(tensor)
            _bring_in(graph.initializer[-1])
        elif tensor.name not in inputs:
            _declare(graph, tensor.name, tensor)
    numbers = itertools.count()

    def outside(tensor: TensorProto) -> str:
        """The name of an input of the whole model that stands for `tensor`."""
        name = f"ampconvert.weight.{next(numbers)}"
        _declare(graph, name, tensor)
        return name

    for node in graph.node:
        _lighten(node, outside)
    for function in copy.functions:
        for value in function.value_info:
            _forget_shape(value.type)
        for node in function.node:
            _lighten(node, None)
    return copy


def _lighten(node: NodeProto, outside: Outside | None) -> None:
    """`outside` is None in functions, which see no values but their own."""
    node.name = called(node)
    if node.op_type in _FOREIGN or node.op_type.endswith("_TRT"):
        node.domain = _FOREIGN_DOMAIN
    for attr in node.attribute:
        if attr.type == AttributeProto.GRAPH:
            _lighten_body(attr.g, outside)
        elif attr.type == AttributeProto.GRAPHS:
            for body in attr.graphs:
                _lighten_body(body, outside)
        elif attr.type == AttributeProto.TENSOR and not attr.ref_attr_name:
            if outside and node.op_type == "Constant" and _large(attr.t):
                node.op_type = "Identity"
                node.input.append(outside(attr.t))
                node.ClearField("attribute")
                return
            _bring_in(attr.t)
        elif attr.type == AttributeProto.TENSORS:
            for tensor in attr.tensors:
                _bring_in(tensor)


def _lighten_body(graph: GraphProto, outside: Outside | None) -> None:
    graph.name = graph.name or "body"
    for value in (*graph.input, *graph.output):
        _forget_shape(value.type)
    known = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    for i in reversed(range(len(graph.value_info))):
        if graph.value_info[i].name in known:
            del graph.value_info[i]
        else:
            _forget_shape(graph.value_info[i].type)
    for node in graph.node:
        _lighten(node, outside)
    for i in reversed(range(len(graph.initializer))):
        tensor = graph.initializer[i]
        if outside and _large(tensor):
            read = NodeProto(op_type="Identity", input=[outside(tensor)], output=[tensor.name])
            graph.node.insert(0, read)
            del graph.initializer[i]
        else:
            _bring_in(tensor)


def _large(tensor: TensorProto) -> bool:
    if tensor.data_location == TensorProto.EXTERNAL:
        return external_range(tensor)[2] > SMALL
    return len(tensor.raw_data) > SMALL


def _bring_in(tensor: TensorProto) -> None:
    """Put external data into the tensor itself: the small, and zeros for the rare others."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return
    file, offset, size = external_range(tensor)
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    if size > SMALL:
        tensor.raw_data = bytes(size)
        return
    with Path(file).open("rb") as data:
        data.seek(offset)
        tensor.raw_data = data.read(size)


def _declare(graph: GraphProto, name: str, tensor: TensorProto) -> None:
    kind = graph.input.add(name=name).type.tensor_type
    kind.elem_type = tensor.data_type
    kind.shape.SetInParent()
    for size in tensor.dims:
        kind.shape.dim.add(dim_value=size)
    _forget_length(kind)


def _forget_length(kind: TypeProto.Tensor) -> None:
    """Of a vector that is longer than any shape, or inference makes a tensor with so many axes."""
    sizes = kind.shape.dim
    if len(sizes) == 1 and sizes[0].dim_value > MOST_AXES and kind.elem_type == TensorProto.INT64:
        sizes[0].ClearField("dim_value")


def _add_types(to: Any, values: Iterable[ValueInfoProto]) -> None:
    for value in values:
        new = to.add(name=value.name)
        if value.type.WhichOneof("value") == "tensor_type":
            new.type.tensor_type.elem_type = value.type.tensor_type.elem_type
        elif value.HasField("type"):
            new.type.CopyFrom(value.type)
            _forget_shape(new.type)


def _forget_shape(kind: TypeProto) -> None:
    inner = kind.WhichOneof("value")
    if inner == "tensor_type":
        kind.tensor_type.ClearField("shape")
    elif inner in ("sequence_type", "optional_type"):
        _forget_shape(getattr(kind, inner).elem_type)
