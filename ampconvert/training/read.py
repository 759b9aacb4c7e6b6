"""A captured training graph as a core Graph. Decides nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.utils import _pytree as pytree

from ampconvert.frontends.fx import array, core_node, core_value
from ampconvert.frontends.fx_nodes import is_getitem, is_tensor, operands, results
from ampconvert.graph import Graph, Node, Value
from ampconvert.training.naming import variable
from ampconvert.training.regions import autocasts, sets_mode
from ampconvert.training.updates import statistics

_AUTOCAST = {
    True: "It stands inside a torch.autocast of the model's own, which chooses its types.",
    False: "The model turns torch.autocast off around it, to have it computed as it is written.",
}

_OPAQUE = "It is no operator of PyTorch's: what it computes inside is written for the types it has."


def read(module: fx.GraphModule) -> Graph:
    """The Graph of a module that `aten_graph` made, FX names throughout.

    Parameters and buffers are weights without data, labelled by their path in the model. A buffer
    that the graph updates is an input, for it is state. Constants are weights with their data.
    """
    values: dict[str, Value] = {}
    nodes: list[Node] = []
    regions = autocasts(module.graph)
    for node in module.graph.nodes:
        if node.op in ("placeholder", "get_attr") and is_tensor(node):
            values[node.name] = _held(module, node)
        elif node.op == "call_function" and not is_getitem(node) and not sets_mode(node):
            values |= {name: core_value(name, fake) for name, _, fake in results(node)}
            nodes.append(_node(node, regions))
    inputs = tuple(name for name, value in values.items() if value.kind == "input")
    returned = pytree.tree_leaves(module.graph.output_node().args[0])
    outputs = tuple(value.name for value in returned if is_tensor(value))
    graph = Graph(tuple(nodes), values, inputs, outputs)
    graph.check()
    return graph


def _held(module: fx.GraphModule, node: fx.Node) -> Value:
    """What is there before the first call: a parameter, a buffer, a constant or an input."""
    label = node.meta.get("ampconvert_state", "")
    source = node.meta.get("ampconvert_source", "")
    if node.meta.get("ampconvert_updated"):
        return core_value(node.name, node.meta["val"], "input", label=label or node.name)
    if node.op == "get_attr":
        load = _loader(module, str(node.target))
        return core_value(node.name, node.meta["val"], "weight", load, str(node.target))
    if label:
        return core_value(node.name, node.meta["val"], "weight", label=label)
    return core_value(node.name, node.meta["val"], "input", label=variable(source) or node.name)


def _loader(module: fx.GraphModule, target: str) -> Callable[[], np.ndarray[Any, Any]]:
    held: torch.Tensor = getattr(module, target)
    return lambda: array(held)


def _node(node: fx.Node, regions: dict[fx.Node, bool]) -> Node:
    """The core node, with what the front end for inference has no need to know: updates in place,
    and regions of autocast.
    """
    found = core_node(node)
    bound = found.bound or node.meta.get("ampconvert_bound", "")
    if not bound and not isinstance(node.target, torch._ops.OpOverload) and found.outputs:
        bound = _OPAQUE
    if not bound and node in regions:
        bound = _AUTOCAST[regions[node]]
    kept = statistics(node)
    fixed = tuple(i for i, operand in enumerate(operands(node)) if operand.node in kept)
    return replace(found, bound=bound, fixed_inputs=fixed)
