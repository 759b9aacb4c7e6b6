"""A Plan applied to an ONNX model. Decides nothing: every type, cast and constant is the Plan's.

Before:  y = MatMul(x, w)                       all float32
After:   x/float16 = Cast(x); y/float16 = MatMul(x/float16, w); y = Cast(y/float16)     w float16

Nodes, names, order, metadata and documentation stay; only Casts are added, one per (value, type),
right behind the value, in the graph that makes it. Weights are converted when they are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from ampconvert.dtypes import FLOAT_TYPES
from ampconvert.element_types import RESULT_ATTRIBUTES
from ampconvert.frontends.onnx_data import tensor_of
from ampconvert.frontends.onnx_load import numbers
from ampconvert.frontends.onnx_schema import signature
from ampconvert.frontends.onnx_scopes import PHI, Layout, Slot, Step
from ampconvert.frontends.onnx_shapes import FILLED
from ampconvert.plan import FLOAT32, OUTPUT, Cast, Plan

_FLOAT = ir.DataType.FLOAT
TYPES = {
    "float16": ir.DataType.FLOAT16,
    "bfloat16": ir.DataType.BFLOAT16,
    "float32": ir.DataType.FLOAT,
}
REASON = "ampconvert.reason"
_CAST_OPSET = 13  # of a model without ONNX's own operators: its Cast takes bfloat16 too


def apply(model: ir.Model, plan: Plan, *, in_place: bool = False) -> ir.Model:
    """A new model that stores and computes as `plan` says; `model` and its weights stay as they
    are, unless it is changed `in_place`. `plan` was made for the graph that `read` gave of `model`.
    """
    return _Rewrite(model if in_place else model.clone(), plan).run()


class _Rewrite:
    """One pass over a clone: types of results, then weights, then casts."""

    def __init__(self, model: ir.Model, plan: Plan) -> None:
        self.model = model
        self.plan = plan
        self.low = TYPES[plan.low]
        self.layout = Layout(model)
        self.steps = {step.name: step for step in self.layout.steps}
        self.filled = model.graph.meta.get(FILLED, {})
        self.values = {name: value for value, name in self.layout.values.items()}
        self.taken = {v.name for v in self.layout.values} | {s.node.name for s in self.layout.steps}

    def run(self) -> ir.Model:
        readers = self._weight_readers()
        for name in self.plan.io:
            if name in self.values and self.values[name].producer() is None:
                _retype(self.values[name], self.low)
        for name, dtype in self.plan.compute.items():
            step = self.steps[name]
            if dtype != FLOAT32:
                self._lower(step)
            if step.op != PHI:
                self._explain(step, dtype)
        for name, types in self.plan.weights.items():
            if self.plan.low in types:
                self._store(name, types, readers.get(name, []))
        if self.plan.casts:
            self.model.opset_imports.setdefault("", _CAST_OPSET)
        for cast in self.plan.casts:
            self._cast(cast)
        self._forget()
        self.model.graph.meta.pop(FILLED, None)
        return self.model

    def _forget(self) -> None:
        """Types and shapes that the model left out are left out again, so that a model that is
        converted twice stays as it is. What `low` operators make keeps its type: runtimes guess
        that of a second result wrongly.
        """
        lowered = {
            value
            for name, dtype in self.plan.compute.items()
            if dtype != FLOAT32
            for value in self.steps[name].makes
        }
        for name, blank in self.filled.items():
            value = self.values[name]
            value.shape = blank.shape
            outside = value.is_graph_output() and value.graph is self.model.graph
            if blank.type is None and value not in lowered and not outside:
                value.type = None

    def _shape(self, name: str) -> ir.Shape | None:
        """The shape that the model itself says the value has."""
        shape = self.filled[name].shape if name in self.filled else self.values[name].shape
        return _copy(shape)

    def _lower(self, step: Step) -> None:
        """The float32 results of a step become `low`, and its arguments that name a type."""
        fixed: tuple[int, ...] = ()
        if step.op != PHI:
            node = step.node
            version = self.model.opset_imports.get(node.domain, 1)
            known = signature(
                node.domain, node.op_type, version, len(step.reads), len(step.makes),
                self.plan.low,
            )  # fmt: skip
            if known is not None:
                fixed = known.fixed_outputs
                if step.makes and step.makes[0].dtype == _FLOAT and 0 not in fixed:
                    self._set_type_argument(node, known.typed_by)
        for i, value in enumerate(step.makes):
            if value.dtype == _FLOAT and i not in fixed:
                _retype(value, self.low)
        for name, number in self.plan.scalars.get(step.name, {}).items():
            _set_number(step.node, name, number, self.low)

    def _set_type_argument(self, node: ir.Node, typed_by: tuple[str, ...]) -> None:
        """Say the new type where an argument gives the result its type, left out ones included."""
        for name in typed_by:
            if name in RESULT_ATTRIBUTES:
                node.attributes[name] = ir.AttrInt64(name, self.low)
                return
            given = node.attributes.get(name)
            old = given.as_tensor() if given is not None else ir.tensor(np.zeros(1, np.float32))
            node.attributes[name] = ir.AttrTensor(name, self._stored(old, clamp=False))
            return

    def _weight_readers(self) -> dict[str, list[Slot]]:
        """Where each weight that is needed in both types is read in `low`."""
        mixed = {name for name, types in self.plan.weights.items() if len(types) > 1}
        found: dict[str, list[Slot]] = {}
        if not mixed:
            return found
        for step in self.layout.steps:
            for position, slots in enumerate(step.reads):
                name = self.layout.values[slots[0].value] if slots and slots[0].value else ""
                if name in mixed and self._is_low(step.name, position):
                    found.setdefault(name, []).extend(slots)
        for i, value in enumerate(self.model.graph.outputs):
            name = self.layout.values[value]
            if name in mixed and name in self.plan.io:
                found.setdefault(name, []).append(Slot(self.model.graph, i))
        return found

    def _is_low(self, node: str, position: int) -> bool:
        return node in self.plan.compute and self.plan.type_at(node, position) == self.plan.low

    def _store(self, name: str, types: tuple[str, ...], readers: list[Slot]) -> None:
        """A weight in `low`: in its own place, or as a second one where float32 is read too."""
        value = self.values[name]
        node = value.producer()
        stored = self._stored(tensor_of(value), clamp=name in self.plan.masks)
        if len(types) > 1:
            copy = ir.Value(
                name=self._fresh(f"{name}/{self.plan.low}"),
                type=ir.TensorType(self.low),
                shape=ir.Shape(stored.shape.numpy()),
                const_value=stored,
            )
            stored.name = copy.name
            self.layout.homes[value].register_initializer(copy)
            for slot in readers:
                slot.put(copy)
            return
        if node is None:
            value.const_value = stored
        else:
            node.attributes.clear()
            node.attributes["value"] = ir.AttrTensor("value", stored)
        _retype(value, self.low)

    def _stored(self, tensor: ir.TensorProtocol, *, clamp: bool) -> ir.LazyTensor:
        """`tensor` rounded to `low`, to nearest even, when it is read and not before."""
        dtype, limit = self.low.numpy(), FLOAT_TYPES[self.plan.low].max / 2
        shape = ir.Shape(tensor.shape.numpy())

        def load() -> ir.TensorProtocol:
            data = numbers(tensor)
            if clamp:
                data = np.where(np.isinf(data), data, np.clip(data, -limit, limit))
            with np.errstate(over="ignore"):  # out of range by the plan: an infinity of the model
                return ir.Tensor(data.astype(dtype), name=tensor.name)

        return ir.LazyTensor(
            load, dtype=self.low, shape=shape, cache=False, name=tensor.name,
            doc_string=tensor.doc_string, metadata_props=dict(tensor.metadata_props),
        )  # fmt: skip

    def _cast(self, cast: Cast) -> None:
        value = self.values[cast.value]
        slots = [slot for reader in cast.readers for slot in self._slots(*reader)]
        held = TYPES[cast.to]
        leaves = any(node == OUTPUT for node, _ in cast.readers)
        own = value.name or cast.value
        if leaves and value.producer() is not None:
            # Outside the name is what counts; inside, the value as it is stored takes another one.
            was = FLOAT32 if cast.to == self.plan.low else self.plan.low
            value.name = self._fresh(f"{own}/{was}")
            name = own
        else:
            name = self._fresh(f"{own}/{cast.to}")
        made = ir.Value(name=name, type=ir.TensorType(held), shape=self._shape(cast.value))
        if leaves:
            made.doc_string, value.doc_string = value.doc_string, None
            made.metadata_props.update(value.metadata_props)
        nodes = []
        source = value
        if cast.clamp and cast.to == self.plan.low:
            source, limiting = self._limited(value)
            nodes.append(limiting)
        node = ir.Node(
            "", "Cast", [source], [ir.AttrInt64("to", held)], outputs=[made],
            name=self._fresh(f"Cast/{own}/{cast.to}"),
            metadata_props={REASON: "Cast of the plan: its readers run in this type."},
        )  # fmt: skip
        for slot in slots:
            slot.put(made)
        self._insert(value, [*nodes, node])

    def _limited(self, value: ir.Value) -> tuple[ir.Value, ir.Node]:
        """`value` with what means minus infinity limited to half of `low`'s range."""
        limit = np.array(-FLOAT_TYPES[self.plan.low].max / 2, np.float32)
        bound = ir.Value(
            name=self._fresh(f"{value.name}/limit"), type=ir.TensorType(_FLOAT),
            shape=ir.Shape(()), const_value=ir.Tensor(limit),
        )  # fmt: skip
        self._graph_of(value).register_initializer(bound)
        result = ir.Value(
            name=self._fresh(f"{value.name}/limited"), type=ir.TensorType(_FLOAT),
            shape=_copy(value.shape),
        )  # fmt: skip
        node = ir.Node("", "Max", [value, bound], outputs=[result], name=self._fresh("Max/limit"))
        return result, node

    def _slots(self, node: str, position: int) -> Iterator[Slot]:
        if node == OUTPUT:
            yield Slot(self.model.graph, position)
        else:
            yield from self.steps[node].reads[position]

    def _insert(self, value: ir.Value, nodes: list[ir.Node]) -> None:
        """Put `nodes` right behind what makes `value`, or first in the graph whose input it is."""
        maker = value.producer()
        if maker is not None:
            self._graph_of(value).insert_after(maker, nodes)
            return
        graph = self._graph_of(value)
        first = next(iter(graph), None)
        if first is None:
            graph.extend(nodes)
        else:
            graph.insert_before(first, nodes)

    def _graph_of(self, value: ir.Value) -> ir.Graph:
        maker = value.producer()
        graph = maker.graph if maker is not None else self.layout.homes[value]
        assert isinstance(graph, ir.Graph)
        return graph

    def _explain(self, step: Step, dtype: str) -> None:
        """Each node's precision, verdict and reason, where viewers show them."""
        meta = step.node.metadata_props
        if REASON in meta and dtype == FLOAT32:
            return  # converted before, for the same reason
        decision = self.plan.decisions[step.name]
        meta.update(
            {
                "ampconvert.node": step.name,
                "ampconvert.precision": dtype,
                "ampconvert.class": decision.cls,
                "ampconvert.rule": decision.rule,
                REASON: decision.reason,
            }
        )

    def _fresh(self, name: str) -> str:
        unique, number = name, 2
        while unique in self.taken:
            unique, number = f"{name}#{number}", number + 1
        self.taken.add(unique)
        return unique


def _retype(value: ir.Value, dtype: ir.DataType) -> None:
    # A new type, never `value.dtype =`: a clone shares its types with the original.
    value.type = _type(value.type, dtype)


def _type(kind: Any, dtype: ir.DataType) -> Any:
    if isinstance(kind, ir.SequenceType | ir.OptionalType):
        return type(kind)(_type(kind.elem_type, dtype))
    return ir.TensorType(dtype)


def _set_number(node: ir.Node, name: str, number: float, dtype: ir.DataType) -> None:
    given = node.attributes[name]
    if given.type == ir.AttributeType.TENSOR:
        shape = given.as_tensor().shape.numpy()
        filled = np.full(shape, number, dtype.numpy())
        node.attributes[name] = ir.AttrTensor(name, ir.Tensor(filled))
    else:
        node.attributes[name] = ir.AttrFloat32(name, number)


def _copy(shape: ir.Shape | None) -> ir.Shape | None:
    return shape.copy() if shape is not None else None
