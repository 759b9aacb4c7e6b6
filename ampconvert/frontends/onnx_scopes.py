"""The scope tree of an ONNX model as one list of steps, with a name for every value and node.

Bodies of If, Loop and Scan run inline, in the order of execution. Where values meet, a phi stands
(Cytron et al., TOPLAS 13(4), 1991): a branch's results and the If's, a loop's state before and
after a turn. What flows through a phi has one type: that is all that control flow asks of types.

    z = If(c) <then: {t = Neg(x)}, else: {e = Abs(x)}>
    steps:  t = Neg(x);  e = Abs(x);  If(c);  z = phi(t, e)

    y = Loop(n, c, x) <body(i, c, s): {u = Add(s, w)} => (c, u)>
    steps:  s = phi(x);  Loop(n, c);  u = Add(s, w);  y = phi(u)          both phis tied

A layout of a model and one of its clone have the same names in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ampconvert.element_types import bodies

PHI = "ampconvert::phi"


@dataclass(frozen=True)
class Slot:
    """One place where a value is read: an input of a node, or an output of a graph."""

    owner: ir.Node | ir.Graph
    index: int

    @property
    def value(self) -> ir.Value | None:
        """What is read there now."""
        if isinstance(self.owner, ir.Node):
            return self.owner.inputs[self.index]
        return self.owner.outputs[self.index]

    def put(self, value: ir.Value) -> None:
        """Let `value` be read there."""
        if isinstance(self.owner, ir.Node):
            self.owner.replace_input_with(self.index, value)
        else:
            self.owner.outputs[self.index] = value


@dataclass(frozen=True)
class Step:
    """A node of the model, or a phi of the control flow node `node`.

    `reads` has the slots of each operand; an operand of an operator with a body of its own kind may
    be read in several places.
    """

    name: str
    node: ir.Node
    op: str
    reads: tuple[tuple[Slot, ...], ...]
    makes: tuple[ir.Value, ...]
    scope: str = ""  # the body that it stands in: "If_3.then_branch"

    def operand(self, position: int) -> ir.Value | None:
        """The value that stands at `position`; None where it is left out."""
        slots = self.reads[position]
        return slots[0].value if slots else None


class Layout:
    """Steps and names of `model`. Functions must be inlined.

    Attributes: `steps` in order; `values`, the name of each value; `weights`, by name, every value
    whose data the file holds, initialisers and results of Constant alike; `ties`, names of steps
    that have to run in one type; `homes`, the graph that each input and weight belongs to.
    """

    def __init__(self, model: ir.Model) -> None:
        self.steps: list[Step] = []
        self.values: dict[ir.Value, str] = {}
        self.weights: dict[str, ir.Value] = {}
        self.ties: list[tuple[str, ...]] = []
        self.homes: dict[ir.Value, ir.Graph] = {}
        self._names: set[str] = set()
        self._nodes: set[str] = set()
        # Before IR version 4 every initialiser had to be listed among the inputs as well.
        self._listed = (model.ir_version or 0) < 4
        self._graph(model.graph, "")

    def _graph(self, graph: ir.Graph, scope: str) -> None:
        for value in graph.inputs:
            self._value(value, scope, graph)
        given = set(graph.inputs)
        for value in graph.initializers.values():
            if value not in given:
                self._value(value, scope, graph)
            if value not in given or self._listed:
                self.weights[self.values[value]] = value
        for number, node in enumerate(graph):
            inner = [*bodies(node)] if _may_hold_bodies(node) else []
            name = self._node_name(node, number, scope)
            if _is_constant(node):
                self._value(node.outputs[0], scope, graph)
                self.weights[self.values[node.outputs[0]]] = node.outputs[0]
            elif inner:
                self._with_bodies(node, name, inner, scope)
            else:
                self._plain(node, name, scope)

    def _plain(self, node: ir.Node, name: str, scope: str) -> None:
        reads = tuple(
            (Slot(node, i),) if value is not None else () for i, value in enumerate(node.inputs)
        )
        self._step(name, node, operator(node), reads, node.outputs, scope)

    def _step(
        self,
        name: str,
        node: ir.Node,
        op: str,
        reads: Sequence[tuple[Slot, ...]],
        makes: Sequence[ir.Value],
        scope: str,
    ) -> None:
        for value in makes:
            self._value(value, scope, None, name)
        self.steps.append(Step(name, node, op, tuple(reads), tuple(makes), scope.rstrip("/")))

    def _with_bodies(self, node: ir.Node, name: str, inner: list[ir.Graph], scope: str) -> None:
        kind = node.op_type if node.domain == "" else ""
        if kind == "If":
            self._branches(node, name, inner, scope)
        elif kind == "Loop":
            states = len(node.inputs) - 2
            self._turns(node, name, inner[0], scope, first=2, states=states, given=1)
        elif kind == "Scan":
            scanned = node.attributes["num_scan_inputs"].as_int()
            # Opset 8 had the lengths of the sequences as its first input.
            first = 1 if len(inner[0].inputs) < len(node.inputs) else 0
            states = len(node.inputs) - first - scanned
            self._turns(node, name, inner[0], scope, first=first, states=states, given=0)
        else:
            self._opaque(node, name, inner, scope)

    def _branches(self, node: ir.Node, name: str, inner: list[ir.Graph], scope: str) -> None:
        for attr, body in _named_bodies(node):
            self._graph(body, f"{name}.{attr}/")
        self._step(name, node, operator(node), [(Slot(node, 0),)], (), scope)
        for i, result in enumerate(node.outputs):
            reads = [(Slot(body, i),) for body in inner]
            self._step(self._phi(name, "out", i), node, PHI, reads, [result], scope)

    def _turns(
        self, node: ir.Node, name: str, body: ir.Graph, scope: str,
        *, first: int, states: int, given: int,
    ) -> None:  # fmt: skip
        """A Loop or Scan: `first` inputs come before the states; the body gives `given` first."""
        inside = f"{name}.body/"
        for value in body.inputs:
            self._value(value, inside, body)
        skipped = len(body.inputs) - (len(node.inputs) - first)  # trip number and condition
        entries = [self._phi(name, "in", i) for i in range(len(node.inputs) - first)]
        for i, entry in enumerate(entries):
            read = (Slot(node, first + i),) if node.inputs[first + i] is not None else ()
            self._step(entry, node, PHI, [read], [body.inputs[skipped + i]], inside)
        reads = [
            (Slot(node, i),) if node.inputs[i] is not None else ()
            for i in range(min(first, len(node.inputs)))
        ]
        self._step(name, node, operator(node), reads, body.inputs[:skipped], inside)
        self._graph(body, inside)
        for i, result in enumerate(node.outputs):
            leaving = self._phi(name, "out", i)
            self._step(leaving, node, PHI, [(Slot(body, given + i),)], [result], scope)
            if i < states:
                self.ties.append((entries[i], leaving))

    def _opaque(self, node: ir.Node, name: str, inner: list[ir.Graph], scope: str) -> None:
        """An operator whose bodies are its own affair: what they capture are operands like others,
        and none may change its type.
        """
        reads: list[tuple[Slot, ...]] = [
            (Slot(node, i),) if value is not None else () for i, value in enumerate(node.inputs)
        ]
        captured: dict[ir.Value, list[Slot]] = {}
        for body in inner:
            for slot in _all_slots(body):
                if slot.value is not None and slot.value in self.values:
                    captured.setdefault(slot.value, []).append(slot)
        self._step(name, node, operator(node), [*reads, *map(tuple, captured.values())],
                   node.outputs, scope)  # fmt: skip

    def _phi(self, name: str, which: str, number: int) -> str:
        return self._unique(f"{name}.{which}{number}", self._nodes)

    def _node_name(self, node: ir.Node, number: int, scope: str) -> str:
        return self._unique(node.name or f"{scope}{node.op_type}_{number}", self._nodes)

    def _value(self, value: ir.Value, scope: str, home: ir.Graph | None, maker: str = "") -> None:
        if value in self.values:
            return
        if value.name:
            name = value.name if value.name not in self._names else f"{scope}{value.name}"
        else:
            name = f"{maker}:{value.index()}"  # a result that nobody reads
        self.values[value] = self._unique(name, self._names)
        if home is not None:
            self.homes[value] = home

    def _unique(self, name: str, taken: set[str]) -> str:
        unique, number = name, 2
        while unique in taken:
            unique, number = f"{name}#{number}", number + 1
        taken.add(unique)
        return unique


def operator(node: ir.Node) -> str:
    """The operator as rules name it: "onnx::Softmax", "com.microsoft::Gelu"."""
    return f"{node.domain or 'onnx'}::{node.op_type}"


def _is_constant(node: ir.Node) -> bool:
    """Whether the node's result is data of the file that has a plain array for it."""
    return (
        node.op_type == "Constant"
        and node.domain == ""
        and "sparse_value" not in node.attributes
        and len(node.outputs) == 1
    )


def _may_hold_bodies(node: ir.Node) -> bool:
    return any(
        attr.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
        for attr in node.attributes.values()
    )


def _named_bodies(node: ir.Node) -> Iterator[tuple[str, ir.Graph]]:
    for name, attr in node.attributes.items():
        if attr.type == ir.AttributeType.GRAPH:
            yield name, attr.as_graph()


def _all_slots(graph: ir.Graph) -> Iterator[Slot]:
    for node in graph:
        yield from (Slot(node, i) for i in range(len(node.inputs)))
        for body in bodies(node):
            yield from _all_slots(body)
    yield from (Slot(graph, i) for i in range(len(graph.outputs)))
