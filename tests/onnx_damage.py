"""Small sound models of every construction, and seeded damage to their files."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

from ampconvert.errors import UserError
from ampconvert.frontends.onnx_load import load

HEAD = '<ir_version: 9, opset_import: ["" : 20]>\n'
_EXTREME = (0, 1, -1, 2, 3, 5, 9, 33, 63, -63, 64, 2**31 - 1, -(2**31), 2**62, -(2**63), 10**12)

_TEXTS = {
    "chain": "g (float[2,4] x) => (float[2,4] y) <float[4] w = {1, 2, 3, 4}> {"
    "[n0] a = Add(x, w) [n1] b = LayerNormalization <axis = -1> (a, w) "
    "[n2] c = Softmax <axis = 1> (b) [n3] d = Transpose <perm = [1, 0]> (c) "
    '[n4] e = Einsum <equation = "ij,ik->jk"> (c, c) [n5] f = Gemm <transB = 1> (x, e) '
    "[n6] y = Mul(f, c) }",
    "shapes": "g (float[2,4] x, int64[N] i) => (float[M,4] y) "
    "<int64[2] s = {4, 2}, int64[1] ax = {0}, int64[2] parts = {1, 1}> {"
    "a = Reshape(x, s) p, q = Split <axis = 1> (a, parts) b = Concat <axis = 1> (q, p) "
    "c = Transpose(b) d = Gather <axis = 0> (c, i) e = ReduceSum <keepdims = 1> (d, ax) "
    "sh = Shape(d) f = Expand(e, sh) y = Cast <to = 1> (f) }",
    "branches": "g (bool c, float[4] x) => (float[4] y, float[4] z) <float[4] w = {1, 2, 3, 4}> {"
    "r = Relu(x) y = If (c) <then_branch = t () => (float[4] p) <float[4] v = {1, 1, 1, 1}>"
    "{ o = Add(r, w) p = Mul(o, v) }, else_branch = e () => (float[4] q) { q = Neg(r) }>"
    "z = Sub(y, r) }",
    "loop": "g (int64 n, bool c, float[4] x) => (float[4] y, float[N,4] all) {"
    "y, all = Loop (n, c, x) <body = b (int64 i, bool go, float[4] s) => "
    "(bool on, float[4] t, float[4] o) { on = Identity(go) t = Add(s, x) o = Neg(t) }> }",
    "scan": "g (float[4] s0, float[3,4] xs) => (float[4] s, float[3,4] ys) {"
    "s, ys = Scan (s0, xs) <num_scan_inputs = 1, body = b (float[4] a, float[4] x) => "
    "(float[4] o, float[4] p) { o = Add(a, x) p = Relu(o) }> }",
    "sequence": "g (float[4,2] x) => (float[2] y) <int64 i = {1}> {"
    "parts = SplitToSequence <axis = 0, keepdims = 0> (x) y = SequenceAt(parts, i) }",
}
_FUNCTIONS = (
    '<ir_version: 9, opset_import: ["" : 20, "own" : 1]>'
    "g (float[4] x) => (float[4] y) { t = own.twice(x) y = own.twice(t) }"
    '<domain: "own", opset_import: ["" : 20, "own" : 1]> twice (a) => (b) '
    "{ c = own.once(a) b = own.once(c) }"
    '<domain: "own", opset_import: ["" : 20]> once (a) => (b) '
    "{ k = Constant <value = float[1] {2}> () b = Mul(a, k) }"
)


def parsed(text: str) -> ModelProto:
    return onnx.parser.parse_model(text)


def written(path: Path, model: ModelProto) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def message(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text


def external(model: ModelProto, name: str, array: np.ndarray, **entries: object) -> TensorProto:
    """Add a weight to the model whose numbers stand in another file; `entries` say where."""
    tensor = numpy_helper.from_array(array, name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    model.graph.initializer.append(tensor)
    return model.graph.initializer[-1]


def with_raw_weights(model: ModelProto) -> ModelProto:
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    return model


SEEDS = {name: parsed(HEAD + text) for name, text in _TEXTS.items()}
SEEDS |= {
    f"{name}, raw": with_raw_weights(parsed(HEAD + _TEXTS[name])) for name in ("chain", "shapes")
}
SEEDS["functions"] = parsed(_FUNCTIONS)


def external_seed(folder: Path) -> ModelProto:
    """A model with a weight in a file, which is written to `folder`."""
    (folder / "w.bin").write_bytes(np.ones(300, np.float32).tobytes())
    model = parsed(HEAD + "g (float[300] x) => (float[300] y) { y = Add(x, w) }")
    external(model, "w", np.ones(300, np.float32), location="w.bin", offset=0, length=1200)
    return model


def mutated(model: ModelProto, rng: random.Random) -> bytes:
    """The model's file with a few bits flipped, cut, or with a field set to a hostile value."""
    data = bytearray(model.SerializeToString())
    how = rng.random()
    if how < 0.5:
        for _ in range(rng.choice((1, 1, 1, 2, 8))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(data)
    if how < 0.6:
        return bytes(data[: rng.randrange(len(data))])
    copy = ModelProto()
    copy.CopyFrom(model)
    for _ in range(rng.choice((1, 1, 2, 3))):
        _set_hostile(copy, rng)
    return bytes(copy.SerializeToString())


def _set_hostile(model: ModelProto, rng: random.Random) -> None:
    value = rng.choice(_EXTREME)
    node = rng.choice(_nodes(model))
    size = rng.choice(model.graph.input).type.tensor_type
    where = rng.randrange(8)
    if where == 0 and node.attribute:
        attr = rng.choice(node.attribute)
        attr.i = value
        attr.ints[:] = [value] * len(attr.ints)
    elif where == 1 and size.shape.dim:
        rng.choice(size.shape.dim).dim_value = value
    elif where == 2:
        size.elem_type = rng.randrange(40)
    elif where == 3 and node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice((*node.input, "", "x", "y"))
    elif where == 4:
        del node.input[rng.randrange(len(node.input) + 1) :]
    elif where == 5 and node.attribute:
        del node.attribute[rng.randrange(len(node.attribute))]
    elif where == 6 and model.graph.initializer:
        tensor = rng.choice(model.graph.initializer)
        tensor.dims[:] = [value] * len(tensor.dims)
        for entry in tensor.external_data:
            entry.value = str(rng.choice((value, "", "../w.bin", "w.bin", "\0")))
    elif where == 7:
        node.op_type = rng.choice(_nodes(model)).op_type


def _nodes(model: ModelProto) -> list[onnx.NodeProto]:
    graphs = [model.graph, *model.functions]
    graphs += [attr.g for node in model.graph.node for attr in node.attribute if attr.HasField("g")]
    return [node for graph in graphs for node in graph.node]
