"""The emulated model rounds where the converted model stores, and nowhere else."""

from __future__ import annotations

import cProfile
from collections.abc import Iterator

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

from ampconvert.errors import UserError
from ampconvert.verify.emulate import emulate, first_bad, tensor_errors, upcast
from ampconvert.verify.runtimes import run_onnx

LOW = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
CODES = {"float16": 10, "bfloat16": 16}


def model(text: str, opset: int = 21, extra: str = "") -> ir.Model:
    head = f'<ir_version: 10, opset_import: ["" : {opset}{extra}]>\n'
    return ir.from_proto(onnx.parser.parse_model(head + text))


def checked(m: ir.Model) -> ir.Model:
    """`m`, valid in full, and with low types on nothing but the middle of a pair of casts."""
    onnx.checker.check_model(ir.to_proto(m), full_check=True)
    for node in m.graph.all_nodes():
        low = [v for v in (*node.inputs, *node.outputs) if v is not None and is_low(v)]
        assert not low or node.op_type in ("Cast", "BitCast"), node
    boundary = [*m.graph.inputs, *m.graph.outputs, *m.graph.initializers.values()]
    assert not any(is_low(v) for v in boundary)
    return m


def is_low(value: ir.Value) -> bool:
    return value.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def answers(m: ir.Model, **feed: np.ndarray) -> dict[str, np.ndarray]:
    return run_onnx(checked(m), [feed])[0]


