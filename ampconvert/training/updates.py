"""What a call does besides giving its result: which operands it updates, and other effects."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from ampconvert.frontends.fx_nodes import arguments, is_getitem, is_tensor
from ampconvert.training.checkpoints import CHECKPOINT
from ampconvert.training.regions import sets_mode
from ampconvert.training.transforms import may_update, run_whole

# Their operands are neither updated nor handed out under another name.
_PURE = frozenset(
    getattr(torch.ops.higher_order, name)
    for name in ("cond", "while_loop", "autograd_function_apply", "scan", "associative_scan",
                 "map_impl", "flex_attention", "wrap")
    if hasattr(torch.ops.higher_order, name)
)  # fmt: skip
_STATISTICS = ("running_mean", "running_var")
_TRAINS = ("training", "train", "use_input_stats")  # what norms call it


def statistics(node: fx.Node) -> list[fx.Node]:
    """The running statistics that a normalisation updates, though its schema does not say so."""
    given = dict(arguments(node)) if isinstance(node.target, torch._ops.OpOverload) else {}
    if not any(given.get(name) is True for name in _TRAINS):
        return []
    return [given[name] for name in _STATISTICS if isinstance(given.get(name), fx.Node)]


def updated(node: fx.Node) -> list[fx.Node]:
    """The operands that a call updates and says so; all where it can't be known."""
    target: Any = node.target
    if node.op != "call_function" or is_getitem(node) or sets_mode(node):
        return []
    if isinstance(target, torch._ops.OpOverload):
        if not target._schema.is_mutable:
            return []
        written = {
            a.name for a in target._schema.arguments if a.alias_info and a.alias_info.is_write
        }
        given = [value for name, value in arguments(node) if name in written]
        return [v for v in pytree.tree_leaves(given) if isinstance(v, fx.Node)]
    if isinstance(target, torch._ops.HigherOrderOperator):
        return _updated_by_body(node)
    if target is run_whole:
        return _operands(node) if may_update(_body(node)) else []
    return [] if _only_computes(target) else _operands(node)


def _updated_by_body(node: fx.Node) -> list[fx.Node]:
    if node.target in _PURE:
        return []
    if node.target is not CHECKPOINT:
        return _operands(node)
    inputs = zip(_body(node).graph.find_nodes(op="placeholder"), node.args[1:], strict=True)
    return [o for p, o in inputs if p.meta.get("ampconvert_updated") and isinstance(o, fx.Node)]


def _body(node: fx.Node) -> fx.GraphModule:
    """The graph that a call runs, which is its first argument."""
    held: Any = node.args[0]
    body: fx.GraphModule = getattr(node.graph.owning_module, held.target)
    return body


def _operands(node: fx.Node) -> list[fx.Node]:
    return [n for n in node.all_input_nodes if is_tensor(n)]


def has_effect(node: fx.Node) -> bool:
    """Whether a node does more than give its result."""
    if node.op in ("placeholder", "output"):
        return True
    if node.op != "call_function" or is_getitem(node):
        return False
    is_random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
    if is_random or sets_mode(node) or updated(node) or statistics(node) or node.is_impure():
        return True
    return not isinstance(node.target, torch._ops.OpOverload) and not _only_computes(node.target)


def _only_computes(target: Any) -> bool:
    """Whether a function that is no operator does nothing to what it is given: Python's arithmetic
    on sizes, and what PyTorch writes into graphs itself.
    """
    home = str(getattr(target, "__module__", None) or "torch").split(".")[0]
    is_operator = isinstance(target, torch._ops.HigherOrderOperator)
    return not is_operator and home in ("torch", "_operator", "operator", "math", "builtins")
