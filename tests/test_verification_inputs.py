"""Inputs for ONNX models: random ones that the model can take, and ones from files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import parser

from ampconvert.errors import UserError
from ampconvert.verification_inputs import declared_inputs, onnx_feeds, random_feeds
from ampconvert.verify.runtimes import session

HEAD = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1, "local" : 1]>\n'
Feeds = list[dict[str, Any]]
PATH = Path("m.onnx")

# A model, and what must hold of its four random batches.
CASES: dict[str, tuple[str, Callable[[Feeds], object]]] = {
    "ids of a table": (
        "g (int64[N,6] ids) => (float[N,6,2] y) <float[30,2] w> { y = Gather(w, ids) }",
        lambda fs: all(f["ids"].min() >= 0 and f["ids"].max() < 30 for f in fs)
        and max(f["ids"].max() for f in fs) > 1,
    ),
    "ids on the way to a table on axis 1": (
        """g (int32[4] ids) => (float[2,4] y) <float[2,9] w> {
             a = Cast<to = 7>(ids) b = Identity(a) ax = Constant<value_ints = [0]>()
             c = Unsqueeze(b, ax) d = Squeeze(c, ax) y = Gather<axis = 1>(w, d) }""",
        lambda fs: max(f["ids"].max() for f in fs) in range(2, 9),
    ),
    "positions with an offset": (
        """g (int64[64] pos) => (float[64,2] y) <float[12,2] w, int64 two = {2}> {
             p = Add(pos, two) y = Gather(w, p) }""",
        lambda fs: max(f["pos"].max() for f in fs) in range(2, 10),
    ),
    "the smaller of two tables": (
        """g (int64[64] ids) => (float[64,2] y) <float[9,2] a, float[5,2] b> {
             p = Gather(a, ids) q = Gather(b, ids) y = Add(p, q) }""",
        lambda fs: max(f["ids"].max() for f in fs) in range(2, 5),
    ),
    "ids of a dynamic table": (
        "g (float[R,2] table, int64[40] ids) => (float[40,2] y) { y = Gather(table, ids) }",
        lambda fs: max(f["ids"].max() for f in fs) == len(fs[0]["table"]) - 1,
    ),
    "ids inside a branch": (
        """g (bool c, int64[4] ids) => (float[4,2] y) <float[7,2] w> {
             y = If(c) <then_branch = t () => (float[4,2] a) { a = Gather(w, ids) },
                        else_branch = e () => (float[4,2] b) { b = Gather(w, ids) }> }""",
        lambda fs: max(f["ids"].max() for f in fs) in range(2, 7),
    ),
    "both branches run": (
        """g (bool c, float[2] x) => (float[2] y) {
             y = If(c) <then_branch = t () => (float[2] a) { a = Neg(x) },
                        else_branch = e () => (float[2] b) { b = Abs(x) }> }""",
        lambda fs: [bool(f["c"]) for f in fs] == [True, False, True, False],
    ),
    "a loop turns a few times": (
        """g (int64 n, bool go, float[2] x) => (float[2] y) {
             y = Loop(n, go, x) <body = b (int64 i, bool c, float[2] s) => (bool d, float[2] t) {
               d = Identity(c) t = Neg(s) }> }""",
        lambda fs: all(int(f["n"]) == 3 and bool(f["go"]) for f in fs),
    ),
    "a number that is compared": (
        """g (int64 rate) => (bool y) <int64 wide = {16000}> { y = Equal(rate, wide) }""",
        lambda fs: [int(f["rate"]) for f in fs] == [16000, 0, 16000, 0],
    ),
    "a divisor is not zero": (
        "g (int64[8] a, int64[8] b) => (int64[8] y) { y = Div(a, b) }",
        lambda fs: all(f["b"].all() for f in fs),
    ),
    "one name, one size": (
        "g (float[B,T,3] x, float[T,B] z, int64[T] k) => (float[B,T,3] y) { y = Neg(x) }",
        lambda fs: fs[0]["x"].shape[:2] == fs[0]["z"].shape[::-1]
        and fs[0]["k"].shape == fs[0]["x"].shape[1:2],
    ),
    "channels by the weight": (
        "g (float[B,C,H,W] x) => (float[B,8,H,W] y) <float[8,5,1,1] w> { y = Conv(x, w) }",
        lambda fs: fs[0]["x"].shape == (2, 5, 64, 64),
    ),
    "width by the weight": (
        "g (float[B,T,F] x) => (float[B,T,3] y) <float[11,3] w> { y = MatMul(x, w) }",
        lambda fs: fs[0]["x"].shape == (2, 16, 11),
    ),
    "masks": (
        """g (int64[2,4] attention_mask, bool[2,4] key_padding_mask, float[2,4] x)
             => (float[2,4] y) { y = Neg(x) }""",
        lambda fs: all(f["attention_mask"].all() for f in fs)
        and not any(f["key_padding_mask"].any() for f in fs),
    ),
    "lengths": (
        "g (float[batch,time,3] x, int64[batch] x_lens) => (float[batch,time,3] y) { y = Neg(x) }",
        lambda fs: all((f["x_lens"] == f["x"].shape[1]).all() for f in fs),
    ),
    "lengths of a recurrent cell": (
        """g (float[5,2,3] x, int32[2] n) => (float[5,1,2,4] y) <float[1,16,3] w, float[1,16,4] r> {
             y, h, c = LSTM<hidden_size = 4>(x, w, r, , n) }""",
        lambda fs: all((f["n"] >= 1).all() and (f["n"] <= 5).all() for f in fs),
    ),
    "pictures of bytes": (
        "g (uint8[N,8,8,3] image) => (float[N,8,8,3] y) { y = Cast<to = 1>(image) }",
        lambda fs: fs[0]["image"].dtype == np.uint8 and fs[0]["image"].max() > 200,
    ),
    "other float types": (
        """g (float16[2] a, bfloat16[2] b, double[2] c) => (float[2] x, float[2] y, float[2] z) {
             x = Cast<to = 1>(a) y = Cast<to = 1>(b) z = Cast<to = 1>(c) }""",
        lambda fs: [str(a.dtype) for a in fs[0].values()] == ["float16", "bfloat16", "float64"],
    ),
    "strings": (
        'g (string[3] s) => (bool[3] y) <string[1] a = {"a"}> { y = Equal(s, a) }',
        lambda fs: fs[0]["s"].dtype == object and fs[0]["s"].shape == (3,),
    ),
    "a sequence": (
        """g (seq(float[2,3]) s) => (float[2,3] y) <int64 first = {0}> {
             y = SequenceAt(s, first) }""",
        lambda fs: len(fs[0]["s"]) == 3 and fs[0]["s"][0].shape == (2, 3),
    ),
    "a logarithm": (
        "g (float[9] x) => (float[9] y) { y = Log(x) }",
        lambda fs: min(f["x"].min() for f in fs) > 0,
    ),
    "a variance": (
        """g (float[2,3] x, float[3] var) => (float[2,3] y)
             <float[3] s = {1,1,1}, float[3] b = {0,0,0}> {
             y = BatchNormalization(x, s, b, b, var) }""",
        lambda fs: min(f["var"].min() for f in fs) > 0,
    ),
    "a default value needs no input": (
        "g (float[2] x, float[2] w = {1, 2}) => (float[2] y) { y = Mul(x, w) }",
        lambda fs: list(fs[0]) == ["x"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_random_inputs_are_ones_that_the_model_takes(name: str) -> None:
    body, holds = CASES[name]
    proto = model(body)
    feeds, subject = onnx_feeds(PATH, declared_inputs(ir.from_proto(proto)), (), None, None, 0)
    assert len(feeds) == 4 and subject.inputs_random
    assert holds(feeds), feeds
    with session(proto) as opened:
        for feed in feeds:
            opened.run(feed)


def test_ids_inside_a_function_are_seen() -> None:
    proto = model(
        "g (int64[50] ids) => (float[50,2] y) <float[7,2] w> { y = local.rows(w, ids) }\n"
        '<domain: "local", opset_import: ["" : 21]>\n'
        "rows (table, i) => (r) { k = Identity(i) r = Gather(table, k) }"
    )
    (ids,) = declared_inputs(ir.from_proto(proto))
    assert ids.reading.below == [7]
    for feed in random_feeds(ir.from_proto(proto), "m"):
        assert feed["ids"].max() < 7


@pytest.mark.parametrize(
    ("dims", "sizes"),
    [
        (("past", "seq", "past + seq"), (16, 16, 32)),
        (("past + 1", "past", "past"), (17, 16, 16)),
        (("past_sequence_length", "sequence_length", "total_sequence_length"), (16, 16, 32)),
        (("batch-size", "size", "x"), (2, 16, 16)),
    ],
)
def test_sizes_that_are_sums_of_others(dims: Sequence[str], sizes: Sequence[int]) -> None:
    proto = model("g (float[2,2] a) => (float[2,2] b) { b = Neg(a) }")
    proto.graph.input.pop()
    proto.graph.output[0].name = proto.graph.node[0].output[0] = "y"
    for name, dim in zip("abc", dims, strict=True):
        info = onnx.helper.make_tensor_value_info(name, 1, [3, dim])
        proto.graph.input.append(info)
    inputs = declared_inputs(ir.from_proto(proto))
    (feed, *_), _ = onnx_feeds(PATH, inputs, (), None, None, 0)
    assert tuple(feed[name].shape[1] for name in "abc") == tuple(sizes)


def test_seeds_give_other_numbers_and_the_same_ones_again() -> None:
    inputs = declared_inputs(ir.from_proto(model("g (float[9] x) => (float[9] y) { y = Neg(x) }")))

    def first(seed: int) -> list[float]:
        return list(onnx_feeds(PATH, inputs, (), None, None, seed)[0][0]["x"])

    assert first(0) == first(0) != first(1)


def test_specs_say_what_the_declaration_leaves_open() -> None:
    proto = model("g (float[N,4] x, int64[N,3] k) => (float[N,4] y) { y = Neg(x) }")
    proto.graph.input[0].name = proto.graph.node[0].input[0] = "serving/x:0"
    inputs = declared_inputs(ir.from_proto(proto))
    specs = ["serving/x:0:5x4:0..1", "k:int64:n=5,3:7..8"]
    feeds, _ = onnx_feeds(PATH, inputs, specs, None, None, 0)
    assert feeds[0]["serving/x:0"].shape == (5, 4) and feeds[0]["serving/x:0"].min() >= 0
    assert feeds[0]["k"].shape == (5, 3) and set(feeds[0]["k"].reshape(-1)) <= {7, 8}
    feeds, _ = onnx_feeds(PATH, inputs, ["k:9x3"], None, None, 0)
    assert feeds[0]["serving/x:0"].shape == (9, 4)  # the same N


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("q:2x4", "m.onnx has no input 'q'; its inputs are x, k"),
        ("x:2x5", "the model takes float32 Nx4"),
        ("x:4", "the model takes float32 Nx4"),
        ("k:int32:2x3", "the model takes int64 Nx3"),
        ("x:float32:2x4x", "has an empty dimension"),
        ("x", "has no SHAPE"),
    ],
)
def test_specs_that_do_not_fit(spec: str, said: str) -> None:
    proto = model("g (float[N,4] x, int64[N,3] k) => (float[N,4] y) { y = Neg(x) }")
    with pytest.raises(UserError) as caught:
        onnx_feeds(PATH, declared_inputs(ir.from_proto(proto)), [spec], None, None, 0)
    assert said in str(caught.value)


def test_files_hold_sequences_and_text(tmp_path: Path) -> None:
    proto = model(
        "g (seq(float[2]) s, string[2] t) => (float[2] y) <int64 i = {0}> { y = SequenceAt(s, i) }"
    )
    inputs = declared_inputs(ir.from_proto(proto))
    path = tmp_path / "a.npz"
    np.savez(path, t=np.array(["a", "b"]), **{f"s.{i}": np.full(2, i, np.float32) for i in (0, 1)})
    (feed,), subject = onnx_feeds(PATH, inputs, (), path, None, 0)
    assert [a.tolist() for a in feed["s"]] == [[0, 0], [1, 1]] and not subject.inputs_random
    with session(proto) as opened:
        assert opened.run(feed)["y"].tolist() == [0, 0]
    np.savez(path, t=np.array(["a", "b"]), s=np.zeros((3, 5), np.float32))
    with pytest.raises(UserError, match="s is float32"):
        onnx_feeds(PATH, inputs, (), path, None, 0)


def test_a_type_that_no_array_has_is_refused() -> None:
    proto = model("g (seq(float[2]) s) => (float[2] y) <int64 i = {0}> { y = SequenceAt(s, i) }")
    kind = proto.graph.input[0].type
    inner = onnx.TypeProto()
    inner.CopyFrom(kind)
    kind.sequence_type.elem_type.CopyFrom(inner)
    with pytest.raises(UserError, match="input s: inputs of type"):
        declared_inputs(ir.from_proto(proto))


WIDE = 'g (float[B,T] x) => (float[B,T] y) <int64[4] p = {0,100,0,100}> { y = Pad<mode = "reflect">(x, p) }'  # noqa: E501


def test_larger_sizes_are_tried_where_small_ones_fail() -> None:
    feeds = random_feeds(ir.from_proto(model(WIDE)), "m")
    assert feeds[0]["x"].shape == (1, 512) and len(feeds) == 4


def test_a_branch_that_fails_is_left_out() -> None:
    body = """g (bool c, float[2,3] x, int64[2] s) => (float[r,q] y) {
        y = If(c) <then_branch = t () => (float[a,b] u) { u = Neg(x) },
                   else_branch = e () => (float[f,h] v) {
                     k = Constant<value_ints = [4, 4]>() v = Reshape(x, k) }> }"""
    feeds = random_feeds(ir.from_proto(model(body)), "m")
    assert [bool(f["c"]) for f in feeds] == [True, True]


def test_an_error_says_which_input_to_give() -> None:
    body = """g (float[B,3] x, int64[2] shape) => (float[a,b] y) <int64[2] seven = {7, 7}> {
        k = Mul(shape, seven) s = Add(k, seven) y = Reshape(x, s) }"""
    with pytest.raises(UserError) as caught:
        random_feeds(ir.from_proto(model(body)), "net.onnx")
    text = str(caught.value)
    assert text.startswith("net.onnx: the FP32 model does not run on random inputs: ")
    assert "--input 'x:float32:2x3' --input 'shape:int64:2:" in text and "--inputs" in text


def test_a_model_that_does_not_load_is_not_blamed_on_its_inputs() -> None:
    body = "g (float[B] x) => (float[B] y) { y = com.microsoft.Nonesuch(x) }"
    with pytest.raises(UserError) as caught:
        random_feeds(ir.from_proto(model(body)), "m")
    assert "could not load" in str(caught.value) and "--input" not in str(caught.value)


def test_fixed_floats_need_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the model was run")

    monkeypatch.setattr("ampconvert.verify.runtimes.session", fail)
    feeds = random_feeds(ir.from_proto(model("g (float[3] x) => (float[3] y) { y = Neg(x) }")), "m")
    assert len(feeds) == 4


def model(body: str) -> onnx.ModelProto:
    """The model of this text; weights that it gives no numbers are zeros."""
    proto = parser.parse_model(HEAD + body)
    made = {name for node in proto.graph.node for name in node.output}
    for value in proto.graph.value_info:
        if value.name not in made:
            dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
            zeros = onnx.numpy_helper.from_array(np.zeros(dims, np.float32), value.name)
            proto.graph.initializer.append(zeros)
    return proto
