"""Small models, each with one thing that a converter has to get right, and data for them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper, parser

from benchmarks.child import ROOT
from benchmarks.conformance.case import nodes

Array = np.ndarray[Any, Any]
WIDTH = 32
BIG_LAYERS, BIG_WIDTH = 9, 8192  # 256 MiB each: 2.25 GiB of float32 weights in all

HEAD = '<ir_version: 10, opset_import: ["" : 21]>\n'


@dataclass(frozen=True)
class Model:
    """An ONNX model as text, its weights by name, and two batches of inputs."""

    text: str
    weights: Mapping[str, Array] = field(default_factory=dict)
    feeds: tuple[Mapping[str, Array], ...] = ()

    def proto(self) -> onnx.ModelProto:
        """The model with its weights in it."""
        made = parser.parse_model(self.text)
        name_nodes(made)
        made.graph.initializer.extend(
            numpy_helper.from_array(array, name) for name, array in self.weights.items()
        )
        return made


def build(name: str, folder: Path) -> None:
    """Write NAME.onnx and NAME-data/*.npz into `folder`, or the file of that name.

    Raises KeyError for a name that is not in MODELS or FILES.
    """
    if name in FILES:
        FILES[name](folder)
        return
    model = MODELS[name]()
    onnx.save(model.proto(), folder / f"{name}.onnx")
    write_data(model.feeds, folder / f"{name}-data")


def write_data(feeds: tuple[Mapping[str, Array], ...], folder: Path) -> None:
    """One .npz for each batch."""
    folder.mkdir(exist_ok=True)
    for i, feed in enumerate(feeds):
        arrays: dict[str, Any] = dict(feed)
        np.savez(folder / f"{i}.npz", **arrays)


def name_nodes(model: onnx.ModelProto) -> None:
    """Name every node by its operator and number, as exporters do: some converters need names."""
    for i, node in enumerate(nodes(model)):
        node.name = f"{node.op_type}_{i}"


def _normal(*shape: int, scale: float = 1.0, seed: int = 0) -> Array:
    random = np.random.default_rng((seed, *shape))
    return (scale * random.standard_normal(shape)).astype(np.float32)


def _weight(*shape: int, seed: int = 0) -> Array:
    return _normal(*shape, scale=shape[0] ** -0.5, seed=seed)


def _rows(scale: float = 1.0) -> tuple[dict[str, Array], ...]:
    return tuple({"x": _normal(8, WIDTH, scale=scale, seed=s)} for s in (1, 2))


def _net() -> Model:
    """A perceptron with a softmax."""
    body = """net (float[N,32] x) => (float[N,8] p) {
      h = MatMul(x, w)
      b = Add(h, bias)
      r = Relu(b)
      o = MatMul(r, v)
      p = Softmax(o)
    }"""
    weights: dict[str, Array] = {"w": _weight(WIDTH, 64), "bias": _normal(64), "v": _weight(64, 8)}
    return Model(HEAD + body, weights, _rows())


def _rms() -> Model:
    """RMSNorm by hand: the squares of activations near 600 are above 65504."""
    body = """net (float[N,32] x) => (float[N,8] y) {
      s = Mul(x, x)
      m = ReduceMean<keepdims=1>(s, axes)
      e = Add(m, eps)
      r = Sqrt(e)
      n = Div(x, r)
      y = MatMul(n, v)
    }"""
    weights: dict[str, Array] = {
        "axes": np.array([-1], np.int64), "eps": np.array(1e-6, np.float32), "v": _weight(WIDTH, 8),
    }  # fmt: skip
    return Model(HEAD + body, weights, _rows(scale=600.0))


def _build_naive(folder: Path) -> None:
    """The model rms with everything in FP16, as a converter writes it that does not look."""
    text, head = _rms().text, "net (float[N,32] x) => (float[N,8] y) {"
    inner = text[len(HEAD) + len(head) :].replace("Mul(x, x)", "Mul(xl, xl)")
    inner = inner.replace("Div(x, r)", "Div(xl, r)").replace("y = MatMul", "yl = MatMul")
    inner = inner.rstrip().removesuffix("}") + "  y = Cast<to=1>(yl)\n    }"
    made = parser.parse_model(f"{HEAD}{head}\n      xl = Cast<to=10>(x){inner}")
    name_nodes(made)
    for name, array in _rms().weights.items():
        low = array.astype(np.float16) if array.dtype == np.float32 else array
        made.graph.initializer.append(numpy_helper.from_array(low, name))
    onnx.save(made, folder / "naive.onnx")


def _mask() -> Model:
    """Attention with a mask of -3.4e38, a row of which masks everything."""
    body = """net (float[N,32] x, float[N,8] mask) => (float[N,8] p) {
      q = MatMul(x, w)
      a = Mul(mask, low)
      s = Add(q, a)
      p = Softmax(s)
    }"""
    weights: dict[str, Array] = {
        "w": _weight(WIDTH, 8),
        "low": np.array(np.finfo(np.float32).min, np.float32),
    }
    mask = (np.arange(64).reshape(8, 8) % 3 == 0).astype(np.float32)
    mask[0] = 1.0
    return Model(HEAD + body, weights, tuple({**feed, "mask": mask} for feed in _rows()))


def _weights() -> Model:
    """A weight of 1e6, which FP16 does not have, scaled down again."""
    body = """net (float[N,32] x) => (float[N,8] y) {
      h = MatMul(x, w)
      y = Mul(h, small)
    }"""
    large = _weight(WIDTH, 8)
    large[3, 2] = 2e6
    return Model(HEAD + body, {"w": large, "small": np.array(1e-6, np.float32)}, _rows())


def _positions() -> Model:
    """Rotary angles of positions from 4000 on: FP16 holds integers to 2048."""
    body = """net (int64[N] ids, float[N,16] x) => (float[N,8] y) {
      f = Cast<to=1>(ids)
      c = Unsqueeze(f, last)
      a = Mul(c, rates)
      t = Cos(a)
      z = Mul(x, t)
      y = MatMul(z, v)
    }"""
    rates = (10000.0 ** (-np.arange(16) / 16)).astype(np.float32)[None]
    weights: dict[str, Array] = {
        "last": np.array([-1], np.int64),
        "rates": rates,
        "v": _weight(16, 8),
    }
    ids = np.arange(4000, 4064)
    feeds = tuple({"ids": ids + 64 * s, "x": _normal(64, 16, seed=s)} for s in (0, 1))
    return Model(HEAD + body, weights, feeds)


def _if() -> Model:
    """A branch whose bodies read an outer value."""
    body = """net (float[N,32] x, bool wide) => (float[N,8] y) {
      h = MatMul(x, w)
      y = If(wide) <then_branch = t () => (float[N,8] a) { r = Relu(h)  a = MatMul(r, v) },
                    else_branch = e () => (float[N,8] b) { s = Tanh(h)  b = MatMul(s, u) }>
    }"""
    weights: dict[str, Array] = {
        "w": _weight(WIDTH, 64),
        "v": _weight(64, 8),
        "u": _weight(64, 8, seed=1),
    }
    feeds = tuple(
        {**feed, "wide": np.array(wide)} for feed, wide in zip(_rows(), (True, False), strict=True)
    )
    return Model(HEAD + body, weights, feeds)


def _loop() -> Model:
    """A loop whose state is a float."""
    body = """net (float[8,32] x) => (float[8,32] y) {
      h = MatMul(x, w)
      y = Loop(four, go, h) <body = turn (int64 i, bool c, float[8,32] s)
        => (bool more, float[8,32] next) {
          more = Identity(c)
          p = MatMul(s, w)
          next = Tanh(p)
      }>
    }"""
    weights: dict[str, Array] = {
        "w": _weight(WIDTH, WIDTH), "four": np.array(4, np.int64), "go": np.array(True),
    }  # fmt: skip
    return Model(HEAD + body, weights, _rows())


def _scan() -> Model:
    """A scan: a recurrence written by hand."""
    body = """net (float[8,32] x, float[32] start) => (float[32] last, float[8,32] all) {
      last, all = Scan <num_scan_inputs=1, body = step (float[32] s, float[32] row)
        => (float[32] n, float[32] o) {
          p = MatMul(s, w)
          q = Add(p, row)
          n = Tanh(q)
          o = Identity(n)
      }>(start, x)
    }"""
    feeds = tuple({**feed, "start": np.zeros(WIDTH, np.float32)} for feed in _rows())
    return Model(HEAD + body, {"w": _weight(WIDTH, WIDTH)}, feeds)


def _functions() -> Model:
    """A function of the model's own, called twice."""
    head = '<ir_version: 10, opset_import: ["" : 21, "own" : 1]>\n'
    body = """net (float[N,32] x) => (float[N,32] y) {
      h = own.layer(x, w)
      y = own.layer(h, v)
    }
    <domain: "own", opset_import: ["" : 21]>
    layer (a, m) => (z) {
      p = MatMul(a, m)
      z = Relu(p)
    }"""
    weights: dict[str, Array] = {"w": _weight(WIDTH, WIDTH), "v": _weight(WIDTH, WIDTH, seed=1)}
    return Model(head + body, weights, _rows())


def _output() -> Model:
    """TopK, which converters keep in FP32 by name, gives an output; its input is computed."""
    body = """net (float[N,32] x) => (float[N,3] best, int64[N,3] where) {
      h = MatMul(x, w)
      best, where = TopK(h, three)
    }"""
    return Model(HEAD + body, {"w": _weight(WIDTH, 16), "three": np.array([3])}, _rows())


def _islands() -> Model:
    """Two operators to be kept in FP32, one after the other: two casts are enough around them."""
    body = """net (float[N,32] x) => (float[N,8] y) {
      h = MatMul(x, w)
      a = Sigmoid(h)
      b = Tanh(a)
      c = Tanh(a)
      d = Add(b, c)
      y = MatMul(d, v)
    }"""
    return Model(HEAD + body, {"w": _weight(WIDTH, 64), "v": _weight(64, 8)}, _rows())


def _quantized() -> Model:
    """INT8 weights and activations as Q/DQ pairs, and a float part after them."""
    body = """net (float[N,32] x) => (float[N,8] y) {
      q = QuantizeLinear(x, xs, xz)
      d = DequantizeLinear(q, xs, xz)
      e = DequantizeLinear(wq, ws, wz)
      h = MatMul(d, e)
      r = Relu(h)
      y = MatMul(r, v)
    }"""
    weight = _weight(WIDTH, 64)
    scale = np.float32(np.abs(weight).max() / 127)
    weights: dict[str, Array] = {
        "xs": np.array(0.03, np.float32), "xz": np.array(0, np.int8), "ws": np.array(scale),
        "wz": np.array(0, np.int8), "wq": np.round(weight / scale).astype(np.int8),
        "v": _weight(64, 8),
    }  # fmt: skip
    return Model(HEAD + body, weights, _rows())


def _norm() -> Model:
    """LayerNorm in its six primitive nodes, as older exporters wrote it."""
    body = """net (float[N,4,32] x) => (float[N,4,8] y) {
      m = ReduceMean<keepdims=1>(x, axes)
      d = Sub(x, m)
      s = Pow(d, two)
      v = ReduceMean<keepdims=1>(s, axes)
      e = Add(v, eps)
      r = Sqrt(e)
      n = Div(d, r)
      g = Mul(n, scale)
      b = Add(g, bias)
      y = MatMul(b, w)
    }"""
    weights: dict[str, Array] = {
        "axes": np.array([-1], np.int64), "two": np.array(2.0, np.float32),
        "eps": np.array(1e-5, np.float32), "scale": 1 + _normal(WIDTH, scale=0.1),
        "bias": _normal(WIDTH, scale=0.1, seed=1), "w": _weight(WIDTH, 8),
    }  # fmt: skip
    feeds = tuple({"x": _normal(2, 4, WIDTH, seed=s)} for s in (1, 2))
    return Model(HEAD + body, weights, feeds)


def _wide() -> Model:
    """Two products that are wide enough for a quantizer to take them."""
    body = """net (float[N,256] x) => (float[N,256] y) {
      h = MatMul(x, w)
      r = Relu(h)
      y = MatMul(r, v)
    }"""
    weights: dict[str, Array] = {"w": _weight(256, 256), "v": _weight(256, 256, seed=1)}
    return Model(HEAD + body, weights, tuple({"x": _normal(8, 256, seed=s)} for s in (1, 2)))


def _newest() -> Model:
    """Opset 24, beyond 22."""
    model = _net()
    return Model(model.text.replace('"" : 21', '"" : 24'), model.weights, model.feeds)


def _build_training(folder: Path) -> None:
    """Net with training_info: an initialisation that sets the bias to zero."""
    made = _net().proto()
    graph = parser.parse_graph("start () => (float[64] zeros) { zeros = Identity(none) }")
    graph.initializer.append(numpy_helper.from_array(np.zeros(64, np.float32), "none"))
    info = made.training_info.add()
    info.initialization.CopyFrom(graph)
    info.initialization_binding.add(key="bias", value="zeros")
    onnx.save(made, folder / "training.onnx")


def _build_big(folder: Path) -> None:
    """More than 2 GiB of weights in a file beside the model: one block of numbers, repeated."""
    nodes = "\n".join(
        f"v{i + 1} = MatMul(v{i}, w{i})" if i + 1 < BIG_LAYERS else f"y = MatMul(v{i}, w{i})"
        for i in range(BIG_LAYERS)
    ).replace("(v0,", "(x,")
    text = f"net (float[N,{BIG_WIDTH}] x) => (float[N,{BIG_WIDTH}] y) {{ {nodes} }}"
    made = parser.parse_model(HEAD + text)
    name_nodes(made)
    block = _weight(BIG_WIDTH, 512).tobytes()
    size = 4 * BIG_WIDTH * BIG_WIDTH
    with (folder / "big.onnx.data").open("wb") as stream:
        for _ in range(BIG_LAYERS * size // len(block)):
            stream.write(block)
    for i in range(BIG_LAYERS):
        tensor = made.graph.initializer.add(
            name=f"w{i}", data_type=onnx.TensorProto.FLOAT, dims=[BIG_WIDTH, BIG_WIDTH],
            data_location=onnx.TensorProto.EXTERNAL,
        )  # fmt: skip
        places = {"location": "big.onnx.data", "offset": i * size, "length": size}
        for key, value in places.items():
            tensor.external_data.add(key=key, value=str(value))
    onnx.save(made, folder / "big.onnx")


MODELS: dict[str, Callable[[], Model]] = {
    "net": _net, "rms": _rms, "mask": _mask, "weights": _weights, "positions": _positions,
    "if": _if, "loop": _loop, "scan": _scan, "functions": _functions, "output": _output,
    "islands": _islands, "quantized": _quantized, "norm": _norm, "newest": _newest, "wide": _wide,
}  # fmt: skip


def _build_notebook(folder: Path) -> None:
    """A notebook with an unused import and a deprecated scaler, for linters."""
    lines = ["import os\n", "from torch.cuda.amp import GradScaler\n", "scaler = GradScaler()\n"]
    cell: dict[str, Any] = {
        "cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [],
        "source": lines,
    }  # fmt: skip
    notebook = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (folder / "notebook.ipynb").write_text(json.dumps(notebook), encoding="utf-8")


def _build_ddp(folder: Path) -> None:
    shutil.copyfile(ROOT / "examples" / "train_ddp.py", folder / "train_ddp.py")


FILES: dict[str, Callable[[Path], None]] = {
    "training": _build_training, "big": _build_big,
    "naive": _build_naive, "train_ddp.py": _build_ddp, "notebook.ipynb": _build_notebook,
}  # fmt: skip
