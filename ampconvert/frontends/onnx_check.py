"""onnx's own checker on a model, kept away from what it can't do: big weights, hostile numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter

import onnx
from onnx import FunctionProto, GraphProto, NodeProto, TensorProto, TypeProto

from ampconvert.errors import UserError
from ampconvert.frontends.onnx_light import light
from ampconvert.frontends.onnx_tensors import ELEMENT_TYPES, MOST_AXES, bodies, called

_FIRST_WITH_OPSETS = 3  # IR version
_MOST_NODES = 1_000_000  # of all functions, each written out where it is called
# Integer attributes that number an axis. onnx 1.23 and ONNX Runtime 1.32 index arrays with some of
# them unchecked, and end the process.
_AXES = frozenset({"axis", "axes", "batch_dims", "perm", "batch_axis", "time_axis"})
# Which operand of an operator says how many axes its result has.
_SHAPES = {"ConstantOfShape": 0, "Expand": 1, "Reshape": 1, "Tile": 1}
_EINSUM = re.compile(r"[A-Za-z. ]*(,[A-Za-z. ]*)*(->[A-Za-z. ]*)?")  # onnx loops on "("


def check(proto: onnx.ModelProto) -> onnx.ModelProto | None:
    """Raise UserError, naming the node or value, unless the model keeps the rules of ONNX: its
    versions are known, its operators exist and take what they are given, types and shapes agree.

    `proto`'s nodes are in order and its tensors are checked. Takes time in proportion to its nodes.
    Gives a model with the types and shapes that were inferred on the way, None without any.
    """
    _check_versions(proto)
    _check_functions(proto)
    for graph in (proto.graph, *proto.functions):
        for node in _nodes(graph):
            _check_attributes(node)
    long: dict[str, int] = {}
    for graph in _graphs(proto.graph):
        _check_values(graph)
        long |= _long(graph)
    if long:
        _check_shapes_given(proto, long)
    copy = light(proto)
    # The checker wants a shape of all inputs and outputs, which ONNX Runtime does without. First
    # the checker: inference takes its rules for granted, and ends the process without them.
    bare = [
        value.type.tensor_type
        for value in (*copy.graph.input, *copy.graph.output)
        if value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape")
    ]
    for kind in bare:
        kind.shape.SetInParent()
    _check_rules(copy.SerializeToString())
    for kind in bare:
        kind.ClearField("shape")
    return _infer(copy.SerializeToString())


def _check_versions(proto: onnx.ModelProto) -> None:
    if proto.ir_version > onnx.IR_VERSION:
        raise UserError(
            f"IR version {proto.ir_version} is newer than the installed onnx {onnx.__version__} "
            f"knows ({onnx.IR_VERSION}): pip install -U onnx"
        )
    if proto.ir_version < _FIRST_WITH_OPSETS:
        raise UserError(
            f"IR version {proto.ir_version} is from before operator sets, or the file is damaged: "
            "export the model again"
        )
    known = {"": onnx.defs.onnx_opset_version(), "ai.onnx.ml": onnx.defs.onnx_ml_opset_version()}
    for user in (proto, *proto.functions):
        found: dict[str, int] = {}
        for entry in user.opset_import:
            domain = "" if entry.domain == "ai.onnx" else entry.domain
            title = domain or "ONNX"
            if found.setdefault(domain, entry.version) != entry.version:
                raise UserError(
                    f"the model imports two versions of the operators of {title}: "
                    f"{found[domain]} and {entry.version}; export it again"
                )
            if entry.version > known.get(domain, entry.version):
                raise UserError(
                    f"opset {entry.version} of {title} is newer than the installed onnx "
                    f"{onnx.__version__} knows ({known[domain]}): pip install -U onnx"
                )


def _check_functions(proto: onnx.ModelProto) -> None:
    """Functions are written out where they are called: that has to end, and soon."""
    if not proto.functions:
        return
    functions = {(f.domain, f.name, f.overload): f for f in proto.functions}
    calls = {
        key: [call for node in _nodes(f) if (call := _call(node)) in functions]
        for key, f in functions.items()
    }
    sizes: dict[tuple[str, str, str], int] = {}
    try:
        for key in TopologicalSorter(calls).static_order():
            sizes[key] = sum(1 for _ in _nodes(functions[key])) + sum(sizes[c] for c in calls[key])
    except CycleError as error:
        name = error.args[1][0][1]
        raise UserError(f"function {name!r} calls itself, which ONNX does not allow") from None
    total = sum(sizes.get(_call(node), 0) for node in _nodes(proto.graph))
    if max(total, *sizes.values()) > _MOST_NODES:
        raise UserError(
            f"its functions, written out where they are called, are {max(total, *sizes.values())} "
            f"nodes; {_MOST_NODES} are supported"
        )


def _call(node: NodeProto) -> tuple[str, str, str]:
    return (node.domain, node.op_type, node.overload)


def _check_attributes(node: NodeProto) -> None:
    """Refuse what onnx's C++ would fall over; the other attributes it checks itself."""
    if node.domain not in ("", "ai.onnx"):
        return
    for attr in node.attribute:
        if attr.name in _AXES:
            for axis in (attr.i, *attr.ints):
                least = 0 if attr.name == "batch_dims" else -MOST_AXES
                if not least <= axis <= MOST_AXES:
                    raise UserError(
                        f"{called(node)} has {attr.name}={axis}, and no tensor has such an axis: "
                        "the file is damaged; export or download it again"
                    )
        elif attr.name in ("to", "dtype") and not attr.ref_attr_name:
            if attr.i not in ELEMENT_TYPES:
                raise UserError(
                    f"{called(node)} has {attr.name}={attr.i}, which is no element type: the file "
                    "is damaged; export or download it again"
                )
        elif attr.name == "equation" and not _EINSUM.fullmatch(attr.s.decode()):
            raise UserError(f"{called(node)} has an equation that can't be read: {attr.s.decode()}")
        elif attr.name == "num_outputs" and attr.i != len(node.output) and not attr.ref_attr_name:
            raise UserError(
                f"{called(node)} has num_outputs={attr.i} and {len(node.output)} outputs: "
                "export the model again"
            )


