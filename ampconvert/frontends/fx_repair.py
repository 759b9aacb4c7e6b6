"""Repairs of a captured program. Decides nothing: every edit is the Repair's.

The functions of an edit are spelled in ATen here. What an edit makes takes its module path and its
source line from the node that it stands beside; names of nodes and outputs stay as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from ampconvert.frontends.fx_nodes import is_getitem, replace_operands, results
from ampconvert.frontends.fx_program import editable
from ampconvert.frontends.fx_repair_weights import Weights
from ampconvert.repairs.repair import (
    Become,
    Bypass,
    Constant,
    Edit,
    Insert,
    InsertAfter,
    Operand,
    Read,
    Repair,
    ScaleWeight,
    SetBias,
    ShiftWeight,
    SplitWeight,
    Wrap,
)

ATEN = torch.ops.aten
_Call = tuple[Any, tuple[Any, ...], dict[str, Any]]  # target, args, kwargs


def rewrite(program: ExportedProgram, repairs: Sequence[Repair]) -> ExportedProgram:
    """A new program with the repairs made, in their order; `program` is left as it is.

    Raises KeyError for a repair that was found in another program's graph.
    """
    editing = _Editing(program)
    for repair in repairs:
        for edit in repair.edits:
            editing.make(edit)
    return editing.finished()


class _Editing:
    """A program while it is edited: its graph, what holds each value, and its weights."""

    def __init__(self, program: ExportedProgram) -> None:
        self.program = program
        self.module = editable(program)
        self.graph = self.module.graph
        self.weights = Weights(program, self.graph)
        self.holders = _holders(self.graph)
        self.was_read = [n for n in self.graph.nodes if n.users]

    def make(self, edit: Edit) -> None:
        """Do one edit."""
        match edit:
            case Insert():
                place = self.holders[edit.before]
                with self.graph.inserting_before(place):
                    self._add(edit.name, edit.function, edit.operands, edit.arguments, place)
            case InsertAfter():
                place = self.holders[edit.after]
                with self.graph.inserting_after(_last_of(place)):
                    self._add(edit.name, edit.function, edit.operands, edit.arguments, place)
            case Become():
                node = self.holders[edit.node]
                with self.graph.inserting_before(node):
                    made = self._call(edit.function, edit.operands, edit.arguments, node)
                self._replace(node, made)
            case Wrap():
                self._wrap(edit)
            case Read():
                source = self.holders[edit.value]
                replace_operands(
                    self.holders[edit.node], lambda i, old: source if i == edit.position else old
                )
            case Bypass():
                node, value = self.holders[edit.node], self.holders[edit.value]
                node.replace_all_uses_with(value)
                self.holders[edit.node] = value
            case ScaleWeight():
                self.weights.scale(self.holders[edit.weight], edit.powers, edit.axis)
            case ShiftWeight():
                self.weights.shift(self.holders[edit.weight], edit.shifts)
            case SetBias():
                self._set_bias(edit)
            case SplitWeight():
                self._split(edit)

    def finished(self) -> ExportedProgram:
        """The program around the edited graph, without the nodes that nothing reads any more."""
        for node in reversed(self.was_read):
            if node.op == "call_function" and not node.users:
                self.graph.erase_node(node)
        return self.weights.rebuilt(self.module)

    def _add(
        self,
        name: str,
        function: str,
        operands: Sequence[Operand],
        given: Mapping[str, Any],
        beside: fx.Node,
    ) -> fx.Node:
        node = self._call(function, operands, given, beside)
        node.name = name
        self.holders[name] = node
        return node

    def _call(
        self,
        function: str,
        operands: Sequence[Operand],
        given: Mapping[str, Any],
        beside: fx.Node,
    ) -> fx.Node:
        """A node, at the insertion point, that computes the function."""
        held = [self._operand(operand, beside) for operand in operands]
        target, args, kwargs = _SPELLINGS[function](held, given)
        node = self.graph.call_function(target, args, kwargs)
        taken = ("nn_module_stack", "stack_trace", "source_fn_stack", "torch_fn")
        node.meta = {key: beside.meta[key] for key in taken if key in beside.meta}
        node.meta["val"] = _result(node)
        return node

    def _operand(self, operand: Operand, beside: fx.Node) -> Any:
        if isinstance(operand, Constant):
            data = torch.tensor(operand.data, dtype=torch.float32).reshape(operand.shape)
            return self.weights.add(f"{beside.name}_constant", data)
        return self.holders[operand] if isinstance(operand, str) else operand

    def _replace(self, node: fx.Node, made: fx.Node) -> None:
        """Let `made` stand for `node`, under its name."""
        name = node.name
        node.replace_all_uses_with(made)
        node.name = f"{name}_replaced"
        made.name = name
        self.was_read = [n for n in self.was_read if n is not node] + [made]
        self.holders[name] = made
        self.graph.erase_node(node)

    def _wrap(self, edit: Wrap) -> None:
        node = self.holders[edit.node]
        node.name = edit.inner
        self.holders[edit.inner] = node
        readers = list(node.users)
        with self.graph.inserting_after(node):
            made = self._call(edit.function, edit.operands, edit.arguments, node)
        node.replace_all_uses_with(made, delete_user_cb=lambda user: user in readers)
        made.name = edit.node
        self.holders[edit.node] = made

    def _split(self, edit: SplitWeight) -> None:
        place = self.holders[edit.weight]
        readers = list(place.users)
        with self.graph.inserting_before(readers[0]):
            for name, data in zip(
                (edit.high, edit.rest), self.weights.split(place, edit.low, edit.power), strict=True
            ):
                stored = self.weights.add(f"{name}_{edit.low}", data)
                self.holders[stored.name] = stored
                self._add(name, "cast", (stored.name,), {"to": torch.float32}, readers[0])
        for reader in readers:
            reader.replace_input_with(place, self.holders[edit.high])

    def _set_bias(self, edit: SetBias) -> None:
        node = self.holders[edit.node]
        bias = self.weights.add(f"{node.name}_bias", torch.tensor(edit.bias, dtype=torch.float32))
        names = [a.name for a in node.target._schema.arguments]  # type: ignore[union-attr]
        place = names.index("bias")
        if "bias" in node.kwargs or place > len(node.args):
            node.kwargs = {**node.kwargs, "bias": bias}
        else:
            node.args = (*node.args[:place], bias, *node.args[place + 1 :])


def _holders(graph: fx.Graph) -> dict[str, fx.Node]:
    """The node that holds each value, and each call, by name."""
    held = {n.name: n for n in graph.nodes if n.op in ("placeholder", "call_function")}
    for node in graph.nodes:
        if node.op == "call_function" and not is_getitem(node):
            held |= {name: holder for name, holder, _ in results(node) if holder is not None}
    return held


def _last_of(node: fx.Node) -> fx.Node:
    """The last of the nodes that belong to a call: those that take its results out."""
    while node.next.op == "placeholder" or is_getitem(node.next):
        node = node.next
    return node


def _result(node: fx.Node) -> Any:
    """What the call makes, as a fake tensor."""
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
    with torch.no_grad():
        return node.target(*args, **kwargs)  # type: ignore[operator]


def _binary(tensors: Any, swapped: Any = None) -> Callable[[list[Any], Mapping[str, Any]], _Call]:
    """A function of two operands; `swapped` takes a number that stands first as its second."""

    def spell(held: list[Any], given: Mapping[str, Any]) -> _Call:
        if not isinstance(held[0], fx.Node):
            return (tensors if swapped is None else swapped), (held[1], held[0]), {}
        return tensors, tuple(held), {}

    return spell


def _bound(tensor: Any, number: Any) -> Callable[[list[Any], Mapping[str, Any]], _Call]:
    def spell(held: list[Any], given: Mapping[str, Any]) -> _Call:
        return (tensor if isinstance(held[1], fx.Node) else number), tuple(held), {}

    return spell


def _mean(held: list[Any], given: Mapping[str, Any]) -> _Call:
    return ATEN.mean.dim, (held[0], list(given["axes"]), bool(given["keepdims"])), {}


def _log_softmax(held: list[Any], given: Mapping[str, Any]) -> _Call:
    return ATEN.log_softmax.int, (held[0], given["axis"]), {}


_SPELLINGS: dict[str, Callable[[list[Any], Mapping[str, Any]], _Call]] = {
    "add": _binary(ATEN.add.Tensor),
    "sub": _binary(ATEN.sub.Tensor, ATEN.rsub.Scalar),
    "mul": _binary(ATEN.mul.Tensor),
    "div": _binary(ATEN.div.Tensor),
    "maximum": _bound(ATEN.maximum.default, ATEN.clamp_min.default),
    "minimum": _bound(ATEN.minimum.default, ATEN.clamp_max.default),
    "clamp": lambda held, given: (ATEN.clamp.default, tuple(held), {}),
    "matmul": lambda held, given: (ATEN.matmul.default, tuple(held), {}),
    "cast": lambda held, given: (ATEN._to_copy.default, tuple(held), {"dtype": given["to"]}),
    "mean": _mean,
    "log_softmax": _log_softmax,
    "log_sigmoid": lambda held, given: (ATEN.log_sigmoid.default, tuple(held), {}),
}
