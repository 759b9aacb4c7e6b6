"""What torch.onnx can't take or adds unasked: mended before the export and after it.

Before: outputs that are numbers, and attention on three dimensions. After: the exporter computes
some operators (sums, powers, many activations) of a `low` tensor in float32 between two casts of
its own. The plan has decided on their type already, so these casts go, and kernels accumulate as
they do.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping

import onnx_ir as ir
import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import ExportGraphSignature
from torch.utils import _pytree as pytree

from ampconvert.frontends.fx_nodes import operands, replace_operands, returned
from ampconvert.frontends.fx_program import editable, rebuilt

ATEN = torch.ops.aten
_PROMOTION = "convert_element_type"  # what torch.onnx names the casts that it adds


def exportable(program: ExportedProgram) -> ExportedProgram:
    """The same program in the form that torch.onnx takes; outputs that hold no tensor are left
    out.
    """
    module = editable(program)
    for node in list(module.graph.nodes):
        if node.target is ATEN.scaled_dot_product_attention.default:
            _with_heads(node, module.graph)
    return _without_constants(rebuilt(program, module, program.state_dict))


def drop_promotions(
    model: ir.Model, origin: Mapping[str, str], compute: Mapping[str, str], low: str
) -> None:
    """Take out the exporter's float32 detours inside operators that `compute` holds in `low`."""
    wanted = ir.DataType.BFLOAT16 if low == "bfloat16" else ir.DataType.FLOAT16
    groups: dict[str, list[ir.Node]] = defaultdict(list)
    for node in model.graph:
        name = origin.get(node.name or "", "")
        if compute.get(name) == low:
            groups[name].append(node)
    for nodes in groups.values():
        if any(_is_promotion(node) for node in nodes):
            _straighten(model, nodes, wanted)


def _with_heads(attention: fx.Node, graph: fx.Graph) -> None:
    """Attention without a heads dimension gets one of size 1: torch.onnx knows four dimensions
    only.
    """
    made = attention.meta["val"]
    if made.dim() != 3:
        return
    widened: dict[fx.Node, fx.Node] = {}

    def widen(position: int, tensor: fx.Node) -> fx.Node:
        if tensor.meta["val"].dim() != 3:
            return tensor  # a mask of two dimensions is the same for every head
        if tensor not in widened:
            with graph.inserting_before(attention):
                widened[tensor] = graph.call_function(ATEN.unsqueeze.default, (tensor, 1))
            widened[tensor].meta = {**attention.meta, "val": tensor.meta["val"].unsqueeze(1)}
        return widened[tensor]

    if any(o.node is not None and o.node.meta["val"].dim() > 3 for o in operands(attention)):
        return
    replace_operands(attention, widen)
    with graph.inserting_after(attention):
        narrow = graph.call_function(ATEN.squeeze.dim, (attention, 1))
    attention.replace_all_uses_with(narrow, delete_user_cb=lambda user: user is not narrow)
    narrow.meta = dict(attention.meta)
    attention.meta["val"] = made.unsqueeze(1)


def _without_constants(program: ExportedProgram) -> ExportedProgram:
    """`program` without outputs that are numbers, texts or None: ONNX returns tensors only."""
    values = returned(program.graph)
    kept = [i for i, value in enumerate(values) if isinstance(value, fx.Node)]
    if len(kept) == len(values):
        return program
    program.graph.output_node().args = (tuple(values[i] for i in kept),)
    signature = program.graph_signature
    specs = [signature.output_specs[i] for i in kept]
    program.graph_module.recompile()
    calls = copy.deepcopy(program.module_call_graph)
    users = [spec for spec in specs if spec.kind.name == "USER_OUTPUT"]
    assert calls[0].signature is not None  # the root's
    calls[0].signature.out_spec = pytree.tree_structure(tuple(0 for _ in users))
    calls[0].signature.outputs = [spec.arg for spec in users]
    return ExportedProgram(
        root=program.graph_module,
        graph=program.graph,
        graph_signature=ExportGraphSignature(list(signature.input_specs), specs),
        state_dict=program.state_dict,
        range_constraints=program.range_constraints,
        module_call_graph=calls,
        example_inputs=program.example_inputs,
        constants=program.constants,
        verifiers=[program.verifier],
    )


