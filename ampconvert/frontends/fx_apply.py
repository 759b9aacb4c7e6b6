"""A Plan applied to a captured program. Decides nothing: every type, cast and constant is the
Plan's.

Before:  linear(x, p_weight)            weight float32
After:   to = _to_copy(x, dtype=float16); linear(to, p_weight)    weight stored in float16

State_dict keys, signature, output structure and module hierarchy stay as they were. A weight that
is read in both types stays float32 and is cast where `low` reads it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from ampconvert.dtypes import FLOAT_TYPES
from ampconvert.frontends.fx import weight, weight_targets
from ampconvert.frontends.fx_nodes import (
    is_getitem,
    is_tensor,
    operands,
    replace_operands,
    results,
    returned,
)
from ampconvert.frontends.fx_program import editable, rebuilt
from ampconvert.plan import OUTPUT, Plan

TORCH = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def apply(program: ExportedProgram, plan: Plan) -> ExportedProgram:
    """A new program that runs as `plan` says; `program` and its weights are left untouched."""
    module = editable(program)
    state, constants = _store_weights(program, plan, module.graph)
    held = holders(module.graph)
    for name, node in list(calls(module.graph).items()):
        if name in plan.compute:
            set_types(node, plan)
        node.meta["custom"] = {**node.meta.get("custom", {}), "ampconvert": name}
    _insert_casts(module.graph, plan, held, weight_targets(program))
    return rebuilt(program, module, state, constants)


def _store_weights(
    program: ExportedProgram, plan: Plan, graph: fx.Graph
) -> tuple[dict[str, Any], dict[str, Any]]:
    """State and constants with the weights that are only read in `low` held in it."""
    state, constants = dict(program.state_dict), dict(program.constants)
    for target in program.graph_signature.buffers_to_mutate.values():
        state[target] = state[target].clone()  # else a run would write the original's
    low = TORCH[plan.low]
    stored: dict[int, torch.Tensor] = {}  # tied weights: one tensor under several names stays one
    targets = weight_targets(program)
    places = [n for n in graph.nodes if n.op == "placeholder" and n.name in targets]
    # torch.export lets one of the names be read and leaves the others; those follow the one.
    for node in sorted(places, key=lambda n: not n.users):
        target = targets[node.name]
        tensor = weight(program, target)
        follows = not node.users and id(tensor) in stored
        if not follows and plan.weights.get(node.name) != (plan.low,):
            continue
        if id(tensor) not in stored:
            stored[id(tensor)] = _in_low(tensor, plan, node.name in plan.masks)
        (state if target in state else constants)[target] = stored[id(tensor)]
        node.meta["val"] = node.meta["val"].to(low)
    return state, constants


def _in_low(tensor: torch.Tensor, plan: Plan, clamp: bool) -> torch.Tensor:
    low = TORCH[plan.low]
    data = tensor.detach()
    if clamp:
        limit = FLOAT_TYPES[plan.low].max / 2
        data = torch.where(data.isinf(), data, data.clamp(-limit, limit))
    cast = data.to(low)
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(cast, requires_grad=tensor.requires_grad)
    return cast


def calls(graph: fx.Graph) -> dict[str, fx.Node]:
    """The calls of a graph by name; those that only take one result of several are none."""
    return {n.name: n for n in graph.nodes if n.op == "call_function" and not is_getitem(n)}


def holders(graph: fx.Graph) -> dict[str, fx.Node]:
    """The node that holds each value, by the value's name."""
    held = {n.name: n for n in graph.nodes if n.op in ("placeholder", "get_attr")}
    for node in graph.nodes:
        if node.op == "call_function" and not is_getitem(node):
            held |= {name: holder for name, holder, _ in results(node) if holder is not None}
    return held


def set_types(node: fx.Node, plan: Plan) -> None:
    """Give the node's results the planned type: its meta, its dtype argument and its constants."""
    chosen = TORCH[plan.compute[node.name]]
    if chosen is not torch.float32:
        makes_float32 = any(fake.dtype == torch.float32 for _, _, fake in results(node))
        for _, holder, fake in results(node):
            if holder is not None and fake.dtype == torch.float32:
                holder.meta["val"] = fake.to(chosen)
        if isinstance(node.meta["val"], list | tuple):
            node.meta["val"] = type(node.meta["val"])(
                t.to(chosen) if isinstance(t, torch.Tensor) and t.dtype == torch.float32 else t
                for t in node.meta["val"]
            )
        if makes_float32:
            _set_dtype_argument(node, chosen)
    for name, number in plan.scalars.get(node.name, {}).items():
        _set_argument(node, name, number)


