"""The emulated model: float32 throughout, with a rounding wherever a model stores a low type.

Why it exists. ONNX Runtime's CPU provider has hardly any float16 kernel: it runs float16 nodes in
float32 and deletes the casts between them, so an intermediate result of 1e5 passes there and is
infinite on every device that really stores float16. bfloat16 models mostly do not load at all.
A pair of casts to the low type and back in a float32 model it does keep, at every optimisation
level.

What it models: each stored tensor rounded to nearest even, overflow to infinity and gradual
underflow, inputs and weights rounded alike, sums accumulated in float32. What it does not model:
float16 accumulation inside a kernel, and fused kernels that keep intermediates in registers; where
a compiler fuses, the emulated model has more roundings than the device: it errs to the safe side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ampconvert.dtypes import Low
from ampconvert.element_types import LOW_TYPES, TYPE_ATTRIBUTES, is_low, typed
from ampconvert.errors import UserError

# What one asks of an emulated model; part of this module's interface.
from ampconvert.verify.first_bad import BadTensor as BadTensor
from ampconvert.verify.first_bad import TensorError as TensorError
from ampconvert.verify.first_bad import first_bad as first_bad
from ampconvert.verify.first_bad import tensor_errors as tensor_errors
from ampconvert.verify.runtimes import numbers

_FLOAT = ir.DataType.FLOAT
# Operators whose results are elements of their inputs, of bodies whose results are rounded inside,
# or of constants that are rounded already: another rounding would change nothing.
_EXACT = frozenset(
    {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Gather"}
    | {"GatherElements", "GatherND", "Split", "Concat", "Expand", "Tile", "DepthToSpace", "Where"}
    | {"SpaceToDepth", "Constant", "ConstantOfShape", "If", "Loop", "Scan"}
)


def emulate(model: ir.Model, low: Low | None = None) -> ir.Model:
    """The float32 model that rounds at every store that `model` makes in float16 or bfloat16.

    `model` may come from any converter and may mix both types; it is left as it is. With `low`
    only tensors of that type are rounded, the other type's become plain float32. A rounded tensor
    has the name it has in `model`, except a graph input, whose own name stays with the input.
    Inputs and outputs that were low are float32. Functions are inlined. Weights are converted
    when they are read, not copied here.

    Raises:
        UserError: the model's opset is too old to hold such casts.
    """
    rounded = {t for t, name in LOW_TYPES.items() if low in (None, name)}
    return _Rewrite(model, rounded).run()


def upcast(model: ir.Model) -> ir.Model:
    """`model` computing in float32: as `emulate`, with the same names, and without any rounding."""
    return _Rewrite(model, set()).run()


class _Rewrite:
    """One pass over a clone of the model: types first, then node by node."""

    def __init__(self, model: ir.Model, rounded: set[ir.DataType]) -> None:
        self.model = typed(model)
        self.graphs = [self.model.graph, *self.model.graph.subgraphs()]
        self.rounded = rounded
        values = [v for graph in self.graphs for v in _values(graph)]
        self.names = {v.name for v in values if v.name}
        self.nodes = {node.name for graph in self.graphs for node in graph if node.name}
        # The low type that each value of the original model is stored in.
        self.stored = {v: ir.DataType(v.dtype) for v in values if is_low(v) and v.dtype}
        _check_opset(self.model, set(self.stored.values()))

    def run(self) -> ir.Model:
        for value in self.stored:
            _make_float32(value)
        for graph in self.graphs:
            for node in list(graph):
                self._name(node)
                self._rewrite(node)
        for value in list(self.model.graph.inputs):
            if self._rounds(value):
                self._round_input(value)
        return self.model

    def _name(self, node: ir.Node) -> None:
        """Messages of a runtime name nodes: one without a name takes its first output's, or one
        like it.
        """
        if node.name:
            return
        name = next((v.name for v in node.outputs if v.name), node.op_type)
        while name in self.nodes:
            name += "_"
        self.nodes.add(name)
        node.name = name

    def _rewrite(self, node: ir.Node) -> None:
        if node.domain == "" and node.op_type in ("Cast", "CastLike"):
            self._rewrite_cast(node)
            return
        if node.domain == "" and node.op_type == "BitCast":
            self._keep_bits(node)
            return
        _retype_attributes(node)
        if node.domain == "" and node.op_type in _EXACT:
            return
        for value in node.outputs:
            if self._rounds(value):
                self._round_output(value)

    def _rewrite_cast(self, node: ir.Node) -> None:
        """A cast to a low type is the first half of a pair; one from low to float32 is no cast."""
        (result,) = node.outputs
        low = self._low(result)
        source_type = node.inputs[0].dtype if node.inputs[0] is not None else None
        if node.op_type == "CastLike" and low is not None:
            node.op_type = "Cast"
            node.resize_inputs(1)
        if low is not None:
            node.attributes["to"] = ir.AttrInt64("to", low if low in self.rounded else _FLOAT)
        if low is not None and low in self.rounded:
            up = self._rename(result, f"{result.name}/low", ir.TensorType(low))
            _insert(node, [_cast(result, up, _FLOAT)])
        elif low is None and result.dtype == source_type == _FLOAT:
            node.op_type = "Identity"
            node.attributes.clear()
            node.resize_inputs(1)

    def _round_output(self, value: ir.Value) -> None:
        node = value.producer()
        assert node is not None
        up = self._rename(value, f"{value.name}/unrounded", value.type)
        _insert(node, self._pair(value, up))

    def _round_input(self, value: ir.Value) -> None:
        up = self._value(f"{value.name}/rounded", _FLOAT, value.shape)
        _replace_in_nodes(value, up)
        graph = self.model.graph
        pair = self._pair(value, up)
        first = next(iter(graph), None)
        if first is None:
            graph.extend(pair)
        else:
            graph.insert_before(first, pair)

    def _pair(self, source: ir.Value, up: ir.Value) -> list[ir.Node]:
        low = self.stored[source]
        down = self._value(f"{up.name}/low", low, source.shape)
        return [_cast(source, down, low), _cast(down, up, _FLOAT)]

    def _keep_bits(self, node: ir.Node) -> None:
        """BitCast reads or writes the bits of the low type: it keeps it, between casts."""
        low = self._low(node.inputs[0])
        if low is not None:
            source = node.inputs[0]
            assert source is not None
            bits = self._value(f"{source.name}/bits", low, source.shape)
            node.replace_input_with(0, bits)
            assert node.graph is not None
            node.graph.insert_before(node, [_cast(source, bits, low)])
        (result,) = node.outputs
        low = self._low(result)
        if low is not None:
            up = self._rename(result, f"{result.name}/low", ir.TensorType(low))
            _insert(node, [_cast(result, up, _FLOAT)])

    def _rename(self, value: ir.Value, name: str, kind: Any) -> ir.Value:
        """Give `value`'s name, readers and place among the outputs to a new float32 value."""
        up = ir.Value(name=value.name, shape=_copy(value.shape), type=ir.TensorType(_FLOAT))
        value.replace_all_uses_with(up, replace_graph_outputs=True)
        value.name = self._fresh(name)
        value.type = kind
        return up

    def _value(self, name: str, dtype: ir.DataType, shape: ir.Shape | None) -> ir.Value:
        return ir.Value(name=self._fresh(name), shape=_copy(shape), type=ir.TensorType(dtype))

    def _fresh(self, name: str) -> str:
        while name in self.names:
            name += "_"
        self.names.add(name)
        return name

    def _low(self, value: ir.Value | None) -> ir.DataType | None:
        return self.stored.get(value) if value is not None else None

    def _rounds(self, value: ir.Value) -> bool:
        """Sequences need none: what they hold was rounded when it was made."""
        return self._low(value) in self.rounded and isinstance(value.type, ir.TensorType)


