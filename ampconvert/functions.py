"""What a node computes, in one vocabulary for ONNX and ATen: a function and its operands x, y, z.

`rules/functions/functions.toml` maps operators to functions. Proofs, hazards and repairs read nodes
through a `Call` and know no operator's name.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ampconvert.graph import Graph, Node, Value
from ampconvert.rules import data_directory

_AXES = ("dim", "axes", "axis")


@dataclass(frozen=True)
class Function:
    """One entry of the vocabulary. `arguments` are the ATen names of the operands, in order."""

    name: str
    arguments: tuple[str, ...] = ("self",)
    factor: str = ""  # the ATen argument that the last operand is multiplied with
    reversed: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Call:
    """One node, read as a function.

    `operands` are value names, numbers for operands that are plain arguments, or None where one is
    left out; a reversed operator's first two are exchanged. `factor` multiplies the last operand.
    """

    graph: Graph
    node: Node
    function: str
    operands: tuple[str | float | None, ...]
    factor: float = 1.0

    def name(self, place: int) -> str | None:
        """The value that stands at `place`; None for a number, or where nothing stands."""
        found = self.operands[place] if place < len(self.operands) else None
        return found if isinstance(found, str) else None

    def value(self, place: int) -> Value | None:
        """The Value that stands at `place`; None for a number, or where nothing stands."""
        name = self.name(place)
        return None if name is None else self.graph.values[name]

    def number(self, place: int) -> float | None:
        """The number at `place`: an argument, or a constant of one element; else None."""
        found = self.operands[place] if place < len(self.operands) else None
        if found is None or isinstance(found, float):
            return found
        return constant(self.graph, found)

    @property
    def result(self) -> Value:
        """The node's first result."""
        return self.graph.values[self.node.outputs[0]]

    def attr(self, *names: str, default: Any = None) -> Any:
        """The first argument of these names that is given."""
        found = (self.node.attrs[n] for n in names if self.node.attrs.get(n) is not None)
        return next(found, default)

    def axes(self) -> tuple[int, ...] | None:
        """The axes that a reduction, softmax, concatenation or norm works along, from 0 on.

        All of them for a reduction that names none. None where they, or the rank, are unknown.
        """
        data = next((self.value(i) for i in range(len(self.operands)) if self.value(i)), None)
        if data is None or data.shape is None:
            return None
        rank = len(data.shape)
        given = self.attr(*_AXES)
        if given is None:
            given = self._axes_operand()
        if given is None:
            return None
        if isinstance(given, int | float):
            given = [given]
        axes = tuple(int(a) % rank if rank else 0 for a in given)
        return tuple(sorted(axes)) or tuple(range(rank))

    def _axes_operand(self) -> list[float] | None:
        """The axes in an operand, as newer opsets of ONNX give them; [] where there is none."""
        for place in self.node.operand("axes") + self.node.operand("axis"):
            name = self.node.inputs[place]
            if name is not None:
                held = array(self.graph, name)
                return None if held is None else [float(a) for a in held.reshape(-1)]
        return []


def call(graph: Graph, node: Node) -> Call | None:
    """`node` as a function; None for an operator that the vocabulary does not name."""
    function = function_of(node)
    if function is None:
        return None
    if node.op.startswith("aten::"):
        operands = tuple(o for names in function.arguments for o in _arguments(node, names))
    else:
        operands = tuple(node.inputs)
    if node.op in function.reversed:
        operands = (operands[1], operands[0], *operands[2:])
    factor = node.attrs.get(function.factor, 1.0) if function.factor else 1.0
    known = isinstance(factor, int | float)
    return Call(graph, node, function.name, operands, float(factor) if known else math.nan)


def calls(graph: Graph) -> dict[str, Call]:
    """Every node of `graph` that the vocabulary names, by node name."""
    found = ((node.name, call(graph, node)) for node in graph.nodes)
    return {name: one for name, one in found if one is not None}


def function_of(node: Node) -> Function | None:
    """The function that `node` computes; an overload of its own goes before its operator."""
    table = _table()
    return table.get(f"{node.op}.{node.overload}") or table.get(node.op)


def maker(graph: Graph, name: str | None) -> Call | None:
    """The call that makes the value `name`; None for inputs, weights and unknown operators."""
    node = None if name is None else graph.producers.get(name)
    return None if node is None else call(graph, node)


def constant(graph: Graph, name: str) -> float | None:
    """The number in a weight of one element, or that a node fills a tensor with; else None."""
    value = graph.values[name]
    if value.const is not None and value.numel == 1:
        return float(value.const().reshape(()).astype(np.float64))
    made = maker(graph, name)
    if made is None:
        return None
    if made.function == "full":
        filled = made.attr("fill_value", "value", "s")
        return float(filled) if isinstance(filled, int | float) else None
    if made.function in _HANDS_ON and made.name(0) is not None:
        return constant(graph, made.name(0) or "")
    return None


def array(graph: Graph, name: str | None) -> np.ndarray[Any, Any] | None:
    """The data of a weight; None for anything that is computed or given."""
    value = None if name is None else graph.values[name]
    return None if value is None or value.const is None else value.const()


_HANDS_ON = ("identity", "cast", "reshape", "expand", "unsqueeze", "squeeze")


def source(graph: Graph, name: str) -> str:
    """The value that `name` holds the elements of, behind casts, copies and changes of shape."""
    made = maker(graph, name)
    while made is not None and made.function in _HANDS_ON and made.name(0) is not None:
        name = made.name(0) or ""
        made = maker(graph, name)
    return name


def _arguments(node: Node, names: str) -> tuple[str | float | None, ...]:
    """The operand of one of the ATen `names` ("mat2|other"), or all of a list ("tensors*")."""
    if names.endswith("*"):
        return tuple(node.inputs[i] for i in node.operand(names.removesuffix("*")))
    return (_argument(node, names.split("|")),)


def _argument(node: Node, names: list[str]) -> str | float | None:
    for name in names:
        places = node.operand(name)
        if places:
            return node.inputs[places[0]]
        given = node.attrs.get(name)
        if isinstance(given, int | float) and not isinstance(given, bool):
            return float(given)
    return None


@lru_cache
def _table() -> Mapping[str, Function]:
    path = data_directory() / "functions" / "functions.toml"
    found: dict[str, Function] = {}
    for name, entry in tomllib.loads(path.read_text(encoding="utf-8")).items():
        function = Function(
            name,
            tuple(entry.get("arguments", ("self|input|data",))),
            entry.get("factor", ""),
            frozenset(entry.get("reversed", ())),
        )
        operators = [_qualified(op, "onnx") for op in entry.get("onnx", ())]
        operators += [_qualified(op, "aten") for op in entry.get("aten", ())]
        found |= dict.fromkeys(operators, function)
    return found


def _qualified(name: str, namespace: str) -> str:
    return name if "::" in name else f"{namespace}::{name}"
