"""Repairs of an ONNX model. Decides nothing: every edit is the Repair's.

The functions of an edit are spelled in ONNX's operators here, in the model's own opset. What an
edit makes takes its metadata, module path and source line among it, from the node that it stands
beside; names of nodes and values stay as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ampconvert.frontends.onnx_apply import TYPES
from ampconvert.frontends.onnx_data import tensor_of
from ampconvert.frontends.onnx_load import numbers
from ampconvert.frontends.onnx_scopes import Layout, Slot
from ampconvert.frontends.onnx_shapes import FILLED
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

_FLOAT = ir.DataType.FLOAT
_ELEMENTWISE = {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "maximum": "Max",
                "minimum": "Min"}  # fmt: skip
_BROADCASTS = {*_ELEMENTWISE.values(), "Neg", "Softplus", "LogSoftmax"}


def rewrite(model: ir.Model, repairs: Sequence[Repair]) -> ir.Model:
    """A new model with the repairs made, in their order; `model` is left as it is.

    Functions must be inlined. Raises KeyError for a repair that was found in another model's graph.
    """
    editing = _Editing(model.clone())
    for repair in repairs:
        for edit in repair.edits:
            editing.make(edit)
    return editing.finished()


class _Editing:
    """A model while it is edited: what each name of the Graph stands for."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.opset = model.opset_imports.get("", 1)
        layout = Layout(model)
        self.values = {name: value for value, name in layout.values.items()}
        self.nodes = {step.name: step.node for step in layout.steps}
        self.reads = {step.name: step.reads for step in layout.steps}
        self.taken = {*self.values, *self.nodes}
        self.was_read: list[ir.Node] = []
        for step in layout.steps:
            if any(list(value.uses()) for value in step.makes):
                self.was_read.append(step.node)
            if not step.node.name and step.makes and step.op == _operator(step.node):
                step.node.name = step.name  # else numbers in the names of others would move

    def make(self, edit: Edit) -> None:
        """Do one edit."""
        match edit:
            case Insert():
                place = self.nodes[edit.before]
                made = self._made(edit.function, edit.operands, edit.arguments, place, edit.name)
                _graph(place).insert_before(place, made)
                self._name(edit.name, made[-1])
            case InsertAfter():
                place = self.nodes[edit.after]
                made = self._made(edit.function, edit.operands, edit.arguments, place, edit.name)
                _graph(place).insert_after(place, made)
                self._name(edit.name, made[-1])
            case Become():
                self._become(edit)
            case Wrap():
                self._wrap(edit)
            case Read():
                for slot in self._slots(edit.node, edit.position):
                    slot.put(self.values[edit.value])
            case Bypass():
                (old,) = self.nodes[edit.node].outputs
                new = self.values[edit.value]
                old.replace_all_uses_with(new, replace_graph_outputs=True)
                self.values.update({n: new for n, v in self.values.items() if v is old})
            case ScaleWeight():
                self._scale(edit)
            case ShiftWeight():
                self._shift(edit)
            case SetBias():
                node = self.nodes[edit.node]
                bias = self._weight(np.array(edit.bias, np.float32), f"{edit.node}_bias")
                node.resize_inputs(3)
                node.replace_input_with(2, bias)
            case SplitWeight():
                self._split(edit)

    def finished(self) -> ir.Model:
        """The model without the nodes that nothing reads any more."""
        for node in reversed(self.was_read):
            unread = not any(list(v.uses()) or v.is_graph_output() for v in node.outputs)
            if unread and node.graph is not None:
                _graph(node).remove(node, safe=True)
        known = set(Layout(self.model).values.values())
        filled = self.model.graph.meta.get(FILLED, {})
        self.model.graph.meta[FILLED] = {n: blank for n, blank in filled.items() if n in known}
        return self.model

    def _made(
        self,
        function: str,
        operands: Sequence[Operand],
        given: Mapping[str, Any],
        beside: ir.Node,
        name: str,
    ) -> list[ir.Node]:
        """New nodes that compute the function; the last one is called `name`, and its result."""
        held = [self._operand(operand, name) for operand in operands]
        spelled = self._spelled(function, held, given, name)
        nodes: list[ir.Node] = []
        for i, (op, inputs, attributes) in enumerate(spelled):
            own = name if i == len(spelled) - 1 else self._fresh(f"{name}_{op.lower()}")
            inputs = [nodes[-1].outputs[0] if value is _PREVIOUS else value for value in inputs]
            result = ir.Value(name=own, type=ir.TensorType(_FLOAT), shape=_shape(op, inputs))
            nodes.append(
                ir.Node("", op, inputs, attributes, outputs=[result], name=own,
                        metadata_props=_origin(beside))
            )  # fmt: skip
        return nodes

    def _become(self, edit: Become) -> None:
        """The node keeps its place, its name and its result; what it calls is another operator."""
        node = self.nodes[edit.node]
        made = self._made(edit.function, edit.operands, edit.arguments, node, edit.node)
        *before, last = made
        _graph(node).insert_before(node, before)
        node.op_type, node.domain = last.op_type, last.domain
        node.attributes.clear()
        node.attributes.update(last.attributes)
        inputs = list(last.inputs)
        last.resize_inputs(0)
        node.resize_inputs(len(inputs))
        for i, value in enumerate(inputs):
            node.replace_input_with(i, value)
        self.reads[edit.node] = tuple((Slot(node, i),) for i in range(len(inputs)))

    def _wrap(self, edit: Wrap) -> None:
        node = self.nodes[edit.node]
        (result,) = node.outputs
        name = result.name
        result.name, node.name = edit.inner, edit.inner
        self.nodes[edit.inner], self.reads[edit.inner] = node, self.reads[edit.node]
        key = next(key for key, value in self.values.items() if value is result)
        self.values[edit.inner] = result
        readers = list(result.uses())
        outputs = [(graph, i) for graph in self._graphs() for i, v in enumerate(graph.outputs)
                   if v is result]  # fmt: skip
        made = self._made(edit.function, edit.operands, edit.arguments, node, edit.node)
        outer = made[-1].outputs[0]
        outer.name, outer.shape = name, _copy(result.shape)
        for use in readers:
            use.node.replace_input_with(use.idx, outer)
        for graph, i in outputs:
            graph.outputs[i] = outer
        _graph(node).insert_after(node, made)
        self._name(edit.node, made[-1])
        self.values[key] = outer

    def _scale(self, edit: ScaleWeight) -> None:
        powers = np.array(edit.powers)

        def scaled(data: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            shape = [1] * data.ndim
            if powers.size > 1:
                shape[edit.axis] = powers.size
            found: np.ndarray[Any, Any] = np.ldexp(data, powers.reshape(shape))
            return found.astype(data.dtype)

        self._store(edit.weight, scaled)

    def _shift(self, edit: ShiftWeight) -> None:
        shifts = np.array(edit.shifts)
        self._store(
            edit.weight,
            lambda data: (data.astype(np.float64) + shifts.reshape(data.shape)).astype(data.dtype),
        )

    def _split(self, edit: SplitWeight) -> None:
        """Both parts in `low`, each cast back before the first node that reads the weight."""
        value = self.values[edit.weight]
        readers = list(value.uses())
        data, low = numbers(tensor_of(value)), TYPES[edit.low].numpy()
        high = data.astype(low)
        rest = np.ldexp(data - high.astype(np.float32), edit.power).astype(low)
        first = readers[0].node
        for name, part in ((edit.high, high), (edit.rest, rest)):
            stored = self._weight(part, f"{name}_{edit.low}")
            made = ir.Value(name=name, type=ir.TensorType(_FLOAT), shape=_copy(value.shape))
            to = ir.AttrInt64("to", _FLOAT)
            node = ir.Node("", "Cast", [stored], [to], outputs=[made], name=name,
                           metadata_props=_origin(first))  # fmt: skip
            _graph(first).insert_before(first, node)
            self._name(name, node)
        for use in readers:
            use.node.replace_input_with(use.idx, self.values[edit.high])

    def _store(
        self, name: str, change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]
    ) -> None:
        """Another weight under the old name, computed when it is read."""
        value = self.values[name]
        old = tensor_of(value)

        def load() -> ir.TensorProtocol:
            return ir.Tensor(np.ascontiguousarray(change(numbers(old))), name=old.name)

        stored = ir.LazyTensor(
            load, dtype=old.dtype, shape=ir.Shape(old.shape.numpy()), cache=False, name=old.name
        )
        maker = value.producer()
        if maker is None:
            value.const_value = stored
        else:
            maker.attributes.clear()
            maker.attributes["value"] = ir.AttrTensor("value", stored)

    def _operand(self, operand: Operand, name: str) -> ir.Value | None:
        if isinstance(operand, str):
            return self.values[operand]
        if isinstance(operand, Constant):
            data = np.array(operand.data, np.float32).reshape(operand.shape)
            return self._weight(data, f"{name}_constant")
        if operand is None:
            return None
        return self._weight(np.array(operand, np.float32), f"{name}_number")

    def _weight(self, data: np.ndarray[Any, Any], name: str) -> ir.Value:
        unique = self._fresh(name)
        value = ir.Value(
            name=unique, type=ir.TensorType(ir.DataType.from_numpy(data.dtype)),
            shape=ir.Shape(data.shape), const_value=ir.Tensor(data, name=unique),
        )  # fmt: skip
        self.model.graph.register_initializer(value)
        return value

    def _slots(self, node: str, position: int) -> Sequence[Slot]:
        return self.reads[node][position]

    def _name(self, name: str, node: ir.Node) -> None:
        self.nodes[name] = node
        self.reads[name] = tuple((Slot(node, i),) for i in range(len(node.inputs)))
        self.values[name] = node.outputs[0]

    def _fresh(self, name: str) -> str:
        unique, number = name, 2
        while unique in self.taken:
            unique, number = f"{name}_{number}", number + 1
        self.taken.add(unique)
        return unique

    def _graphs(self) -> list[ir.Graph]:
        return [self.model.graph, *self.model.graph.subgraphs()]

    def _spelled(
        self, function: str, held: list[ir.Value | None], given: Mapping[str, Any], name: str
    ) -> list[_Spelled]:
        """The operators that compute `function`, each may read the one before it."""
        if function in _ELEMENTWISE:
            return [(_ELEMENTWISE[function], held, [])]
        if function == "matmul":
            return [("MatMul", held, [])]
        if function == "clamp":
            return [self._clip(held)]
        if function == "mean":
            keeps = ir.AttrInt64("keepdims", int(given["keepdims"]))
            axes = list(given["axes"])
            if self.opset < 18:
                return [("ReduceMean", held, [ir.AttrInt64s("axes", axes), keeps])]
            operand = self._weight(np.array(axes, np.int64), f"{name}_axes")
            return [("ReduceMean", [*held, operand], [keeps])]
        if function == "log_softmax":
            axis = given["axis"]
            return [("LogSoftmax", held, [] if axis is None else [ir.AttrInt64("axis", axis)])]
        if function == "log_sigmoid":
            return [("Neg", held, []), ("Softplus", [_PREVIOUS], []), ("Neg", [_PREVIOUS], [])]
        raise NotImplementedError(f"no repair is known to need {function!r}")

    def _clip(self, held: list[ir.Value | None]) -> _Spelled:
        data, *bounds = held
        if self.opset >= 11:
            return "Clip", [data, *bounds], []
        named = zip(("min", "max"), bounds, strict=True)
        given = [
            ir.AttrFloat32(name, float(numbers(value.const_value)))
            for name, value in named
            if value is not None and value.const_value is not None
        ]
        return "Clip", [data], given


