"""Which element type every value of an ONNX model has, also where the file does not say."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import onnx_ir as ir
from onnx import inliner
from onnx_ir.passes.common import InlinePass

LOW_TYPES = {ir.DataType.FLOAT16: "float16", ir.DataType.BFLOAT16: "bfloat16"}
# Integer attributes that hold an element type (TensorProto.DataType), in any operator.
TYPE_ATTRIBUTES = frozenset(
    {
        "to",
        "dtype",
        "output_dtype",
        "output_datatype",
        "precision",
        "softmax_precision",
        "stash_type",
    }
)
# Of these the ones that name the type of output 0.
RESULT_ATTRIBUTES = ("to", "dtype", "output_dtype", "output_datatype")
_ELEMENT_TYPES = {
    "float": ir.DataType.FLOAT,
    "double": ir.DataType.DOUBLE,
    **{t.name.lower(): t for t in ir.DataType if t.name not in ("FLOAT", "DOUBLE", "UNDEFINED")},
}


@dataclass(frozen=True)
class LowCount:
    """How many of a model's nodes compute in a low type."""

    low: int  # nodes that read or write a float16 or bfloat16 tensor
    total: int  # all nodes but casts and constants
    inserted_casts: int = 0  # casts that the runtime added around nodes it has no low kernel for


def infer_types(model: ir.Model) -> None:
    """Fill in, in place, the type of every value of `model` that has none; types there are kept.

    Follows the operators' schemas (ONNX's own, and ONNX Runtime's for its operators where it is
    installed), in one pass over the nodes, bodies of If, Loop and Scan included. An operator that
    no schema describes gives what its first floating-point input is. Functions must be inlined.
    """
    _infer_graph(model.graph, model.graph.opset_imports)


def inlined(model: ir.Model) -> ir.Model:
    """A clone of `model` with its functions written out where they are called."""
    if any(
        model.opset_imports.get(domain, version) != version
        for function in model.functions.values()
        for domain, version in function.opset_imports.items()
    ):
        # Bodies of another opset: onnx's own inliner raises them. It holds all weights meanwhile.
        proto = inliner.inline_local_functions(ir.to_proto(model), convert_version=True)
        return ir.from_proto(proto)
    clone = model.clone()
    if clone.functions:
        InlinePass()(clone)
    return clone


def typed(model: ir.Model) -> ir.Model:
    """A clone of `model` with its functions inlined and the type of every value known."""
    clone = inlined(model)
    infer_types(clone)
    return clone


def is_low(value: ir.Value | None) -> bool:
    """Whether the value is a tensor, or a sequence of tensors, of float16 or bfloat16."""
    return value is not None and value.dtype in LOW_TYPES


def stores_low(model: ir.Model) -> bool:
    """Whether any tensor of a model whose types are known is of a low type, bodies included."""
    graphs = (model.graph, *model.graph.subgraphs())
    return any(is_low(v) for g in graphs for v in (*g.inputs, *g.initializers.values())) or any(
        is_low(v) for node in model.graph.all_nodes() for v in node.outputs
    )


def count_low(model: ir.Model) -> LowCount:
    """Count the nodes of a model whose types are known (`infer_types`), bodies included."""
    low = total = inserted = 0
    for node in model.graph.all_nodes():
        inserted += (node.name or "").startswith("InsertedPrecisionFreeCast_")
        if node.op_type in ("Cast", "CastLike", "Constant"):
            continue
        total += 1
        low += any(is_low(v) for v in (*node.inputs, *node.outputs))
    return LowCount(low, total, inserted)


