"""Running ONNX models, and verdicts on them that the CPU provider alone would get wrong."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from ampconvert.errors import UserError
from ampconvert.verify import runtimes
from ampconvert.verify.compare import Verification, verify_onnx
from ampconvert.verify.runtimes import available_provider, low_nodes_run, run_onnx

HEAD = '<ir_version: 10, opset_import: ["" : 21]>\n'

# sq overflows float16 for |h| > 256: mean and root are infinite, and every quotient is 0.
RMS_NORM = """g (float[1,4] x) => (float[1,4] y) {
  h = Cast<to = 10>(x)
  [square] sq = Mul(h, h)
  [mean] m = ReduceMean<keepdims = 1>(sq)
  [root] r = Sqrt(m)
  [norm] d = Div(h, r)
  y = Cast<to = 1>(d)
}"""
# 300 * 300 = 90000 is over 65504, so the true result is infinite.
PRODUCT = """g (float[1] x) => (float[1] y) <float[1] k = {300.0}, float[1] e = {0.001}> {
  h = Cast<to = 10>(x)
  a = Cast<to = 10>(k)
  c = Cast<to = 10>(e)
  [grow] b = Mul(h, a)
  [shrink] d = Mul(b, c)
  y = Cast<to = 1>(d)
}"""


def model(text: str) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(HEAD + text))


def rms(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / np.sqrt(np.mean(x * x)), np.float32)


LIARS = {
    "rms norm": (RMS_NORM, [[1000.0, 2000.0, -500.0, 700.0]], rms, "sq", "square", 4e6, "Mul"),
    "product": (PRODUCT, [300.0], lambda x: x * 0.3, "b", "grow", 9e4, "Mul"),
}


@pytest.mark.parametrize("name", LIARS)
def test_an_overflow_that_the_cpu_provider_hides_fails(name: str) -> None:
    """Why parity is emulated: the provider's own answer is within tolerance, and it is wrong."""
    text, numbers, reference, tensor, node, absmax, op = LIARS[name]
    feeds = [{"x": np.array(numbers, np.float32)}]
    answers = [[reference(feeds[0]["x"]).astype(np.float32)]]

    naive = verify_onnx(model(text), answers, feeds, "float16", how="cpu")
    assert all(p.ok for p in naive.parities)  # the lie
    assert not naive.ok and not naive.faithful and "hides" in naive.how

    found = verify_onnx(model(text), answers, feeds, "float16", how="emulated")
    assert not found.ok and found.how == "emulated on ONNX Runtime CPU"
    assert found.parities[0].finite == (name == "rms norm")  # zeros are finite, and wrong
    if name == "rms norm":
        assert found.parities[0].rel_l2 == 1.0
    assert found.first_bad is not None
    assert (found.first_bad.tensor, found.first_bad.node) == (tensor, node)
    assert found.first_bad.op == op and found.first_bad.absmax == pytest.approx(absmax, rel=1e-3)

    good = verify_onnx(model(text), answers, feeds, "float16", how="emulated", tolerance=1e9)
    assert not good.ok or good.parities[0].finite  # no tolerance forgives an infinity


@pytest.mark.parametrize("low", ["float16", "bfloat16"])
def test_a_sound_model_passes(low: Any) -> None:
    """bfloat16 has float32's range: values that overflow float16 do no harm there."""
    text = RMS_NORM if low == "float16" else RMS_NORM.replace("to = 10", "to = 16")
    scale = 1.0 if low == "float16" else 1000.0
    feeds = [{"x": np.array([[1, 2, -0.5, 0.7]], np.float32) * scale} for _ in range(2)]
    references = [{"y": rms(feed["x"])} for feed in feeds]
    found = verify_onnx(model(text), references, feeds, low, how="emulated")
    assert found.ok and found.faithful and found.first_bad is None and found.provider == "cpu"
    assert (found.low_nodes, found.total_nodes) == (4, 4)
    assert 0 < found.parities[0].rel_l2 < found.parities[0].tolerance


def test_a_float32_model_runs_as_it_is() -> None:
    text = "g (float[2] x) => (float[2] y, int64[1] n) { y = Mul(x, x) n = Shape(x) }"
    feeds = [{"x": np.array([2, 3], np.float32)}]
    answers = [[np.array([4.0, 9.0]), np.array([2])]]
    found = verify_onnx(model(text), answers, feeds, "float16", how="emulated")
    assert found.ok and found.low_nodes == 0 and "nothing in a low type" in found.how
    wrong = [[np.array([4.0, 9.0]), np.array([3])]]
    assert not verify_onnx(model(text), wrong, feeds, "float16").ok


