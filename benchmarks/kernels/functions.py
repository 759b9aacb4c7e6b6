"""Operators that ONNX defines as functions: what a runtime without a kernel turns them into.

ONNX Runtime writes out the body of a function that no provider has a kernel for, and looks for
kernels of what is in it. The bodies come from ONNX, on the models of its node tests.
"""

from __future__ import annotations

import copy
import functools
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import onnx
import onnx.inliner

from benchmarks.kernels.registry import Bound

ELEMENTS = {
    "float": onnx.TensorProto.FLOAT,
    "float16": onnx.TensorProto.FLOAT16,
    "bfloat16": onnx.TensorProto.BFLOAT16,
}
DEPTH = 4  # functions within functions
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "output_datatype")

Runs = Callable[[onnx.NodeProto, int, Bound], bool]  # node, its schema's version, its types


def body_runs(op: str, opset: int, element: str, runs: Runs, full: Runs) -> bool | None:
    """Whether every operator in the body of ONNX's function `op` runs on operands of `element`.

    None where ONNX Runtime writes out no body: `op` is no function, or an operator in its body has
    changed since; and where ONNX has no example to see the body by. Examples that do not run in
    float32 by `full` do not count.
    """
    answers = []
    for model in _examples()[op]:
        original, changed = _with(model, opset, "float"), _with(model, opset, element)
        if (
            original is not None
            and _parts_run(original, opset, full, DEPTH)
            and changed is not None
        ):
            answers.append(_parts_run(changed, opset, runs, DEPTH))
    return all(answers) if answers else None


def _parts_run(model: onnx.ModelProto, opset: int, runs: Runs, depth: int) -> bool | None:
    """As `body_runs`, of the one node in `model`; False for a body whose types do not fit."""
    node = model.graph.node[0]
    version = _body_version(node, opset)
    body = _written_out(model) if version is not None else None
    if version is None or body is None or _changed(node, body, version, opset):
        return None
    try:
        body = onnx.shape_inference.infer_shapes(body, strict_mode=True)
    except onnx.shape_inference.InferenceError:
        return False
    types = _element_types(body.graph)
    for node in _each_node(body.graph):
        if node.op_type == "Constant":
            continue
        schema = _schema(node, opset)
        bound = _bound(node, schema, types)
        if bound is None:
            return False
        if runs(node, schema.since_version, bound):
            continue
        inner = _alone(node, types, opset)
        if depth == 0 or inner is None or not _parts_run(inner, opset, runs, depth - 1):
            return False
    return True


def _body_version(node: onnx.NodeProto, opset: int) -> int | None:
    """The opset of the newest body up to `opset`."""
    schema = _schema(node, opset)
    versions = {*schema.function_opset_versions, *schema.context_dependent_function_opset_versions}
    return max((v for v in versions if v <= opset), default=None)