def floats(size: int, spread: float = 9.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    x = rng.normal(size=size) * 10.0 ** rng.uniform(-spread, spread / 2, size)
    edges = [70000, 65519, 65520, -65520, 6e-8, 2.9e-8, 3.38e38, 3.4e38, np.inf, -np.inf, np.nan, 0]
    return np.concatenate([edges, x]).astype(np.float32)


def rounded(x: np.ndarray, low: str) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        return x.astype(LOW[low]).astype(np.float32)


@pytest.mark.parametrize("low", LOW)
@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_ALL"])
def test_every_store_rounds_as_the_type_does(low: str, level: str) -> None:
    """And ONNX Runtime keeps the pairs of casts, however much it optimises."""
    m = model(f"g ({low}[N] x) => ({low}[N] y) {{ h = Neg(x) y = Neg(h) }}")
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    proto = ir.to_proto(checked(emulate(m)))
    x = floats(10_000)
    (y,) = ort.InferenceSession(proto.SerializeToString(), options).run(None, {"x": x})
    np.testing.assert_array_equal(y, rounded(x, low))


def test_overflow_is_an_infinity() -> None:
    m = model("g (float[N] x) => (float16[N] y) { y = Cast<to = 10>(x) }")
    y = answers(emulate(m), x=np.array([70000, 65519, 65520, -65520], np.float32))["y"]
    np.testing.assert_array_equal(y, np.array([np.inf, 65504, np.inf, -np.inf], np.float32))


@pytest.mark.parametrize("source", ["int32", "double", "float", "bfloat16"])
def test_a_cast_to_low_is_kept_and_rounds(source: str) -> None:
    m = model(f"g ({source}[N] x) => (float[N] y) {{ h = Cast<to = 10>(x) y = Cast<to = 1>(h) }}")
    kind = {"int32": np.int32, "double": np.float64}.get(source, np.float32)
    x = np.array([70000, 2049, 3, -5]).astype(kind)
    got = answers(emulate(m), x=x)["y"]  # 2049 is half way between two neighbours: to the even one
    np.testing.assert_array_equal(got, np.array([np.inf, 2048, 3, -5], np.float32))
    assert [n.op_type for n in upcast(m).graph] == ["Cast", "Identity"]
    np.testing.assert_array_equal(answers(upcast(m), x=x)["y"], x.astype(np.float32))


CHAIN = """g (float16[4,16] x, float16[16,16] w, float16[16] b) => (float16[4,16] y) {
  h = MatMul(x, w)
  s = Add(h, b)
  p = Softmax<axis = -1>(s)
  m = Mul(p, s)
  y = Add(m, x)
}"""


def chain_feed() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    shapes = {"x": (4, 16), "w": (16, 16), "b": (16,)}
    return {k: rng.normal(size=s).astype(np.float16) for k, s in shapes.items()}


def ulps(a: np.ndarray, b: np.ndarray) -> float:
    """Largest distance in units of the last place of float16 numbers around 1."""
    return float(
        np.max(np.abs(a.astype(float) - b.astype(float)) / np.maximum(np.abs(b), 1)) * 2**10
    )


def test_agrees_with_onnx_reference_in_numpy_float16() -> None:
    """NumPy rounds after each operator (inside Softmax after each step): equal to a few ulps."""
    m, feed = model(CHAIN), chain_feed()
    (expected,) = ReferenceEvaluator(ir.to_proto(m)).run(None, feed)
    got = answers(emulate(m), **feed)["y"]
    assert ulps(got, expected) <= 4
    full = answers(upcast(m), **feed)["y"]
    assert np.abs(got - full).max() > 1e-4  # it did round


@pytest.mark.parametrize("low", LOW)
def test_agrees_with_torch_on_the_cpu(low: str) -> None:
    torch = pytest.importorskip("torch")
    feed = chain_feed()
    x, w, b = (torch.tensor(v.astype(np.float32)).to(getattr(torch, low)) for v in feed.values())
    s = x @ w + b
    expected = (torch.softmax(s, -1) * s + x).float().numpy()
    m = model(CHAIN.replace("float16", low))
    got = answers(emulate(m), **feed)["y"]
    assert ulps(got, expected) <= (4 if low == "float16" else 32)  # bfloat16's are 8 times larger
    assert np.mean(got == expected) > 0.9


def test_mixed_types_keep_each_their_own() -> None:
    m = model(
        "g (float[N] x) => (float[N] y, float[N] z) { h = Cast<to = 10>(x) b = Cast<to = 16>(x) "
        "y = Cast<to = 1>(h) z = Cast<to = 1>(b) }"
    )
    x = floats(1000)
    got = answers(emulate(m), x=x)
    np.testing.assert_array_equal(got["y"], rounded(x, "float16"))
    np.testing.assert_array_equal(got["z"], rounded(x, "bfloat16"))
    only = answers(emulate(m, "bfloat16"), x=x)
    np.testing.assert_array_equal(only["y"], x)
    np.testing.assert_array_equal(only["z"], rounded(x, "bfloat16"))


def test_rounded_values_keep_their_names_and_the_original_is_untouched() -> None:
    m = model(CHAIN)
    before = ir.to_proto(m).SerializeToString()
    made, plain = emulate(m), upcast(m)
    assert ir.to_proto(m).SerializeToString() == before
    producers = {v.name: node.op_type for node in made.graph for v in node.outputs}
    assert all(producers[name] == "Cast" for name in "hspmy")
    assert producers["h/unrounded"] == "MatMul"
    assert [v.name for v in made.graph.inputs] == ["x", "w", "b"]
    assert [v.name for node in plain.graph for v in node.outputs] == list("hspmy")


def test_weights_become_float32_exactly_and_are_not_copied() -> None:
    weight = np.arange(6, dtype=np.float16).reshape(2, 3) / 3
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT16), shape=ir.Shape([1, 2]))
    y = ir.Value(name="y", type=ir.TensorType(ir.DataType.FLOAT16), shape=ir.Shape([1, 3]))
    w = ir.Value(name="w", const_value=ir.Tensor(weight, name="w"))
    node = ir.Node("", "MatMul", [x, w], outputs=[y])
    graph = ir.Graph([x], [y], nodes=[node], initializers=[w], opset_imports={"": 21}, name="g")
    made = emulate(ir.Model(graph, ir_version=10))
    (made_w,) = made.graph.initializers.values()
    assert made_w.dtype == ir.DataType.FLOAT and isinstance(made_w.const_value, ir.LazyTensor)
    np.testing.assert_array_equal(made_w.const_value.numpy(), weight.astype(np.float32))
    got = answers(made, x=np.eye(2, dtype=np.float32)[:1])["y"]
    np.testing.assert_array_equal(got, weight[:1].astype(np.float32))
    assert w.const_value is not None and w.const_value.dtype == ir.DataType.FLOAT16


