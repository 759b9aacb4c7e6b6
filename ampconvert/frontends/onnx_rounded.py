"""Copies of a float32 ONNX model in which values are rounded to a low type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ampconvert.dtypes import Low
from ampconvert.frontends.onnx_data import tensor_of
from ampconvert.frontends.onnx_load import numbers
from ampconvert.frontends.onnx_scopes import Layout

TYPES = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}

Array = np.ndarray[Any, Any]


def rounded(model: ir.Model, names: Sequence[str], low: Low) -> ir.Model:
    """`model` in float32, with the named values rounded to `low` where they are made."""
    clone = model.clone()
    layout = Layout(clone)
    root = _root(layout)
    values = {name: value for value, name in layout.values.items()}
    for number, name in enumerate(names):
        value = values[name]
        if name in layout.weights:
            _round_weight(value, TYPES[low])
        elif _is_tensor(value):
            _round_result(layout, value, f"{root}/{number}", TYPES[low])
    return clone


def switched(model: ir.Model, names: Sequence[str], low: Low) -> tuple[ir.Model, dict[str, str]]:
    """`model` with a scalar float32 input more for each of `names`, and the inputs' names.

    A value z is replaced by z + s (low(z) - z), s being its input: 0 leaves it as it is, 1 rounds
    it. Loaded once, the model can be run for any choice of values. It must hold no value that `low`
    overflows in: 0 times infinity is no number.
    """
    clone = model.clone()
    layout = Layout(clone)
    root = _root(layout)
    values = {name: value for value, name in layout.values.items()}
    switches: dict[str, str] = {}
    for number, name in enumerate(names):
        value = values[name]
        if not _is_tensor(value):
            continue
        prefix = f"{root}/{number}"
        switches[name] = f"{prefix}/switch"
        switch = _float(switches[name], ir.Shape(()))
        clone.graph.inputs.append(switch)
        made = _stand_in(value, f"{prefix}/made")
        if name in layout.weights:
            lost, nodes = _lost_weight(layout, value, prefix, TYPES[low])
        else:
            lost, nodes = _lost_result(value, prefix, TYPES[low])
        part = _float(f"{prefix}/part", value.shape)
        nodes += [
            ir.Node("", "Mul", [lost, switch], outputs=[part], name=f"{prefix}/mul"),
            ir.Node("", "Add", [value, part], outputs=[made], name=f"{prefix}/add"),
        ]
        _insert(layout, value, nodes)
    return clone, switches


def _root(layout: Layout) -> str:
    """What names may begin with that the model has not; looked for once, as it asks all names."""
    root = "rounded"
    while any((value.name or "").startswith(f"{root}/") for value in layout.values):
        root += "_"
    return root


def round_array(array: Array, low: ir.DataType) -> Array:
    """A float32 array rounded to `low`, in float32; infinite where that overflows."""
    with np.errstate(over="ignore"):
        return np.asarray(array.astype(low.numpy()).astype(np.float32))


def _is_tensor(value: ir.Value) -> bool:
    return value.type is None or isinstance(value.type, ir.TensorType)


def _lost_weight(
    layout: Layout, value: ir.Value, prefix: str, low: ir.DataType
) -> tuple[ir.Value, list[ir.Node]]:
    """A second weight with what rounding adds, computed when it is read."""
    tensor = tensor_of(value)

    def load() -> ir.TensorProtocol:
        data = numbers(tensor)
        return ir.Tensor(round_array(data, low) - data, name=f"{prefix}/lost")

    shape = ir.Shape(tensor.shape.numpy())
    lost = ir.Value(name=f"{prefix}/lost", type=ir.TensorType(ir.DataType.FLOAT), shape=shape)
    lost.const_value = ir.LazyTensor(
        load, dtype=ir.DataType.FLOAT, shape=shape, cache=False, name=lost.name
    )
    _home(layout, value).register_initializer(lost)
    return lost, []


def _lost_result(value: ir.Value, prefix: str, low: ir.DataType) -> tuple[ir.Value, list[ir.Node]]:
    """What rounding adds to a computed value."""
    down = ir.Value(name=f"{prefix}/low", type=ir.TensorType(low), shape=value.shape)
    back = _float(f"{prefix}/back", value.shape)
    lost = _float(f"{prefix}/lost", value.shape)
    return lost, [
        _cast(value, down, low),
        _cast(down, back, ir.DataType.FLOAT),
        ir.Node("", "Sub", [back, value], outputs=[lost], name=f"{prefix}/sub"),
    ]


def _stand_in(value: ir.Value, name: str) -> ir.Value:
    """A value that everything reads instead; an output keeps its name."""
    made = _float(name, value.shape)
    is_output = value.is_graph_output()
    value.replace_all_uses_with(made, replace_graph_outputs=True)
    if is_output:
        made.name, value.name = value.name, name
    return made


def _insert(layout: Layout, value: ir.Value, nodes: list[ir.Node]) -> None:
    """Right behind what makes `value`, or first in the graph whose weight it is."""
    maker = value.producer()
    graph = _home(layout, value)
    if maker is not None:
        graph.insert_after(maker, nodes)
        return
    first = next(iter(graph), None)
    if first is None:
        graph.extend(nodes)
    else:
        graph.insert_before(first, nodes)


def _home(layout: Layout, value: ir.Value) -> ir.Graph:
    maker = value.producer()
    graph = maker.graph if maker is not None else layout.homes[value]
    assert isinstance(graph, ir.Graph)
    return graph


def _round_weight(value: ir.Value, low: ir.DataType) -> None:
    data = round_array(numbers(tensor_of(value)), low)
    node = value.producer()
    if node is None:
        value.const_value = ir.Tensor(data, name=value.name)
    else:
        node.attributes.clear()
        node.attributes["value"] = ir.AttrTensor("value", ir.Tensor(data))


def _round_result(layout: Layout, value: ir.Value, prefix: str, low: ir.DataType) -> None:
    """A pair of casts behind the value; ONNX Runtime keeps it in a float32 model."""
    made = _stand_in(value, f"{prefix}/made")
    down = ir.Value(name=f"{prefix}/low", type=ir.TensorType(low), shape=value.shape)
    _insert(layout, value, [_cast(value, down, low), _cast(down, made, ir.DataType.FLOAT)])


def _cast(source: ir.Value, result: ir.Value, to: ir.DataType) -> ir.Node:
    to_type = ir.AttrInt64("to", to)
    return ir.Node("", "Cast", [source], [to_type], outputs=[result], name=f"round/{result.name}")


def _float(name: str, shape: ir.Shape | None) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=shape)
