"""Types and shapes that a model leaves out, from onnx's own inference."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import onnx
import onnx_ir as ir

# The only way to have an ir.Model inferred without its weights; ir's own ShapeInferencePass is
# built on it, but takes sequences without a type for tensors, and builds the model a second time.
from onnx_ir.passes.common._c_api_utils import call_onnx_api

from ampconvert.element_types import bodies, infer_types

FILLED = "ampconvert.filled"  # key of Graph.meta: names of values, with what the model says of them
INFERRED = "ampconvert.inferred"  # key of Graph.meta: what was inferred when the model was checked


@dataclass(frozen=True)
class Blank:
    """A value whose type or shape the model leaves out, and what it does say."""

    value: ir.Value
    type: ir.TypeProtocol | None
    shape: ir.Shape | None


def complete(model: ir.Model) -> list[Blank]:
    """Fill in, in place, the types and shapes of values that `model` leaves out, as far as they can
    be known, and say what they were. Functions must be inlined.
    """
    graphs = (model.graph, *model.graph.subgraphs())
    made = (v for graph in graphs for node in graph for v in node.outputs)
    given = (v for graph in graphs[1:] for v in graph.inputs)
    blanks = [Blank(v, v.type, v.shape) for v in (*given, *made) if _unknown(v)]
    checked = model.graph.meta.pop(INFERRED, None)
    if checked is not None:
        fill(model.graph, checked)
    elif any(blank.value.name for blank in blanks):
        # Shapes are only what costs are counted with: a model is read without them too.
        with suppress(Exception):
            fill(model.graph, call_onnx_api(onnx.shape_inference.infer_shapes, model).graph)
    infer_types(model)
    return blanks


def fill(graph: ir.Graph, inferred: onnx.GraphProto) -> None:
    """Give values of `graph` without a type or shape those they have in `inferred`, by name."""
    known = {info.name: info.type for info in (*inferred.value_info, *inferred.output)}
    holders = {node.output[0]: node for node in inferred.node if node.output and _holds(node)}
    for node in graph:
        for value in node.outputs:
            found = known.get(value.name or "")
            if found is not None and _unknown(value):
                _set(value, found)
        if node.outputs and node.outputs[0].name in holders:
            others = [
                body
                for attr in holders[node.outputs[0].name or ""].attribute
                for body in ((attr.g,) if attr.HasField("g") else attr.graphs)
            ]
            for body, other in zip(bodies(node), others, strict=False):
                fill(body, other)


def _unknown(value: ir.Value) -> bool:
    return value.type is None or (value.shape is None and isinstance(value.type, ir.TensorType))


def _set(value: ir.Value, found: onnx.TypeProto) -> None:
    if found.HasField("tensor_type"):
        tensor = found.tensor_type
        if value.type is None and tensor.elem_type:
            value.type = ir.TensorType(ir.DataType(tensor.elem_type))
        if value.shape is None and tensor.HasField("shape"):
            value.shape = ir.Shape([_size(dim) for dim in tensor.shape.dim])
    elif value.type is None:
        value.type = ir.serde.deserialize_type_proto_for_type(found)


def _size(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    return dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None


def _holds(node: onnx.NodeProto) -> bool:
    return any(attr.HasField("g") or attr.graphs for attr in node.attribute)