CONTROL = {
    "if with a captured name": (
        """g (float16[2] x, bool c) => (float16[2] y) {
          h = Mul(x, x)
          y = If (c) <
            then_branch = a () => (float16[2] t) { t = Mul(h, x) },
            else_branch = b () => (float16[2] e) { e = Identity(h) }> }""",
        {"x": np.array([7.1, 300.0], np.float32), "c": np.array(True)},
        lambda r, x, c: r(r(r(x) * r(x)) * r(x)),
    ),
    "loop with state": (
        """g (float16[2] x) => (float16[2] y) <int64 n = {3}> {
          y = Loop (n, , x) <body = b (int64 i, bool go, float16[2] s) =>
            (bool going, float16[2] t) { going = Identity(go) t = Mul(s, x) }> }""",
        {"x": np.array([1.1, 30.0], np.float32)},
        lambda r, x: r(r(r(r(x) * r(x)) * r(x)) * r(x)),
    ),
    "scan": (
        """g (float16[3,2] x, float16[2] z) => (float16[2] y, float16[3,2] all) {
          y, all = Scan <num_scan_inputs = 1, body = b (float16[2] s, float16[2] e) =>
            (float16[2] t, float16[2] u) { t = Add(s, e) u = Identity(t) }> (z, x) }""",
        {"x": np.array([[2048, 1], [1, 2], [1, 3]], np.float32), "z": np.zeros(2, np.float32)},
        lambda r, x, z: r(r(r(z) + r(x[0])) + x[1]) + x[2] * [0, 1],  # 2048 + 1 stays 2048
    ),
}


@pytest.mark.parametrize("name", CONTROL)
def test_bodies_round_too(name: str) -> None:
    text, feed, expected = CONTROL[name]
    with np.errstate(over="ignore"):
        wanted = expected(lambda v: rounded(v, "float16"), **feed)
    np.testing.assert_array_equal(answers(emulate(model(text)), **feed)["y"], wanted)
    checked(upcast(model(text)))


def test_functions_are_inlined() -> None:
    m = model(
        """g (float16[2] x) => (float16[2] y) { y = f.Cube(x) }
        <domain: "f", opset_import: ["" : 21]> Cube (a) => (c) { b = Mul(a, a) c = Mul(b, a) }""",
        extra=', "f" : 1',
    )
    made = emulate(m)
    assert not made.functions and len(m.functions) == 1
    x = np.array([1.1, 41.0], np.float32)
    with np.errstate(over="ignore"):
        h = rounded(x, "float16")
        expected = rounded(rounded(h * h, "float16") * h, "float16")
    np.testing.assert_array_equal(answers(made, x=x)["y"], expected)
    assert expected[1] == np.inf


BODIES = {
    "CastLike": "g (float[2] x, float16[2] z) => (float[2] y) {"
    " h = CastLike(x, z) y = CastLike(h, x) }",
    "CastLike int": "g (float16[2] x, int64[2] z) => (int64[2] y) { y = CastLike(x, z) }",
    "like": "g (float16[2] x) => (float16[2] y) {"
    " y = RandomNormalLike<dtype = 10, seed = 1.0>(x) }",
    "random": "g (float16[2] x) => (float16[2] y) {"
    " r = RandomUniform<dtype = 10, shape = [2], seed = 1.0>() y = Add(x, r) }",
    "eye": "g (float16[2,2] x) => (float16[2,2] y) { y = EyeLike<dtype = 10>(x) }",
    "fill": "g (int64[1] s) => (float16[N] y) {"
    " y = ConstantOfShape<value = float16[1] {15360}>(s) }",
    "constant": "g (float16[1] x) => (float16[1] y) {"
    " c = Constant<value = float16[1] {15872}>() y = Add(x, c) }",
    "window": "g (int64 n) => (float16[N] y) { y = HannWindow<output_datatype = 10>(n) }",
    "sequence": "g (float16[2] x) => (float16[M] y) { i = Constant<value = int64 {0}>()"
    " e = SequenceEmpty<dtype = 10>() s = SequenceInsert(e, x) y = SequenceAt(s, i) }",
    "sequence of": "g (float16[2] x) => (float16[M] y) {"
    " s = SequenceConstruct(x, x) y = ConcatFromSequence<axis = 0>(s) }",
    "topk": "g (float16[4] x, int64[1] k) => (float16[N] y, int64[N] i) { y, i = TopK(x, k) }",
    "norm": "g (float16[2,4] x, float16[4] w) => (float16[2,4] y) {"
    " y = LayerNormalization<stash_type = 1>(x, w) }",
    "dequantize": "g (int8[4] x, float16 s) => (float16[4] y) { y = DequantizeLinear(x, s) }",
    "optional out": "g (float16[2,4] x) => (float16[2,4] y) { y, = Dropout(x) }",
    "output twice read": "g (float16[2] x) => (float16[2] h, float16[2] y) {"
    " h = Exp(x) y = Add(h, h) }",
}


