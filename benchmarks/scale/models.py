"""Models of any size for the measurement: chains of nodes, one value with many readers, weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 20  # every peer converts it as it is, none has to raise it first
ROWS, WIDTH = 4, 16
LAYER = 2048  # a layer of `weights` is a matrix of LAYER x LAYER: 16 MiB in float32
KEPT = ("Exp", "Max", "Pow", "ReduceMean", "Softmax", "TopK")  # what "mixed" keeps in float32

Shape = tuple[int, ...]
Array = np.ndarray[Any, Any]


class _Builder:
    """A graph in the making: named nodes, float32 values with their shapes, small weights."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.values: list[onnx.ValueInfoProto] = []
        self.weights: dict[str, onnx.TensorProto] = {}
        self.shapes: dict[str, Shape] = {}
        self.random = np.random.default_rng(0)

    def call(self, op: str, inputs: Sequence[str], shape: Shape, **attributes: Any) -> str:
        """Add a node; its first result's name. Only TopK has a second one, which nobody reads."""
        name = f"v{len(self.nodes)}"
        results = [name, f"{name}_indices"] if op == "TopK" else [name]
        self.nodes.append(
            helper.make_node(op, inputs, results, name=f"{op}_{len(self.nodes)}", **attributes)
        )
        self.shapes[name] = shape
        self.values.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def weight(self, array: Array, name: str = "") -> str:
        """Add an initialiser, or find the one of that name."""
        name = name or f"w{len(self.weights)}"
        if name not in self.weights:
            self.weights[name] = numpy_helper.from_array(array, name)
        return name

    def normal(self, *shape: int, scale: float = 1.0) -> str:
        """Add an initialiser of its own with seeded normal numbers."""
        return self.weight((scale * self.random.standard_normal(shape)).astype(np.float32))

    def scalar(self, number: float, name: str) -> str:
        """The shared initialiser of that name."""
        return self.weight(np.array(number, np.float32), name)

    def model(self, inputs: dict[str, Shape], outputs: Sequence[str]) -> onnx.ModelProto:
        """The finished model; outputs need no entry among the inner values."""
        given = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()]
        made = [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, self.shapes[n]) for n in outputs
        ]
        inner = [v for v in self.values if v.name not in set(outputs)]
        graph = helper.make_graph(
            self.nodes, "scale", given, made, list(self.weights.values()), value_info=inner
        )
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9
        )


Step = Callable[[_Builder, str], str]


def _matmul(b: _Builder, x: str) -> str:
    return b.call("MatMul", [x, b.normal(WIDTH, WIDTH, scale=0.25)], (ROWS, WIDTH))


def _add(b: _Builder, x: str) -> str:
    return b.call("Add", [x, b.normal(WIDTH, scale=0.1)], (ROWS, WIDTH))


def _mul(b: _Builder, x: str) -> str:
    return b.call("Mul", [x, b.normal(WIDTH)], (ROWS, WIDTH))


def _same(op: str) -> Step:
    return lambda b, x: b.call(op, [x], b.shapes[x])


def _mean(b: _Builder, x: str) -> str:
    axes = b.weight(np.array([1], np.int64), "last_axis")
    return b.call("ReduceMean", [x, axes], (ROWS, 1), keepdims=1)


def _square(b: _Builder, x: str) -> str:
    return b.call("Pow", [x, b.scalar(2.0, "two")], b.shapes[x])


def _maximum(b: _Builder, x: str) -> str:
    return b.call("Max", [x, b.scalar(0.01, "floor")], b.shapes[x])


def _sort(b: _Builder, x: str) -> str:
    return b.call("TopK", [x, b.weight(np.array([WIDTH], np.int64), "all")], (ROWS, WIDTH))


PLAIN: tuple[Step, ...] = (_matmul, _add, _same("Relu"), _mul)
MIXED: tuple[Step, ...] = (
    _matmul, _add, _same("Softmax"), _matmul, _mul, _same("Exp"), _mean, _add, _square, _maximum,
    _sort, _same("Relu"),
)  # fmt: skip


def chain(steps: Sequence[Step], nodes: int) -> onnx.ModelProto:
    """`nodes` nodes one after another, `steps` over and over; weights of their own, 1 KiB each."""
    builder = _Builder()
    builder.shapes["x"] = (ROWS, WIDTH)
    last = "x"
    for i in range(nodes):
        last = steps[i % len(steps)](builder, last)
    return builder.model({"x": (ROWS, WIDTH)}, [last])


def fan_out(readers: int) -> onnx.ModelProto:
    """One computed value, read by `readers` nodes of five kinds, two of them kept in float32."""
    b = _Builder()
    b.shapes["x"] = shape = (ROWS, WIDTH)
    shared = _matmul(b, "x")
    weight = b.normal(WIDTH, WIDTH, scale=0.25)
    kinds: tuple[Callable[[], str], ...] = (
        lambda: b.call("MatMul", [shared, weight], shape),
        lambda: b.call("Exp", [shared], shape),
        lambda: _mul(b, shared),
        lambda: b.call("Softmax", [shared], shape),
        lambda: _add(b, shared),
    )
    made = [kinds[i % len(kinds)]() for i in range(readers)]
    return b.model({"x": shape}, [b.call("Concat", made, (ROWS * readers, WIDTH), axis=0)])


def write_weights(megabytes: int, path: Path) -> None:
    """MatMul, Add and Tanh over and over, until the matrices fill `megabytes` (10**6 bytes).

    They lie in `<path>.data` and hold the same random numbers, written once for each layer.
    """
    layers = max(1, round(megabytes * 10**6 / (4 * LAYER * LAYER)))
    builder = _Builder()
    matrix = builder.random.standard_normal((LAYER, LAYER), np.float32) * np.float32(0.5 / 45)
    last = "x"
    for i in range(layers):
        name = f"matrix{i}"
        builder.weights[name] = _outside(name, f"{path.name}.data", i * matrix.nbytes)
        last = builder.call("MatMul", [last, name], (1, LAYER))
        last = builder.call("Add", [last, builder.normal(LAYER)], (1, LAYER))
        last = builder.call("Tanh", [last], (1, LAYER))
    with open(f"{path}.data", "wb") as file:
        for _ in range(layers):
            matrix.tofile(file)
    onnx.save(builder.model({"x": (1, LAYER)}, [last]), path)


def _outside(name: str, location: str, offset: int) -> onnx.TensorProto:
    """A matrix whose numbers lie in the file `location`."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=(LAYER, LAYER))
    tensor.data_location = TensorProto.EXTERNAL
    places = {"location": location, "offset": offset, "length": 4 * LAYER * LAYER}
    for key, value in places.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def write(kind: str, size: int, path: Path) -> None:
    """Write the model of that kind and size: nodes, readers, or megabytes of weights."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "weights":
        write_weights(size, path)
        return
    made = fan_out(size) if kind == "fan-out" else chain(MIXED if kind == "mixed" else PLAIN, size)
    onnx.save(made, path)