def _set_dtype_argument(node: fx.Node, dtype: torch.dtype) -> None:
    """Ops that carry a type (full, arange, zeros_like, _to_copy, softmax's dtype) are told the new
    one.
    """
    schema = getattr(node.target, "_schema", None)
    names = [a.name for a in schema.arguments] if schema is not None else []
    if "dtype" not in names:
        return
    given = _argument(node, "dtype")
    makes_from_nothing = not any(is_tensor(a) for a in node.all_input_nodes) or given is not None
    reads_float = any(
        is_tensor(a) and a.meta["val"].is_floating_point() for a in node.all_input_nodes
    )
    if given == torch.float32 or (given is None and (makes_from_nothing or not reads_float)):
        _set_argument(node, "dtype", dtype)


def _argument(node: fx.Node, name: str) -> Any:
    if name in node.kwargs:
        return node.kwargs[name]
    position = [a.name for a in node.target._schema.arguments].index(name)  # type: ignore[union-attr]
    return node.args[position] if position < len(node.args) else None


def _set_argument(node: fx.Node, name: str, value: Any) -> None:
    position = [a.name for a in node.target._schema.arguments].index(name)  # type: ignore[union-attr]
    if name not in node.kwargs and position < len(node.args):
        node.update_arg(position, value)
    else:
        node.update_kwarg(name, value)


def _insert_casts(
    graph: fx.Graph, plan: Plan, held: dict[str, fx.Node], weights: dict[str, str]
) -> None:
    """One cast node per (value, type) right after the value, then every reader pointed at its
    own.
    """
    replaced: dict[tuple[str, int], fx.Node] = {}
    for cast in plan.casts:
        holder = held[cast.value]
        node = _cast_after(graph, holder, TORCH[cast.to], plan, clamp=cast.clamp)
        replaced |= dict.fromkeys(cast.readers, node)
    for name, types in plan.weights.items():
        if len(types) > 1 and name in weights:
            replaced |= _cast_mixed_weight(graph, plan, held[name])
    point_readers(graph, replaced)


def point_readers(graph: fx.Graph, replaced: Mapping[tuple[str, int], fx.Node]) -> None:
    """Let each reader, (call, operand position) or (OUTPUT, number), read the node given for it."""
    by_node: dict[str, dict[int, fx.Node]] = defaultdict(dict)
    for (name, position), node in replaced.items():
        by_node[name][position] = node
    named = calls(graph)
    for name, positions in by_node.items():
        if name != OUTPUT:
            _point(named[name], positions)
    _point_outputs(graph, by_node.get(OUTPUT, {}))


def _cast_mixed_weight(
    graph: fx.Graph, plan: Plan, holder: fx.Node
) -> dict[tuple[str, int], fx.Node]:
    node = _cast_after(graph, holder, TORCH[plan.low], plan, clamp=holder.name in plan.masks)
    return dict.fromkeys(low_readers(holder, plan), node)


def low_readers(holder: fx.Node, plan: Plan) -> list[tuple[str, int]]:
    """The (call, operand position)s that read a weight in `low`."""
    return [
        (user.name, i)
        for user in holder.users
        if user.name in plan.compute
        for i, operand in enumerate(operands(user))
        if operand.node is holder and plan.type_at(user.name, i) == plan.low
    ]


def _cast_after(
    graph: fx.Graph, holder: fx.Node, dtype: torch.dtype, plan: Plan, *, clamp: bool
) -> fx.Node:
    place = first_place(holder)
    source = holder
    if clamp and dtype is not torch.float32:
        source = place = clamped(graph, holder, place, plan)
    with graph.inserting_after(place):
        node = graph.call_function(torch.ops.aten._to_copy.default, (source,), {"dtype": dtype})
        node.meta = {**inherited(holder), "val": holder.meta["val"].to(dtype)}
        node.meta["custom"] = {"ampconvert": node.name, "ampconvert_cast": holder.name}
    return node


def first_place(holder: fx.Node) -> fx.Node:
    """The node after which what `holder` holds can be read by a call."""
    place = holder
    while place.next.op == "placeholder" or is_getitem(place.next):
        place = place.next
    return place


def clamped(graph: fx.Graph, holder: fx.Node, place: fx.Node, plan: Plan) -> fx.Node:
    """A mask limited to what `low` can hold, right after `place`."""
    limit = FLOAT_TYPES[plan.low].max / 2
    with graph.inserting_after(place):
        node = graph.call_function(torch.ops.aten.clamp.default, (holder, -limit, limit))
    node.meta = {**inherited(holder), "val": holder.meta["val"]}
    return node


def inherited(holder: fx.Node) -> dict[str, Any]:
    """What a new node takes over from the value it casts, so that it shows where it belongs."""
    return {k: v for k, v in holder.meta.items() if k in ("nn_module_stack", "stack_trace")}


def _point(node: fx.Node, positions: dict[int, fx.Node]) -> None:
    replace_operands(node, lambda i, old: positions.get(i, old))


def _point_outputs(graph: fx.Graph, casts: dict[int, fx.Node]) -> None:
    number = -1
    rewritten = []
    for value in returned(graph):
        if is_tensor(value):
            number += 1
            value = casts.get(number, value)
        rewritten.append(value)
    graph.output_node().args = (tuple(rewritten),)