def _written_out(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """`model` with the body in place of its one node; None where ONNX makes none of it."""
    node = model.graph.node[0]
    try:
        body = onnx.inliner.inline_selected_functions(
            model, [(node.domain, node.op_type)], False, True
        )
    except RuntimeError:  # sequences, bodies that follow a type it was not told
        return None
    return None if any(n.op_type == node.op_type for n in body.graph.node) else body


def _changed(node: onnx.NodeProto, body: onnx.ModelProto, version: int, opset: int) -> bool:
    """Whether an operator in the body is another one by now: ONNX Runtime then leaves the body,
    unless it is one that ONNX builds to fit the node's operands.
    """
    return _schema(node, opset).has_function and any(
        _schema(n, opset).since_version != _schema(n, version).since_version
        for n in _each_node(body.graph)
    )


@functools.cache
def _examples() -> dict[str, list[onnx.ModelProto]]:
    """ONNX's node tests of one node each, by operator."""
    from onnx.backend.test.case.node import collect_testcases

    found: dict[str, list[onnx.ModelProto]] = defaultdict(list)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some examples overflow while ONNX makes them
        cases = collect_testcases(None)
    for case in cases:
        model = case.model
        if model is None or len(model.graph.node) != 1 or model.graph.node[0].domain:
            continue
        # Types of a byte or less, which CastLike and its kind have examples of, are another matter.
        if not any(
            re.match("float[48]|u?int[24]$", t) for t in _element_types(model.graph).values()
        ):
            found[model.graph.node[0].op_type].append(model)
    return found


def _with(model: onnx.ModelProto, opset: int, element: str) -> onnx.ModelProto | None:
    """`model` at `opset`, with every float32 operand of type `element` that can be; None when there
    is none, or the operator is another one at that opset.
    """
    model = copy.deepcopy(model)
    node, entry = model.graph.node[0], next(e for e in model.opset_import if not e.domain)
    schema = _schema(node, entry.version)
    if opset < schema.since_version or schema.since_version != _schema(node, opset).since_version:
        return None
    entry.version = opset
    given = {attribute.name for attribute in node.attribute}
    for name, attribute in schema.attributes.items():  # the inliner forgets the defaults
        if name not in given and attribute.default_value.name:
            node.attribute.append(attribute.default_value)
    values = {v.name: v.type for v in (*model.graph.input, *model.graph.output)}
    changed = set()
    for i, name in enumerate(node.input):
        if name and _allows(schema, variable := _variable(schema.inputs, i), element):
            changed |= {variable} if _set_type(values[name], ELEMENTS[element]) else set()
    for attribute in node.attribute:
        if attribute.name in _TYPE_ATTRIBUTES and attribute.i == onnx.TensorProto.FLOAT:
            attribute.i = ELEMENTS[element]
            changed |= {_variable(schema.outputs, 0)}
    for i, name in enumerate(node.output):
        if name and _variable(schema.outputs, i) in changed:
            _set_type(values[name], ELEMENTS[element])
    return model if changed else None


def _allows(schema: Any, variable: str, element: str) -> bool:
    allowed = {t for c in schema.type_constraints if c.type_param_str == variable
               for t in c.allowed_type_strs}  # fmt: skip
    return any(f"tensor({element})" in t for t in allowed)


def _set_type(kind: onnx.TypeProto, element: int) -> bool:
    if kind.HasField("sequence_type"):
        return _set_type(kind.sequence_type.elem_type, element)
    if kind.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        return False
    kind.tensor_type.elem_type = element
    return True


@functools.cache
def _schema_of(op: str, domain: str, opset: int) -> Any:
    return onnx.defs.get_schema(op, opset, domain)


def _schema(node: onnx.NodeProto, opset: int) -> Any:
    return _schema_of(node.op_type, node.domain, opset)


def _variable(parameters: Sequence[Any], i: int) -> str:
    return str(parameters[min(i, len(parameters) - 1)].type_str)


def _bound(node: onnx.NodeProto, schema: Any, types: Bound) -> Bound | None:
    """The element type of each type variable; None where two operands of one differ."""
    bound: dict[str, str] = {}
    for parameters, names in ((schema.inputs, node.input), (schema.outputs, node.output)):
        for i, name in enumerate(names):
            known = types.get(name)
            if not known or _mixes(parameters, i):
                continue
            if bound.setdefault(_variable(parameters, i), known) != known:
                return None
    return bound


def _mixes(parameters: Sequence[Any], i: int) -> bool:
    """Whether a variadic operand takes tensors of several types, as Loop's state does."""
    return not parameters[min(i, len(parameters) - 1)].is_homogeneous


def _alone(node: onnx.NodeProto, types: Bound, opset: int) -> onnx.ModelProto | None:
    """A model of `node` alone; None where a type in it is unknown."""
    names = [n for n in (*node.input, *node.output) if n]
    if any(name not in types for name in names):
        return None
    values = {n: onnx.helper.make_tensor_value_info(
        n, onnx.TensorProto.DataType.Value(types[n].upper()), None) for n in names}  # fmt: skip
    graph = onnx.helper.make_graph(
        [node], "alone", [values[n] for n in node.input if n], [values[n] for n in node.output if n]
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])


def _each_node(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _each_node(attribute.g)


def _element_types(graph: onnx.GraphProto) -> dict[str, str]:
    """The element type of every value, bodies of control flow included."""
    found = {}
    for value in (*graph.input, *graph.output, *graph.value_info):
        kind = (
            value.type.sequence_type.elem_type
            if value.type.HasField("sequence_type")
            else value.type
        )
        if kind.tensor_type.elem_type:
            found[value.name] = kind.tensor_type.elem_type
    for tensor in graph.initializer:
        found[tensor.name] = tensor.data_type
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                found[node.output[0]] = attribute.t.data_type
    named = {name: onnx.TensorProto.DataType.Name(kind).lower() for name, kind in found.items()}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                named |= _element_types(attribute.g)
    return named