@pytest.mark.parametrize("name", BODIES)
def test_operators_with_a_type_of_their_own(name: str) -> None:
    """Each gives a valid float32 model that loads and runs, with and without rounding."""
    m = model(BODIES[name])
    for made in (emulate(m), upcast(m)):
        feed = {}
        for value in made.graph.inputs:
            shape = [d if isinstance(d, int) else 2 for d in value.shape or ()]
            kind = np.float32 if value.dtype == ir.DataType.FLOAT else value.dtype.numpy()
            feed[value.name] = np.full(shape, 2).astype(kind)
        results = answers(made, **feed)
        assert [v.name for v in made.graph.outputs] == list(results)
        assert all(np.isfinite(v).all() for v in results.values())


def test_constants_keep_their_numbers() -> None:
    fill = answers(emulate(model(BODIES["fill"])), s=np.array([3]))["y"]
    np.testing.assert_array_equal(fill, np.ones(3, np.float32))
    add = answers(emulate(model(BODIES["constant"])), x=np.zeros(1, np.float32))["y"]
    np.testing.assert_array_equal(add, np.array([1.5], np.float32))


def test_bits_are_those_of_the_low_type() -> None:
    if onnx.defs.onnx_opset_version() < 26:
        pytest.skip("BitCast came with opset 26")
    m = model("g (float16[N] x) => (int16[N] y) { y = BitCast<to = 5>(x) }", opset=26)
    made = checked(emulate(m))
    (y,) = ReferenceEvaluator(ir.to_proto(made)).run(None, {"x": np.array([1.0, 2.0], np.float32)})
    np.testing.assert_array_equal(y, np.array([0x3C00, 0x4000]))


def test_operators_of_other_domains_round_by_the_runtimes_schema() -> None:
    """EmbedLayerNormalization's second output is an int32 index, though its weights are float16."""
    m = model(
        "g (float16[2,4] x, float16[4] s) => (float16[2,4] y) {"
        " h = com.microsoft.Gelu(x) y = com.microsoft.SkipLayerNormalization(h, x, s) }",
        extra=', "com.microsoft" : 1',
    )
    x = np.linspace(-3, 3, 8, dtype=np.float32).reshape(2, 4)
    made = emulate(m)
    got = answers(made, x=x, s=np.ones(4, np.float32))["y"]
    np.testing.assert_array_equal(got, rounded(got, "float16"))
    embed = model(
        "g (int32[1,2] ids, float16[8,4] w, float16[8,4] p, float16[4] s, float16[4] b)"
        " => (float16[1,2,4] y, int32[1] i) {"
        " y, i = com.microsoft.EmbedLayerNormalization(ids, , w, p, , s, b) z = Neg(i) }",
        extra=', "com.microsoft" : 1',
    )
    made = checked(emulate(embed))
    kinds = {v.name: v.dtype for node in made.graph for v in node.outputs}
    assert kinds["i"] == kinds["z"] == ir.DataType.INT32 and kinds["y"] == ir.DataType.FLOAT