def _check_values(graph: GraphProto) -> None:
    """What is declared of values, where onnx_ir could not take it or would believe it blindly.

    Element types and sizes that exporters write for "unknown" (0 and -1) are taken out.
    """
    weights = {tensor.name: tensor for tensor in graph.initializer}
    inside = len(graph.input) + len(graph.output)
    for i, value in enumerate((*graph.input, *graph.output, *graph.value_info)):
        kind = value.type.WhichOneof("value")
        if kind != "tensor_type":
            if _holds_map(value.type):
                raise UserError(
                    f"the value {value.name!r} is a map, which is not supported: export the model "
                    "without it (skl2onnx: options={'zipmap': False})"
                )
            continue
        element = value.type.tensor_type.elem_type
        if element == TensorProto.UNDEFINED and i >= inside:
            value.ClearField("type")
            continue
        if element not in ELEMENT_TYPES:
            raise UserError(
                f"the value {value.name!r} has the element type {element}, unknown to onnx "
                f"{onnx.__version__}: upgrade onnx, or export the model again"
            )
        for size in value.type.tensor_type.shape.dim:
            if size.dim_value < -1:
                raise UserError(
                    f"the value {value.name!r} has the size {size.dim_value}: the file is damaged; "
                    "export or download it again"
                )
            if size.dim_value == -1:
                size.ClearField("dim_value")
        weight = weights.get(value.name)
        if weight is not None and not _fits(weight, value.type.tensor_type):
            raise UserError(
                f"weight {value.name!r} has another type or shape than the one declared for it: "
                "export the model again"
            )


def _long(graph: GraphProto) -> dict[str, int]:
    """The vectors that are longer than any tensor's shape."""
    kinds = {v.name: v.type.tensor_type for v in (*graph.input, *graph.value_info)}
    sizes = {
        name: kind.shape.dim[0].dim_value
        for name, kind in kinds.items()
        if kind.elem_type == TensorProto.INT64 and len(kind.shape.dim) == 1
    }
    sizes |= {t.name: t.dims[0] for t in graph.initializer if len(t.dims) == 1}
    return {name: size for name, size in sizes.items() if size > MOST_AXES}


def _check_shapes_given(proto: onnx.ModelProto, long: Mapping[str, int]) -> None:
    """A tensor of two thousand million axes keeps inference, and ONNX Runtime, busy for ever."""
    for node in _nodes(proto.graph):
        at = _SHAPES.get(node.op_type, 0)
        if node.op_type in _SHAPES and len(node.input) > at and node.input[at] in long:
            raise UserError(
                f"{called(node)} is given a shape of {long[node.input[at]]} axes: the file is "
                "damaged; export or download it again"
            )


def _fits(tensor: TensorProto, declared: TypeProto.Tensor) -> bool:
    if tensor.data_type != declared.elem_type:
        return False
    if not declared.HasField("shape"):
        return True
    sizes = declared.shape.dim
    return len(sizes) == len(tensor.dims) and all(
        have.dim_value == size
        for have, size in zip(sizes, tensor.dims, strict=True)
        if have.HasField("dim_value")
    )


def _nodes(graph: GraphProto | FunctionProto) -> Iterator[NodeProto]:
    """All nodes, those in bodies too."""
    for node in graph.node:
        yield node
        for body in bodies(node):
            yield from _nodes(body)


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for body in bodies(node):
            yield from _graphs(body)


def _holds_map(kind: TypeProto) -> bool:
    inner = kind.WhichOneof("value")
    if inner in ("sequence_type", "optional_type"):
        return _holds_map(getattr(kind, inner).elem_type)
    return bool(inner == "map_type")


# How onnx says where it is. The names are those that `light` gives, complete with "node".
_AT = re.compile(r"\(op_type:[^,)]+(?:, node name: (.*?))?\): ")
_BAD_NODE = re.compile(r"==> Context: Bad node spec for node\. Name: (.*) OpType: ")
_NO_OP = re.compile(r"No Op registered for (\S+) with domain_version of (-?\d+)")
_KIND = re.compile(r"\[\w+Error\] |Inference error\(s\): ")


def _infer(model: bytes) -> onnx.ModelProto | None:
    try:
        return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except onnx.shape_inference.InferenceError as error:
        for line in str(error).splitlines():
            at = list(_AT.finditer(line))
            if at and at[-1][1] is None:
                # In the definition of an operator by others, which is onnx's own: it does not know
                # MeanVarianceNormalization's default, for one.
                continue
            if line:
                where = f"{at[-1][1]}: " if at else ""
                raise _wrong(where + line[at[-1].end() if at else 0 :]) from error
    return None


def _check_rules(model: bytes) -> None:
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # ValidationError, and ValueError for what it can't even read
        text = str(error)
        node, missing = _BAD_NODE.search(text), _NO_OP.search(text)
        where = f"{node[1]}: " if node else ""
        if missing:
            raise UserError(
                f"{where}ONNX opset {missing[2]} has no operator {missing[1]}: the file is "
                "damaged, or the operator is your own and needs a domain of its own"
            ) from error
        raise _wrong(where + text[: node.start() if node else None]) from error


def _wrong(what: str) -> UserError:
    line = " ".join(_KIND.sub("", what).split())
    return UserError(f"{line[:400].rstrip('. ')}: the file is damaged, or was written wrongly")