def test_nothing_compared_is_nothing_verified() -> None:
    assert not Verification((), "emulated on ONNX Runtime CPU", "cpu").ok


def test_outputs_are_paired_by_name_or_place() -> None:
    text = "g (float[1] x) => (float[1] a, float[1] b) { a = Neg(x) b = Identity(x) }"
    feeds = [{"x": np.ones(1, np.float32)}]
    one = np.ones(1, np.float32)
    by_name = verify_onnx(model(text), [{"b": one, "a": -one}], feeds, "float16")
    assert by_name.ok and [p.output for p in by_name.parities] == ["a", "b"]
    renamed = verify_onnx(model(text), [[-one, one]], feeds, "float16", names=["neg", "same"])
    assert renamed.ok and [p.output for p in renamed.parities] == ["neg", "same"]
    with pytest.raises(UserError, match="the reference has no output 'b'"):
        verify_onnx(model(text), [{"a": one}], feeds, "float16")
    with pytest.raises(UserError, match="1 reference outputs, the model has 2"):
        verify_onnx(model(text), [[one]], feeds, "float16")
    with pytest.raises(UserError, match="1 output names for a model with 2"):
        verify_onnx(model(text), [[one, one]], feeds, "float16", names=["a"])
    with pytest.raises(UserError, match="1 batches of inputs and 0 of reference"):
        verify_onnx(model(text), [], feeds, "float16")


def test_files_that_are_no_model(tmp_path: Path) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"not a model")
    with pytest.raises(UserError, match=r"bad\.onnx: this is no ONNX model"):
        verify_onnx(bad, [], [], "float16")
    with pytest.raises(UserError, match=r"none\.onnx: no such file"):
        verify_onnx(tmp_path / "none.onnx", [], [], "float16")
    with pytest.raises(UserError, match=r"none\.onnx: no such file"):
        run_onnx(tmp_path / "none.onnx", [])


def test_the_cpu_provider_runs_almost_nothing_in_float16() -> None:
    """The facts behind the emulation: no arithmetic of a float16 model runs in float16 there."""
    counted = low_nodes_run(model(RMS_NORM))
    assert counted.total >= 4 and counted.low == 0
    graph_io = "g (float16[2] x) => (float16[2] y) { a = Exp(x) b = Mul(a, x) y = Div(b, a) }"
    counted = low_nodes_run(model(graph_io))
    assert (counted.low, counted.total) == (0, 3) and counted.inserted_casts >= 2
    moves = "g (float16[2,3] x) => (float16[3,2] y) { y = Transpose<perm = [1, 0]>(x) }"
    counted = low_nodes_run(model(moves))
    assert (counted.low, counted.total, counted.inserted_casts) == (1, 1, 0)


@pytest.mark.parametrize("low", ["float16", "bfloat16"])
def test_low_inputs_and_outputs(low: str) -> None:
    dtype = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[low]
    text = f"g ({low}[N] x, {low}[N] z) => ({low}[M] y) {{ y = Concat<axis = 0>(x, z) }}"
    x = np.array([1.1, -2.5], np.float32)
    (got,) = run_onnx(model(text), [{"x": x, "z": x.astype(dtype)}])
    assert got["y"].dtype == dtype
    np.testing.assert_array_equal(got["y"], np.tile(x.astype(dtype), 2))
    (empty,) = run_onnx(model(text), [{"x": x[:0], "z": x[:0]}])
    assert empty["y"].shape == (0,)


def test_feeds_are_fitted_where_that_is_exact_or_a_matter_of_precision() -> None:
    text = "g (float[N] x, int64[N] i) => (float[N] y, int64[N] j) { y = Neg(x) j = Neg(i) }"
    feed = {"x": np.array([1.5, 2.5]), "i": np.array([1, 2], np.int32)}
    (got,) = run_onnx(model(text), [feed])
    assert got["y"].dtype == np.float32 and got["j"].tolist() == [-1, -2]
    with pytest.raises(UserError, match=r"input 'i' is float64, the model takes tensor\(int64\)"):
        run_onnx(model(text), [feed | {"i": np.ones(2)}])
    with pytest.raises(UserError, match=r"\['i'\] missing: the model takes \['i', 'x'\]"):
        run_onnx(model(text), [{"x": feed["x"]}])
    with pytest.raises(UserError, match=r"\['k'\] unknown"):
        run_onnx(model(text), [feed | {"k": feed["x"]}])


def test_transposed_feeds_keep_their_order() -> None:
    text = "g (float[3,2] x) => (float[6] y) <int64[1] s = {-1}> { y = Reshape(x, s) }"
    x = np.arange(6, dtype=np.float32).reshape(2, 3).T
    assert run_onnx(model(text), [{"x": x}])[0]["y"].tolist() == x.ravel().tolist()