def test_an_opset_without_the_casts_is_refused() -> None:
    m = model("g (bfloat16[N] x) => (bfloat16[N] y) { y = Identity(x) }", opset=12)
    with pytest.raises(UserError, match="opset is 12, and parity needs 13"):
        emulate(m)


SQUARES = """g (float[1,4] x, float16[1,4] mask) => (float[1,4] y) {
  h = Cast<to = 10>(x)
  masked = Add(mask, mask)
  [square] sq = Mul(h, h)
  mean = ReduceMean<keepdims = 1>(sq)
  root = Sqrt(mean)
  d = Div(h, root)
  y = Cast<to = 1>(d)
}"""


def test_the_first_bad_tensor_is_named() -> None:
    m = model(SQUARES)
    m.graph.node("square").metadata_props["ampconvert.node"] = "pow_1"
    small = {"x": np.ones((1, 4), np.float32), "mask": np.full((1, 4), -np.inf, np.float32)}
    large = small | {"x": np.array([[1, 2, 300, 400]], np.float32)}
    assert first_bad(emulate(m), upcast(m), [small]) is None  # an infinite mask is no fault
    bad = first_bad(emulate(m), upcast(m), [small, large])
    assert bad is not None
    assert (bad.tensor, bad.node, bad.op) == ("sq", "square", "Mul")
    assert (bad.absmax, bad.bad, bad.total, bad.batch) == (160000.0, 2, 4, 1)
    assert bad.metadata["ampconvert.node"] == "pow_1"


def test_a_cast_that_overflows_carries_its_readers_metadata() -> None:
    m = model(SQUARES)
    m.graph.node("square").metadata_props["ampconvert.node"] = "pow_1"
    feed = {"x": np.full((1, 4), 7e4, np.float32), "mask": np.zeros((1, 4), np.float32)}
    bad = first_bad(emulate(m), upcast(m), [feed])
    assert bad is not None and (bad.tensor, bad.op) == ("h", "Cast")
    assert bad.metadata["ampconvert.node"] == "pow_1"


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_errors_of_every_tensor(chunk: int) -> None:
    m, feed = model(CHAIN), chain_feed()
    found = tensor_errors(emulate(m), upcast(m), [feed, feed], chunk=chunk)
    assert [e.tensor for e in found] == list("hspmy")
    assert all(0 < e.rel_l2 < 20 * 2**-11 for e in found)
    expected = feed["x"].astype(np.float32) @ feed["w"].astype(np.float32)
    assert found[0].absmax == pytest.approx(np.abs(expected).max()) and found[0].op == "MatMul"
    (one,) = tensor_errors(emulate(m), upcast(m), [feed], ["p"])
    assert one.tensor == "p" and one.rel_l2 == found[2].rel_l2


def long_chain(length: int) -> ir.Model:
    def nodes(value: ir.Value) -> Iterator[ir.Node]:
        for i in range(length):
            node = ir.Node("", ["Relu", "Neg", "Exp"][i % 3], [value], name=f"n{i}")
            value = node.outputs[0]
            value.name = f"v{i}"
            yield node

    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT16), shape=ir.Shape([2]))
    made = list(nodes(x))
    last = made[-1].outputs[0]
    graph = ir.Graph([x], [last], nodes=made, opset_imports={"": 21}, name="g")
    return ir.Model(graph, ir_version=10)


@pytest.mark.slow
def test_twenty_thousand_nodes() -> None:
    assert len(emulate(long_chain(20_000)).graph) == 60_002


def test_work_grows_with_the_number_of_nodes() -> None:
    """Function calls, which no other load on the machine changes, not seconds."""

    def calls(length: int) -> int:
        profile = cProfile.Profile()
        profile.runcall(emulate, long_chain(length))
        return sum(entry.callcount for entry in profile.getstats())

    calls(10)
    assert calls(800) < 9 * calls(100)


def test_a_name_made_up_for_a_node_is_no_other_nodes() -> None:
    m = emulate(model("g (float16[2] x) => (float16[2] y) { v = Abs(x) [v] y = Neg(v) }"))
    names = [node.name for node in m.graph]
    assert len(names) == len(set(names))
