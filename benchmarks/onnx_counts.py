"""Counting in an ONNX file, the same for every tool: casts, and where the multiplications run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import onnx

LOW = {"float16": onnx.TensorProto.FLOAT16, "bfloat16": onnx.TensorProto.BFLOAT16}
FLOATS = {
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.DOUBLE,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
}
Types = dict[str, tuple[int, tuple[int, ...]]]  # element type and shape, 1 for an unknown dimension


def cast_count(model: onnx.ModelProto, low: str) -> int:
    """Cast nodes between `low` and another float type, bodies of control flow included."""
    types = _types(model, {})
    count = 0
    for node in _nodes(model.graph):
        if node.op_type == "Cast":
            to = next(a.i for a in node.attribute if a.name == "to")
            source = types.get(node.input[0], (onnx.TensorProto.FLOAT, ()))[0]
            count += source != to and {source, to} <= FLOATS and LOW[low] in (source, to)
    return count


def low_share(model: onnx.ModelProto, low: str, shapes: dict[str, tuple[int, ...]]) -> float | None:
    """The share of multiply-adds in matrix products and convolutions whose operands are `low`.

    `shapes` are those of the inputs. Recurrent nodes and Attention count as the products inside
    them. None for a model without any.
    """
    types = _types(model, shapes)
    total = inside = 0.0
    for node in _nodes(model.graph):
        work = _work(node, types)
        total += work
        kind = types.get(node.input[0], (0, ()))[0] if node.input else 0
        inside += work if kind == LOW[low] else 0.0
    return inside / total if total else None


def _work(node: onnx.NodeProto, types: Types) -> float:
    """Multiply-adds of one node; 0 for what is no product."""

    def shape(name: str) -> tuple[int, ...]:
        return types.get(name, (0, ()))[1]

    out = math.prod(shape(node.output[0])) if node.output else 0
    if node.op_type in ("MatMul", "FusedMatMul"):
        return out * (shape(node.input[0]) or (1,))[-1]
    if node.op_type == "Gemm":
        a = shape(node.input[0]) or (1, 1)
        turned = any(x.name == "transA" and x.i for x in node.attribute)
        return out * a[0 if turned else -1]
    if node.op_type == "Conv":
        return out * math.prod(shape(node.input[1])[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(shape(node.input[0])) * math.prod(shape(node.input[1])[1:])
    if node.op_type in ("LSTM", "GRU", "RNN"):
        steps = math.prod(shape(node.input[0])[:2])
        return steps * (math.prod(shape(node.input[1])) + math.prod(shape(node.input[2])))
    if node.op_type == "Attention":
        q, k = shape(node.input[0]), shape(node.input[1])
        return 2.0 * math.prod(q) * (k[-2] if len(k) > 1 else 1)
    if node.op_type == "Einsum":
        return _einsum_work(node, shape)
    return 0.0


def _einsum_work(node: onnx.NodeProto, shape: Any) -> float:
    """The product of all index sizes; 0 for one operand, which is a transpose or a sum."""
    equation = next(a.s.decode() for a in node.attribute if a.name == "equation")
    sizes: dict[str, int] = {}
    terms = equation.replace(" ", "").split("->")[0].split(",")
    if len(terms) < 2:
        return 0.0
    for term, name in zip(terms, node.input, strict=True):
        sizes |= dict(zip(reversed(term.replace("...", "")), reversed(shape(name)), strict=False))
    return float(math.prod(sizes.values()))


def _types(model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]]) -> Types:
    """Types and shapes of every value, inferred again with the inputs fixed to `shapes`."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in copy.graph.input:
        if value.name in shapes:
            dims = value.type.tensor_type.shape
            dims.ClearField("dim")
            for size in shapes[value.name]:
                dims.dim.add().dim_value = size
    if shapes:
        del copy.graph.value_info[:]
        for value in copy.graph.output:
            value.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(copy, data_prop=True)
    types: Types = {}
    for graph in _graphs(inferred.graph):
        for value in [*graph.value_info, *graph.input, *graph.output]:
            tensor = value.type.tensor_type
            types[value.name] = (
                tensor.elem_type,
                tuple(d.dim_value or 1 for d in tensor.shape.dim),
            )
        for weight in graph.initializer:
            types[weight.name] = (weight.data_type, tuple(weight.dims))
    return types


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for part in _graphs(graph):
        yield from part.node
