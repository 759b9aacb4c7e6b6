"""Models run in segments: the same numbers, each node once, and memory that stays bounded."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ampconvert.errors import UserError
from ampconvert.verify import segments as module
from ampconvert.verify.emulate import emulate, upcast
from ampconvert.verify.runtimes import run_onnx
from ampconvert.verify.segment_cuts import Limits
from ampconvert.verify.segments import lockstep, outputs, visit

Array = np.ndarray[Any, Any]
ONE = Limits(nodes=1)  # as many segments as there can be


def model(text: str, opset: int = 21, extra: str = "") -> ir.Model:
    head = f'<ir_version: 10, opset_import: ["" : {opset}{extra}]>\n'
    return ir.from_proto(onnx.parser.parse_model(head + text))


CHAIN = """g (float16[N,16] x, float16[16,16] w) => (float16[N,16] y, float16[N,16] h)
<float16[16] b = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}> {
  h = MatMul(x, w)
  s = Add(h, b)
  p = Softmax<axis = -1>(s)
  m = Mul(p, s)
  y = Add(m, x)
}"""


def chain_feeds(batches: int = 2) -> list[dict[str, Array]]:
    rng = np.random.default_rng(1)
    return [
        {"x": rng.normal(size=(3 + i, 16)), "w": rng.normal(size=(16, 16))} for i in range(batches)
    ]


def seen(m: ir.Model, feeds: list[dict[str, Array]], names: list[str], limits: Limits) -> Any:
    found: list[dict[str, Any]] = [{} for _ in feeds]
    visit(m, feeds, names, lambda batch, name, a: found[batch].update({name: a}), limits=limits)
    return found


def same(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> None:
    assert [list(batch) for batch in left] == [list(batch) for batch in right]
    for a, b in zip(left, right, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], strict=True)


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[onnx.GraphProto]:
    """The graphs that are loaded while a test runs."""
    loaded: list[onnx.GraphProto] = []
    made = module.Session

    def load(data: bytes, *rest: Any) -> Any:
        loaded.append(onnx.load_from_string(data).graph)
        return made(data, *rest)

    monkeypatch.setattr(module, "Session", load)
    return loaded


@pytest.mark.parametrize("low", ["float16", "bfloat16"])
def test_segments_of_one_node_give_the_same_bits(low: str, sessions: list[Any]) -> None:
    m = emulate(model(CHAIN.replace("float16", low)))
    feeds = chain_feeds()
    whole = run_onnx(m, feeds)
    same(outputs(m, feeds), whole)
    assert len(sessions) == 1  # a small model pays nothing
    same(outputs(m, feeds, limits=ONE), whole)
    assert len(sessions) == 1 + len(m.graph)
    assert all(len(graph.node) == 1 for graph in sessions[1:])


def test_each_node_runs_once(sessions: list[Any]) -> None:
    """Whatever is wanted, a node is in one segment; and one that nothing needs is in none."""
    m = model(
        "g (float[2] x) => (float[2] y) { a = Neg(x) b = Exp(a) c = Add(a, b) "
        "unused = Tanh(c) y = Add(c, a) }"
    )
    seen(m, [{"x": np.ones(2)}] * 3, ["y", "b"], Limits(nodes=2))
    ran = Counter(node.op_type for graph in sessions for node in graph.node)
    assert ran == {"Neg": 1, "Exp": 1, "Add": 2}
    assert [len(graph.node) for graph in sessions] == [2, 2]
    assert [[v.name for v in graph.output] for graph in sessions] == [["a", "b"], ["y"]]


def test_what_is_wanted_comes_in_execution_order() -> None:
    m = model("g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { a = Add(x, w) y = Neg(a) }")
    order: list[tuple[int, str]] = []
    feeds = [{"x": np.ones(2, np.float32)}] * 2
    visit(m, feeds, ["y", "a", "x", "w"], lambda b, n, _: order.append((b, n)), limits=ONE)
    assert order == [*[(b, n) for b in (0, 1) for n in ("x", "w", "a")], (0, "y"), (1, "y")]
    found = seen(m, feeds, ["w", "x"], ONE)[1]  # no node runs at all
    assert found["w"].tolist() == [1, 2] and found["x"] is feeds[1]["x"]
    with pytest.raises(UserError, match="named 'q'"):
        seen(m, feeds, ["q"], ONE)


def test_values_live_until_their_last_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    m = model(
        "g (float[4] x) => (float[4] y) { a = Neg(x) b = Exp(a) c = Abs(b) d = Add(c, a) "
        "y = Neg(d) }"
    )
    alive: list[list[str]] = []
    leave = module._Passage.leave
    monkeypatch.setattr(
        module._Passage, "leave", lambda p, k: (leave(p, k), alive.append(sorted(p.kept.names)))
    )
    outputs(m, [{"x": np.ones(4)}], limits=ONE)
    assert alive == [["a"], ["a", "b"], ["a", "c"], ["d"], []]


def test_what_passes_the_limit_goes_to_files(monkeypatch: pytest.MonkeyPatch) -> None:
    filed: list[str] = []
    write = module.Kept._file
    monkeypatch.setattr(
        module.Kept, "_file", lambda k, b, n, v: (filed.append(n), write(k, b, n, v))
    )
    m, feeds = emulate(model(CHAIN)), chain_feeds()
    low = ("g (float[N] x) => (bool[N] y) {a = Cast<to = 10>(x) e = Equal(a, a) n = Not(e) "
           "y = Not(n)}")  # fmt: skip
    empty = [{"x": np.zeros(0, np.float32)}, {"x": np.ones(3, np.float32)}]
    for made, given_ in ((m, feeds), (model(low), empty)):
        filed.clear()
        same(outputs(made, given_, limits=Limits(nodes=1, kept=0)), outputs(made, given_))
        assert filed
    filed.clear()
    outputs(m, feeds, limits=Limits(nodes=1, kept=1 << 20))
    assert not filed


CROSSING = {
    "sequence": "g (float[2] x) => (float[N] y) { s = SequenceConstruct(x, x)"
    " t = SequenceInsert(s, x) n = Neg(x) i = Constant<value_int = 1>() a = SequenceAt(t, i)"
    " y = Add(a, n) }",
    "optional": "g (float[2] x) => (float[2] y) { o = Optional(x) n = Neg(x)"
    " g = OptionalGetElement(o) y = Add(g, n) }",
    "text": "g (float[2] x) => (float[2] y) { s = Cast<to = 8>(x) n = Neg(x)"
    " f = Cast<to = 1>(s) y = Add(f, n) }",
}  # fmt: skip


@pytest.mark.parametrize("name", CROSSING)
def test_no_cut_where_something_else_than_a_tensor_would_cross(
    name: str, sessions: list[Any]
) -> None:
    m = model(CROSSING[name])
    feeds = [{"x": np.array([1.5, -2], np.float32)}]
    same(outputs(m, feeds, limits=ONE), run_onnx(m, feeds))
    assert len(sessions) == 2 and sessions[1].node[0].op_type == "Add"


BODIES = """g (float[2] x, bool c) => (float[2] y, float[2] z) <float[2] w = {3, 4}> {
  h = Mul(x, x)
  k = Constant<value_floats = [5.0, 6.0]>()
  n = Neg(h)
  y = If (c) <then_branch = a () => (float[2] t) { u = Mul(h, w) t = Add(u, k) },
    else_branch = b () => (float[2] e) { e = Identity(n) }>
  trips = Constant<value = int64 {3}>()
  z = Loop (trips, , x) <body = l (int64 i, bool go, float[2] s) =>
    (bool going, float[2] t) { going = Identity(go) t = Mul(s, h) }>
}"""


@pytest.mark.parametrize("branch", [True, False])
def test_captures_of_bodies_are_reads(branch: bool) -> None:
    feeds = [{"x": np.array([2, 3], np.float32), "c": np.array(branch)}]
    same(outputs(model(BODIES), feeds, limits=ONE), run_onnx(model(BODIES), feeds))


def test_constants_stay_constants(sessions: list[Any]) -> None:
    """A shape, an axis or a scale is in every segment that reads it, and never fed."""
    m = model(
        "g (float[1,1,2,2] x) => (float[N,M] y) <float[4] f = {1, 1, 2, 2}, int64[2] s = {2, 8}> {"
        " a = Resize<mode = \"nearest\">(x, , f) b = Reshape(a, s)"
        " axes = Constant<value_ints = [0]>() u = Unsqueeze(b, axes) v = Squeeze(u, axes)"
        " y = Reshape(v, s) }"
    )  # fmt: skip
    feeds = [{"x": np.ones((1, 1, 2, 2))}]
    same(outputs(m, feeds, limits=ONE), run_onnx(m, feeds))
    assert [len(graph.input) for graph in sessions] == [1] * 5
    assert [len(graph.initializer) + len(graph.node) for graph in sessions] == [2] * 5


def chain_of_products(count: int, size: int, dtype: Any = np.float32) -> ir.Model:
    kind = ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype)))
    value = x = ir.Value(name="x", type=kind, shape=ir.Shape([1, size]))
    nodes, weights = [], []
    for i in range(count):
        data = np.full((size, size), 1 / size, dtype)
        weights.append(ir.Value(name=f"w{i}", type=kind, const_value=ir.Tensor(data)))
        nodes.append(ir.Node("", "MatMul", [value, weights[-1]], name=f"n{i}"))
        value = nodes[-1].outputs[0]
        value.name, value.type, value.shape = f"v{i}", kind, x.shape
    graph = ir.Graph([x], [value], nodes=nodes, initializers=weights, opset_imports={"": 21})
    return ir.Model(graph, ir_version=10)


def test_large_weights_are_fed_and_bound_a_segment(sessions: list[Any]) -> None:
    m = chain_of_products(6, 512)  # of 1 MiB each
    feeds = [{"x": np.ones((1, 512), np.float32)}] * 2
    found = outputs(m, feeds, limits=Limits(weights=2 << 20))
    np.testing.assert_allclose(found[1]["v5"], 1, rtol=1e-5)
    assert [len(graph.node) for graph in sessions] == [2, 2, 2]
    assert all(not graph.initializer and len(graph.input) == 3 for graph in sessions)


def test_what_is_fetched_bounds_a_segment(sessions: list[Any]) -> None:
    """By the shapes in the file, by those of the inputs, or by what ONNX infers from them."""
    text = (
        "g (float[N,256] x) => (float[M] y) { a = Exp(x) b = Neg(a) c = Abs(b) "
        "y = ReduceMax<keepdims=0>(c) }"
    )
    declared = model(text)
    for node in list(declared.graph)[:3]:
        node.outputs[0].shape = ir.Shape(["N", 256])
    feeds = [{"x": np.ones((1024, 256), np.float32)}]  # 1 MiB
    for made in (declared, model(text)):
        sessions.clear()
        seen(made, feeds, ["a", "b", "c", "y"], Limits(fetched=5 << 19))
        assert [len(graph.node) for graph in sessions] == [2, 2]


def test_data_in_files_of_their_own_is_read_and_let_go(tmp_path: Path) -> None:
    """In weights, in bodies, small and large; the tensors stay as they were."""
    m = chain_of_products(2, 512)
    body = model(BODIES)
    ir.save(m, tmp_path / "m.onnx", external_data="m.data")
    ir.save(body, tmp_path / "b.onnx", external_data="b.data", size_threshold_bytes=0)
    for name, feeds in (
        ("m", [{"x": np.ones((1, 512), np.float32)}]),
        ("b", [{"x": np.array([2, 3], np.float32), "c": np.array(True)}]),
    ):
        loaded = ir.load(tmp_path / f"{name}.onnx")
        expected = run_onnx(tmp_path / f"{name}.onnx", feeds)
        same(outputs(loaded, feeds, limits=ONE), expected)
        held = [v.const_value for v in loaded.graph.initializers.values()]
        assert held and all(isinstance(t, ir.ExternalTensor) and t.raw is None for t in held)


@pytest.mark.parametrize("limits", [ONE, Limits(nodes=4), Limits()], ids=["one", "few", "all"])
def test_lockstep_pairs_what_both_make(limits: Limits) -> None:
    m, feeds = model(CHAIN), chain_feeds()
    pairs = list(lockstep(emulate(m), upcast(m), feeds, limits=limits))
    assert Counter((batch, name) for batch, name, _, _ in pairs) == Counter(
        (batch, name) for batch in (0, 1) for name in "hspmy"
    )
    low = seen(emulate(m), feeds, list("hspmy"), Limits())
    full = seen(upcast(m), feeds, list("hspmy"), Limits())
    for batch, name, a, b in pairs:
        np.testing.assert_array_equal(a, low[batch][name])
        np.testing.assert_array_equal(b, full[batch][name])
        assert not np.array_equal(a, b)


def test_lockstep_of_models_that_differ() -> None:
    """Another order, other nodes in between: cut where both have made the same."""
    a = model("g (float[2] x) => (float[2] y) { p = Neg(x) q = Exp(x) r = Add(p, q) y = Abs(r) }")
    b = model(
        "g (float[2] x) => (float[2] y) { q = Exp(x) p = Neg(x) z = Add(q, p) r = Identity(z) "
        "k = Constant<value = float[2] {1, 2}>() y = Abs(r) }"
    )
    feeds = [{"x": np.array([1, -2], np.float32)}] * 2
    for limits in (ONE, Limits()):
        found = [(batch, name) for batch, name, v, w in lockstep(a, b, feeds, limits=limits)
                 if np.array_equal(v, w)]  # fmt: skip
        assert sorted(found) == sorted((i, n) for i in (0, 1) for n in "pqry")
    assert [n for _, n, _, _ in lockstep(a, b, feeds[:1], ["y", "k", "none"])] == ["y"]


OPERATIONS = (
    "Add({0}, {1})", "Mul({0}, {1})", "MatMul({0}, {1})", "Neg({0})", "Sigmoid({0})",
    "Softmax({0})", "Transpose<perm = [1, 0]>({0})", "Sum({0}, {1}, {0})",
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_graph_gives_the_same_bits(data: st.DataObject) -> None:
    """A random emulated graph: cut at every node, at some, and not at all."""
    made = ["x", "w"]
    lines = []
    for i in range(data.draw(st.integers(1, 8))):
        reads = [data.draw(st.sampled_from(made)) for _ in range(2)]
        lines.append(f"v{i} = {data.draw(st.sampled_from(OPERATIONS)).format(*reads)}")
        made.append(f"v{i}")
    head = f"g (float16[4,4] x, float16[4,4] w) => (float16[4,4] {made[-1]})"
    m = emulate(model(f"{head} {{ {' '.join(lines)} }}"))
    rng = np.random.default_rng(0)
    feeds = [{n: rng.normal(size=(4, 4)).astype(np.float16) for n in "xw"}]
    names = [v.name for node in m.graph for v in node.outputs if v.dtype == ir.DataType.FLOAT]
    whole = run_onnx(m, feeds)
    for limits in (ONE, Limits(nodes=data.draw(st.integers(2, 6)))):
        same(outputs(m, feeds, limits=limits), whole)
        same(seen(m, feeds, names, limits), seen(m, feeds, names, Limits()))


def test_feeds_that_do_not_fit_are_said() -> None:
    m = model("g (float[2] x, int64[2] i) => (float[2] y) { a = Neg(x) y = Abs(a) j = Neg(i) }")
    with pytest.raises(UserError, match=r"\['i'\] missing: the model takes \['i', 'x'\]"):
        outputs(m, [{"x": np.ones(2)}], limits=ONE)
    feed = {"x": np.ones(3, np.float32), "i": np.ones(2, np.int64)}
    with pytest.raises(UserError, match=r"could not run the model: .*invalid dimensions"):
        outputs(m, [feed], limits=ONE)
    text = "g (seq(float[2]) s) => (float[N] y) { y = ConcatFromSequence<axis = 0>(s) }"
    with pytest.raises(UserError, match=r"input 's' is a ndarray, the model takes seq"):
        outputs(model(text), [{"s": np.ones((2, 2))}])
    text = "g (int4[2] x) => (float[2] y) { y = Cast<to = 1>(x) }"
    with pytest.raises(UserError, match=r"input 'x': ONNX Runtime takes no tensor\(int4\)"):
        outputs(model(text), [{"x": np.ones(2, np.int8)}])


MEASURE = """
import sys
from pathlib import Path
import numpy as np, onnx_ir as ir
from ampconvert.verify.emulate import emulate, upcast
from ampconvert.verify.segment_cuts import Limits
from ampconvert.verify.segments import outputs, lockstep
# Not resource.ru_maxrss: a child starts with its parent's.
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM"))
m = ir.load(sys.argv[1])
feeds = [{"x": np.ones((1, 2048), np.float32)}] * 2
limits = Limits(weights=64 << 20)
outputs(ir.load(sys.argv[2]), [{"x": np.ones((1, 512), np.float32)}], limits=limits)
before = peak()
found = outputs(upcast(m), feeds, limits=limits)
for _ in lockstep(emulate(m), upcast(m), feeds, limits=limits): pass
np.testing.assert_allclose(found[1][m.graph.outputs[0].name], 1, rtol=1e-3)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's memory figures")
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_memory_does_not_grow_with_the_weights(dtype: type, tmp_path: Path) -> None:
    """400 MB of float32 weights, stored as they are or in float16, in segments of 64 MB."""
    ir.save(chain_of_products(25, 2048, dtype), tmp_path / "m.onnx", external_data="m.data")
    ir.save(chain_of_products(2, 512), tmp_path / "small.onnx")
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path / "m.onnx", tmp_path / "small.onnx"],
        capture_output=True, text=True, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert 0 < int(run.stdout) < 130  # MiB: a segment, and one weight while it is read