def bodies(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs in a node's attributes."""
    for attr in node.attributes.values():
        if attr.type == ir.AttributeType.GRAPH:
            yield attr.as_graph()
        elif attr.type == ir.AttributeType.GRAPHS:
            yield from attr.as_graphs()


def _infer_graph(graph: ir.Graph, opsets: dict[str, int]) -> None:
    for value in graph.initializers.values():
        if value.type is None and value.const_value is not None:
            value.type = ir.TensorType(value.const_value.dtype)
    for node in graph:
        inner = list(bodies(node))
        for body in inner:
            _type_body_inputs(node, body)
            _infer_graph(body, opsets)
        for i, output in enumerate(node.outputs):
            if output.type is None:
                output.type = _body_result(node, inner, i) or _result(node, i, opsets)


def _type_body_inputs(node: ir.Node, body: ir.Graph) -> None:
    """A body's inputs are the node's, in order: Loop's trip count and condition come first."""
    if node.op_type not in ("Loop", "Scan"):
        return
    for value, given in zip(body.inputs, node.inputs, strict=False):
        if value.type is None and given is not None:
            value.type = given.type


def _body_result(node: ir.Node, inner: list[ir.Graph], i: int) -> Any:
    if not inner or node.op_type not in ("If", "Loop", "Scan"):
        return None
    position = i + 1 if node.op_type == "Loop" else i  # a Loop's body gives its condition first
    for body in inner:
        if position < len(body.outputs) and body.outputs[position].type is not None:
            return body.outputs[position].type
    return None


def _result(node: ir.Node, i: int, opsets: dict[str, int]) -> Any:
    """The type of output `i` by its attributes, its schema, or the first floating-point input."""
    named = _by_attribute(node) if i == 0 else None
    known = schema(node.domain, node.op_type, _version(node, opsets))
    if known is None:
        return ir.TensorType(named) if named else _first_floating(node)
    formal = _formal(known.outputs, i)
    if formal is None:
        return None
    variable = _variable(formal)
    if named is not None and not variable.startswith(("seq(", "optional(")):
        element = ir.TensorType(named)
        return ir.SequenceType(element) if _is_sequence(formal) else element
    for position, value in enumerate(node.inputs):
        given = _formal(known.inputs, position)
        if value is not None and given is not None and _variable(given) == variable:
            return value.type
    types = {str(t) for t in formal.types}
    if len(types) == 1:
        return _parse(types.pop())
    given = _first_floating(node)  # such as a sequence of what the inputs are, or the reverse
    if given is None and i == 0:
        given = _default_type(known)
    return _wrapped(formal, given) if given is not None else None


def _default_type(known: Any) -> Any:
    """The type of results that only an attribute names, where that is left out: float32, mostly."""
    for name in RESULT_ATTRIBUTES:
        if name in known.attributes:
            default = known.attributes[name].default_value.i
            return ir.TensorType(ir.DataType(default or ir.DataType.FLOAT))
    return None


def _wrapped(formal: Any, given: Any) -> Any:
    """A type of `given`'s elements in the form that the parameter has."""
    if all(str(t).startswith("optional(") for t in formal.types):
        return ir.OptionalType(given)
    if isinstance(given, ir.OptionalType):
        return given.elem_type
    element = ir.TensorType(given.dtype)
    return ir.SequenceType(element) if _is_sequence(formal) else element


def _by_attribute(node: ir.Node) -> ir.DataType | None:
    for name in RESULT_ATTRIBUTES:
        attr = node.attributes.get(name)
        if attr is not None and attr.type == ir.AttributeType.INT and attr.as_int():
            return ir.DataType(attr.as_int())
    if node.op_type == "CastLike" and len(node.inputs) > 1 and node.inputs[1] is not None:
        return node.inputs[1].dtype
    if node.op_type in ("Constant", "ConstantOfShape"):
        return _constant_type(node)
    return None


def _constant_type(node: ir.Node) -> ir.DataType:
    for name, attr in node.attributes.items():
        if attr.type == ir.AttributeType.TENSOR:
            return attr.as_tensor().dtype
        if name.startswith("value_int"):
            return ir.DataType.INT64
        if name.startswith("value_string"):
            return ir.DataType.STRING
    return ir.DataType.FLOAT


def _first_floating(node: ir.Node) -> Any:
    floating = {ir.DataType.FLOAT, ir.DataType.DOUBLE, *LOW_TYPES}
    return next((v.type for v in node.inputs if v is not None and v.dtype in floating), None)


def _version(node: ir.Node, opsets: dict[str, int]) -> int:
    return node.version or opsets.get(node.domain) or 1


@functools.cache
def schema(domain: str, op: str, version: int) -> Any:
    """ONNX's schema, else ONNX Runtime's (another class with the same parts), else None."""
    try:
        return onnx.defs.get_schema(op, version, domain)
    except onnx.defs.SchemaError:
        return _runtime_schemas().get((domain, op))


@functools.cache
def _runtime_schemas() -> dict[tuple[str, str], Any]:
    try:
        from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema
    except ImportError:  # not installed, or a build without schemas
        return {}
    return {(s.domain, s.name): s for s in get_all_operator_schema() if s.domain}


def _formal(parameters: Sequence[Any], i: int) -> Any:
    """The schema's parameter that argument `i` fills; the last one may take any number."""
    if i < len(parameters):
        return parameters[i]
    last = parameters[-1] if parameters else None
    return last if last is not None and str(last.option).endswith("Variadic") else None


def _variable(formal: Any) -> str:
    """The type variable ("T") or fixed type ("tensor(float)") of a parameter."""
    return str(formal.type_str if hasattr(formal, "type_str") else formal.typeStr)


def _is_sequence(formal: Any) -> bool:
    return all(str(t).startswith("seq(") for t in formal.types)


def _parse(spelling: str) -> Any:
    """The type that a schema spells "tensor(float16)" or "seq(tensor(int64))"."""
    kind, _, rest = spelling.rstrip(")").partition("(")
    if kind in ("seq", "optional"):
        inner = _parse(rest)
        wrap = ir.SequenceType if kind == "seq" else ir.OptionalType
        return wrap(inner) if inner is not None else None
    element = _ELEMENT_TYPES.get(rest)
    return ir.TensorType(element) if element is not None and kind == "tensor" else None