_PREVIOUS = ir.Value(name="previous")  # stands for the result of the operator spelled before
_Spelled = tuple[str, list[ir.Value | None], list[ir.Attr]]


def _graph(node: ir.Node) -> ir.Graph:
    assert isinstance(node.graph, ir.Graph)
    return node.graph


def _operator(node: ir.Node) -> str:
    return f"{node.domain or 'onnx'}::{node.op_type}"


def _origin(node: ir.Node) -> dict[str, str]:
    """Where a new node belongs, as exporters note it."""
    return {key: text for key, text in node.metadata_props.items() if key.startswith("pkg.")}


def _shape(op: str, inputs: Sequence[ir.Value | None]) -> ir.Shape | None:
    """The shape of an element-by-element result, broadcast; None leaves it to inference."""
    shapes = [value.shape for value in inputs if value is not None]
    if op not in _BROADCASTS or any(shape is None for shape in shapes):
        return None
    rank = max(len(shape) for shape in shapes if shape is not None)
    padded = [[*[1] * (rank - len(shape)), *shape.dims] for shape in shapes if shape is not None]
    dims: list[int | ir.SymbolicDim] = []
    for along in zip(*padded, strict=True):
        others = [d for d in along if d != 1]
        if any(d != others[0] for d in others):
            return None
        dims.append(others[0] if others else 1)
    return ir.Shape(dims)


def _copy(shape: ir.Shape | None) -> ir.Shape | None:
    return shape.copy() if shape is not None else None