def _is_promotion(node: ir.Node) -> bool:
    return node.op_type == "Cast" and _PROMOTION in (
        node.metadata_props.get("pkg.torch.onnx.fx_node", "") or (node.name or "")
    )


def _straighten(model: ir.Model, nodes: list[ir.Node], low: ir.DataType) -> None:
    """Compute one operator's nodes in `low` and remove the casts, unless float32 comes from
    elsewhere.
    """
    ups = [n for n in nodes if _is_promotion(n) and _types(n) == (low, ir.DataType.FLOAT)]
    downs = [n for n in nodes if _is_promotion(n) and _types(n) == (ir.DataType.FLOAT, low)]
    inner = [n for n in nodes if n not in ups and n not in downs and _touches_float32(n)]
    made = {value for node in (*ups, *inner) for value in node.outputs}
    constants: list[tuple[ir.Node, int]] = []
    shared: list[tuple[ir.Node, int, ir.Value | None]] = []  # up-casts merged with one of the plan
    for node in inner:
        if node.op_type == "Cast" or "dtype" in node.attributes:
            return
        for position, value in enumerate(node.inputs):
            if value is None or value.dtype != ir.DataType.FLOAT or value in made:
                continue
            producer = value.producer()
            if value.const_value is not None:
                constants.append((node, position))
            elif producer is not None and producer.op_type == "Cast" and _types(producer)[0] == low:
                shared.append((node, position, producer.inputs[0]))
            else:
                return
    ends = {id(node) for node in (*inner, *downs)}
    for value in made:
        if value.dtype != ir.DataType.FLOAT:
            continue
        if value.is_graph_output() or any(id(user) not in ends for user in value.consumers()):
            return
    for node, position in constants:
        node.replace_input_with(position, _constant_in(model, node.inputs[position], low))
    for node, position, source in shared:
        node.replace_input_with(position, source)
    for node in inner:
        for value in node.outputs:
            if value.dtype == ir.DataType.FLOAT:
                value.type = ir.TensorType(low)
    for cast in (*ups, *downs):
        _bypass(model, cast)


def _types(cast: ir.Node) -> tuple[ir.DataType | None, ir.DataType | None]:
    source = cast.inputs[0]
    return (None if source is None else source.dtype, cast.outputs[0].dtype)


def _touches_float32(node: ir.Node) -> bool:
    values = (*node.inputs, *node.outputs)
    return any(v is not None and v.dtype == ir.DataType.FLOAT for v in values)


def _constant_in(model: ir.Model, value: ir.Value | None, low: ir.DataType) -> ir.Value:
    """The same constant stored in `low`."""
    assert value is not None and value.const_value is not None
    name = f"{value.name}.{low.name.lower()}"
    if name not in model.graph.initializers:
        data = value.const_value.numpy().astype(low.numpy())
        stored = ir.Value(name=name, type=ir.TensorType(low), shape=value.shape)
        stored.const_value = ir.Tensor(data, name=name)
        model.graph.register_initializer(stored)
    return model.graph.initializers[name]


def _bypass(model: ir.Model, cast: ir.Node) -> None:
    """Remove a cast between equal types; a graph output keeps its name."""
    source, result = cast.inputs[0], cast.outputs[0]
    assert source is not None
    if result.is_graph_output():
        name = result.name
        outputs = model.graph.outputs
        for i, value in enumerate(outputs):
            if value is result:
                outputs[i] = source
        result.name = f"{name}_cast"
        source.name = name
    result.replace_all_uses_with(source)
    model.graph.remove(cast, safe=True)