def _values(graph: ir.Graph) -> Sequence[ir.Value]:
    made = (v for node in graph for v in node.outputs if v.name)
    return list(dict.fromkeys([*graph.inputs, *graph.initializers.values(), *made]))


def _check_opset(model: ir.Model, stored: set[ir.DataType]) -> None:
    if not stored:
        return
    version = model.graph.opset_imports.get("", 1)
    needed = 13 if ir.DataType.BFLOAT16 in stored else 7
    if version < needed:
        raise UserError(
            f"the model's opset is {version}, and parity needs {needed} or newer: "
            "convert it with onnx.version_converter first"
        )


def _make_float32(value: ir.Value) -> None:
    # A new type, never `value.dtype =`: a clone shares its types with the original.
    value.type = _float32_type(value.type)
    if value.const_value is not None:
        value.const_value = _float32_tensor(value.const_value)


def _float32_type(kind: Any) -> Any:
    if isinstance(kind, ir.SequenceType | ir.OptionalType):
        return type(kind)(_float32_type(kind.elem_type))
    return ir.TensorType(_FLOAT)


def _float32_tensor(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """The same numbers (float32 holds every float16 and bfloat16), converted when they are read."""

    def load() -> ir.TensorProtocol:
        return ir.Tensor(numbers(tensor).astype(np.float32), name=tensor.name)

    return ir.LazyTensor(load, dtype=_FLOAT, shape=ir.Shape(tensor.shape.numpy()), name=tensor.name)


def _retype_attributes(node: ir.Node) -> None:
    for name, attr in list(node.attributes.items()):
        if attr.type == ir.AttributeType.TENSOR and attr.as_tensor().dtype in LOW_TYPES:
            node.attributes[name] = ir.AttrTensor(name, _float32_tensor(attr.as_tensor()))
        if attr.type != ir.AttributeType.INT or name not in TYPE_ATTRIBUTES:
            continue
        if attr.as_int() in LOW_TYPES:
            node.attributes[name] = ir.AttrInt64(name, _FLOAT)


def _cast(source: ir.Value, result: ir.Value, to: ir.DataType) -> ir.Node:
    to_type = ir.AttrInt64("to", to)
    return ir.Node("", "Cast", [source], [to_type], outputs=[result], name=f"round/{result.name}")


def _insert(node: ir.Node, after: list[ir.Node]) -> None:
    assert node.graph is not None
    node.graph.insert_after(node, after)


def _replace_in_nodes(value: ir.Value, other: ir.Value) -> None:
    for use in list(value.uses()):
        use.node.replace_input_with(use.idx, other)


def _copy(shape: ir.Shape | None) -> ir.Shape | None:
    return shape.copy() if shape is not None else None
