"""Parts of a graph that run inside torch.func (vmap, grad, jvp): taken out as one call each.

What such a part computes depends on the levels that it opens and closes, so no call of it can be
looked at alone. Outside it there are plain tensors again.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from ampconvert.training.refusal import NotCapturable

_OPENS = ("_increment_nesting", "_enter_dual_level", "_saved_tensors_hooks_disable")
_CLOSES = ("_decrement_nesting", "_exit_dual_level", "_saved_tensors_hooks_enable")

_IN_PLACE = frozenset(
    getattr(operator, name)
    for name in ("setitem", "iadd", "iand", "iconcat", "ifloordiv", "ilshift", "imatmul", "imod",
                 "imul", "ior", "ipow", "irshift", "isub", "itruediv", "ixor")
)  # fmt: skip


def run_whole(body: fx.GraphModule, *operands: Any) -> Any:
    """What `body` gives: a part of a graph that is not looked into."""
    return body(*operands)


def outlined(gm: fx.GraphModule) -> fx.GraphModule:
    """`gm` with each part inside torch.func as one call of `run_whole`; `gm` itself, which is left
    as it was, where there is none. Raises NotCapturable where such a part has no end.
    """
    parts = _parts(gm.graph)
    if not parts:
        return gm
    graph = fx.Graph()
    twins: dict[fx.Node, fx.Node] = {}
    held = {
        str(node.target): operator.attrgetter(str(node.target))(gm)
        for node in gm.graph.nodes
        if node.op in ("get_attr", "call_module")
    }
    starts = {part[0]: part for part in parts}
    inside = {node for part in parts for node in part}
    for node in gm.graph.nodes:
        if node in starts:
            name = f"whole_{len(held)}"
            held[name] = _write_call(gm, starts[node], graph, twins, name)
        elif node not in inside:
            twins[node] = graph.node_copy(node, twins.__getitem__)
            twins[node].name = node.name
    return fx.GraphModule(held, graph)


def _parts(graph: fx.Graph) -> list[list[fx.Node]]:
    """The nodes of each part, from the first call that prepares a level to where all are closed and
    nobody reads a tensor of a level any more.
    """
    nodes = list(graph.nodes)
    order = {node: i for i, node in enumerate(nodes)}
    parts: list[list[fx.Node]] = []
    start: int | None = None
    depth = last = 0
    for i, node in enumerate(nodes):
        if start is None and not _is_transform(node.target):
            continue
        start = i if start is None else start
        name = getattr(node.target, "__name__", "") if node.op == "call_function" else ""
        depth += name.endswith(_OPENS) - name.endswith(_CLOSES)
        if _is_wrapped(node.meta.get("example_value")):
            last = max([last, *(order[user] for user in node.users)])
        if depth == 0 and i >= last and (name.endswith(_CLOSES) or i == last):
            parts.append(nodes[start : i + 1])
            start = None
    if start is not None:
        raise NotCapturable(f"{nodes[start].name} opens a level of torch.func that does not end")
    return parts


def _is_wrapped(value: Any) -> bool:
    leaves = pytree.tree_leaves(value)
    return any(
        isinstance(leaf, torch.Tensor) and torch._C._functorch.is_functorch_wrapped_tensor(leaf)
        for leaf in leaves
    )


def _is_transform(target: Any) -> bool:
    home = str(getattr(target, "__module__", None) or "")
    name = str(getattr(target, "__name__", ""))
    return home.startswith(("torch._functorch", "torch._C._functorch")) or name.endswith(_OPENS)


def _write_call(
    gm: fx.GraphModule,
    part: list[fx.Node],
    graph: fx.Graph,
    twins: dict[fx.Node, fx.Node],
    name: str,
) -> fx.GraphModule:
    """Write the call of a part and what takes its results; gives the part as a module."""
    members = set(part)
    given = dict.fromkeys(n for node in part for n in node.all_input_nodes if n not in members)
    taken = [node for node in part if any(user not in members for user in node.users)]
    body = fx.Graph()
    inner: dict[fx.Node, fx.Node] = {}
    for operand in given:
        inner[operand] = body.placeholder(operand.name)
        inner[operand].meta = dict(operand.meta)
    for node in part:
        inner[node] = body.node_copy(node, inner.__getitem__)
    body.output(tuple(inner[node] for node in taken))

    call = graph.call_function(run_whole, (graph.get_attr(name), *map(twins.__getitem__, given)))
    described = next((node for node in part if node.meta.get("stack_trace")), part[0])
    call.meta = {k: v for k, v in described.meta.items() if k in ("stack_trace", "nn_module_stack")}
    if all("example_value" in node.meta for node in taken):
        call.meta["example_value"] = tuple(node.meta["example_value"] for node in taken)
    for i, node in enumerate(taken):
        twins[node] = graph.call_function(operator.getitem, (call, i))
        twins[node].meta = dict(node.meta)
    return fx.GraphModule(gm, body)


def may_update(body: fx.GraphModule) -> bool:
    """Whether a part may update its operands in place."""
    return any(_may_update(node) for node in body.graph.nodes)


def _may_update(node: fx.Node) -> bool:
    if node.op not in ("call_function", "call_method"):
        return node.op == "call_module"
    name = str(getattr(node.target, "__name__", node.target))
    spelled = name.endswith("_") and not name.endswith("__")
    is_layer = str(getattr(node.target, "__module__", "")).startswith("torch.nn")
    asked = is_layer and any(value is True for value in (*node.args, node.kwargs.get("inplace")))
    return spelled or asked or node.target in _IN_PLACE
