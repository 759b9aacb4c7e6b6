"""ATen calls in the spelling that costs the least time to call from Python.

`torch.ops.aten.relu.default(x)` and `torch.relu(x)` run one kernel, but the first takes about twice
as long to reach it, which in a small model is half of its time. What stands in for an overload is
found by name among PyTorch's own bindings, and taken only if tracing it gives that overload, with
the same arguments, again.
"""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from ampconvert.frontends.fx_nodes import is_getitem
from ampconvert.frontends.fx_program import copied

_BINDINGS = (torch._C._nn, torch._C._VariableFunctions)
_known: dict[tuple[Any, ...], Any] = {}  # how each kind of call is spelled; None: as it is


def respelled(module: fx.GraphModule) -> fx.GraphModule:
    """A copy of `module` with faster spellings of the same calls."""
    fast = copied(module)
    for node in fast.graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        if node.target is torch.ops.aten._to_copy.default and set(node.kwargs) == {"dtype"}:
            if node.args[0].meta["val"].dtype != node.kwargs["dtype"]:
                node.op, node.target = "call_method", "to"
                node.args, node.kwargs = (node.args[0], node.kwargs["dtype"]), {}
            continue
        spelling = _spelling(node)
        if spelling is not None:
            node.target = spelling
    fast.graph.lint()
    fast.recompile()
    return fast


def _spelling(node: fx.Node) -> Any:
    """Another name of the overload that `node` calls; None where there is none."""
    key = (
        node.target,
        *map(_kind, node.args),
        *sorted((k, _kind(v)) for k, v in node.kwargs.items()),
    )
    if key not in _known:
        target: Any = node.target
        name = target._schema.name.removeprefix("aten::")
        found = [getattr(place, name, None) for place in _BINDINGS]
        # fx writes a call by its name, and the bindings of a & b have none that can be imported.
        builtin = [f for f in found if isinstance(f, types.BuiltinFunctionType) and name[0] != "_"]
        _known[key] = next((f for f in builtin if _is_same(node, f)), None)
    return _known[key]


def _kind(value: Any) -> Any:
    """What decides how PyTorch reads an argument."""
    if isinstance(value, fx.Node):
        made = value.meta.get("val")
        if isinstance(made, torch.Tensor):
            return torch.Tensor, made.dtype, made.dim()
        return type(made)
    if isinstance(value, list | tuple):
        return (type(value), *dict.fromkeys(map(_kind, value)))
    return type(value)


def _is_same(node: fx.Node, function: Any) -> bool:
    """Whether tracing `function` on the node's arguments gives the node's call again."""
    tensors = node.all_input_nodes

    def call(*values: Any) -> Any:
        held = dict(zip(tensors, values, strict=True))
        args, kwargs = fx.map_arg((node.args, node.kwargs), held.__getitem__)
        return function(*args, **kwargs)

    try:
        traced = make_fx(call, pre_dispatch=True)(*(n.meta["val"] for n in tensors))
    except Exception:  # it reads its arguments otherwise: it is no spelling of this call
        return False
    made = [n for n in traced.graph.nodes if n.op == "call_function" and not is_getitem(n)]
    return [n.target for n in made] == [node.target] and _plain(made[0]) == _plain(node)


def _plain(node: fx.Node) -> list[Any]:
    """The arguments that are no tensors, by name, defaults left out."""
    schema = node.target._schema  # type: ignore[union-attr]
    given = dict(zip((a.name for a in schema.arguments), node.args, strict=False)) | node.kwargs
    defaults = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    return sorted(
        (name, repr(value))
        for name, value in given.items()
        if not _nodes(value) and value != defaults.get(name, ...)
    )


def _nodes(value: Any) -> list[fx.Node]:
    found: list[fx.Node] = []

    def note(node: fx.Node) -> fx.Node:
        found.append(node)
        return node

    fx.map_arg(value, note)
    return found
