"""How an FX node of an ExportedProgram maps to operands: numbered by argument, lists flattened.

`node.all_input_nodes` is a set and loses the second x of x*x; every part of this front end numbers
operands with `operands` instead, so that a Plan's positions mean the same when it is read and
applied.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

FLOAT = torch.float32


@dataclass(frozen=True)
class Operand:
    """One tensor argument: its schema name and the node that makes it (None: left out of a
    list).
    """

    name: str
    node: fx.Node | None


def arguments(node: fx.Node) -> list[tuple[str, Any]]:
    """Every argument of a call with its schema name; higher-order operators use their position."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        named = [(f"arg{i}", value) for i, value in enumerate(node.args)]
    else:
        named = [(schema.arguments[i].name, value) for i, value in enumerate(node.args)]
    return named + list(node.kwargs.items())


def operands(node: fx.Node) -> list[Operand]:
    """The tensor operands of a call in argument order."""
    found: list[Operand] = []
    for name, value in arguments(node):
        items = value if isinstance(value, list | tuple) else (value,)
        holds_tensor = any(is_tensor(item) for item in items)
        for item in items:
            if is_tensor(item):
                found.append(Operand(name, item))
            elif item is None and holds_tensor:
                found.append(Operand(name, None))
    return found


def replace_operands(node: fx.Node, new: Callable[[int, fx.Node], fx.Node]) -> None:
    """Rewrite the operands of `node` by position with what `new(position, old)` returns."""
    position = 0

    def visit(value: Any) -> Any:
        nonlocal position
        if isinstance(value, list | tuple):
            holds_tensor = any(is_tensor(item) for item in value)
            items = []
            for item in value:
                if is_tensor(item):
                    items.append(new(position, item))
                    position += 1
                else:
                    items.append(item)
                    position += item is None and holds_tensor
            return type(value)(items) if isinstance(value, list) else tuple(items)
        if is_tensor(value):
            replaced = new(position, value)
            position += 1
            return replaced
        return value

    node.args = tuple(visit(value) for value in node.args)
    node.kwargs = {name: visit(value) for name, value in node.kwargs.items()}


def is_tensor(value: Any) -> bool:
    """Whether an argument is a node that holds one tensor."""
    return isinstance(value, fx.Node) and isinstance(value.meta.get("val"), torch.Tensor)


def returned(graph: fx.Graph) -> tuple[Any, ...]:
    """What a program's graph returns, in the order of its signature's outputs."""
    values: Any = graph.output_node().args[0]
    return tuple(values)


def is_getitem(node: fx.Node) -> bool:
    """Whether a node only takes one result out of a call with several."""
    return node.op == "call_function" and getattr(node.target, "__name__", "") == "getitem"


def results(node: fx.Node) -> list[tuple[str, fx.Node | None, torch.Tensor]]:
    """The tensors that a call makes: (value name, node that holds it if any, fake tensor).

    A call with several results is read through getitem nodes; a result that none takes is named
    after the call and its number.
    """
    made = node.meta.get("val")
    if isinstance(made, torch.Tensor):
        return [(node.name, node, made)]
    if not isinstance(made, list | tuple):
        return []
    taken = {user.args[1]: user for user in node.users if is_getitem(user)}
    return [
        (taken[i].name if i in taken else f"{node.name}.{i}", taken.get(i), item)
        for i, item in enumerate(made)
        if isinstance(item, torch.Tensor)
    ]