def test_sources_are_models_protos_and_files(tmp_path: Path) -> None:
    text = "g (float[1] x) => (float[1] y) { y = Neg(x) }"
    path = tmp_path / "m.onnx"
    ir.save(model(text), path)
    feeds = [{"x": np.array([i], np.float32)} for i in range(3)]
    for source in (model(text), ir.to_proto(model(text)), path, str(path)):
        answers = run_onnx(source, feeds, threads=1)
        assert [a["y"].tolist() for a in answers] == [[0.0], [-1.0], [-2.0]]


def heavy() -> ir.Model:
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1, 400]))
    y = ir.Value(name="y", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1, 400]))
    weight = ir.Tensor(np.eye(400, dtype=np.float16) * 2, name="w")
    w = ir.Value(name="w", const_value=weight)
    up = ir.Node("", "Cast", [w], [ir.AttrInt64("to", 1)])
    node = ir.Node("", "MatMul", [x, up.outputs[0]], outputs=[y])
    up.outputs[0].name = "up"
    graph = ir.Graph([x], [y], nodes=[up, node], initializers=[w], opset_imports={"": 21}, name="g")
    return ir.Model(graph, ir_version=10)


def test_weights_in_files_of_their_own(tmp_path: Path) -> None:
    ir.save(heavy(), tmp_path / "m.onnx", external_data="m.data")
    assert (tmp_path / "m.data").stat().st_size >= 2 * 400 * 400
    feed = {"x": np.arange(400, dtype=np.float32)[None]}
    for source in (tmp_path / "m.onnx", ir.load(tmp_path / "m.onnx")):
        np.testing.assert_array_equal(run_onnx(source, [feed])[0]["y"], feed["x"] * 2)
    found = verify_onnx(tmp_path / "m.onnx", [[feed["x"] * 2]], [feed], "float16", how="emulated")
    assert found.ok and found.how.startswith("emulated")


def test_models_over_protobufs_limit_pass_through_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "_IN_MEMORY", 100_000)
    saved: list[Path] = []
    save = ir.save
    monkeypatch.setattr(
        runtimes.ir, "save", lambda m, path, **k: (saved.append(Path(path)), save(m, path, **k))
    )
    feed = {"x": np.arange(400, dtype=np.float32)[None]}
    np.testing.assert_array_equal(run_onnx(heavy(), [feed])[0]["y"], feed["x"] * 2)
    assert len(saved) == 1 and not saved[0].exists()  # and the file is gone afterwards


def test_the_runtimes_errors_name_the_node() -> None:
    text = "g (bfloat16[2] x) => (bfloat16[2] y) { [sum] y = Add(x, x) }"
    feeds = [{"x": np.ones(2, np.float32)}]
    with pytest.raises(UserError, match=r"could not load the model: .*Add\(14\).*'sum'"):
        run_onnx(model(text), feeds)
    assert np.all(run_onnx(runtimes_emulated(text), feeds)[0]["y"] == 2)  # emulated it runs
    shape = "g (float[N] x, int64[M] s) => (float[K] y) { [fold] y = Reshape(x, s) }"
    with pytest.raises(UserError, match=r"could not run the model: .*Name:'fold'") as caught:
        run_onnx(model(shape), [{"x": np.ones(2, np.float32), "s": np.array([5])}])
    assert "\n" not in str(caught.value) and ".cc:" not in str(caught.value)


def runtimes_emulated(text: str) -> ir.Model:
    from ampconvert.verify.emulate import emulate

    return emulate(model(text))


def test_without_onnxruntime_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install 'ampconvert\[ort\]'"):
        run_onnx(model("g (float[1] x) => (float[1] y) { y = Neg(x) }"), [])


def test_a_provider_that_is_not_there_is_said() -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has the CUDA provider")
    assert available_provider() == "cpu"
    with pytest.raises(UserError, match="no CUDAExecutionProvider: install onnxruntime-gpu"):
        run_onnx(model(RMS_NORM), [], provider="cuda")


def test_on_a_gpu_the_model_itself_runs() -> None:
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("needs onnxruntime-gpu")
    if available_provider() != "cuda":
        pytest.skip("needs a GPU")
    feeds = [{"x": np.array([300.0], np.float32)}]
    found = verify_onnx(model(PRODUCT), [[np.array([90.0], np.float32)]], feeds, "float16")
    assert not found.ok and found.provider == "cuda" and found.low_nodes == 2
    assert found.first_bad is not None and found.first_bad.tensor == "b"
