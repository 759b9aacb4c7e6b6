"""Verdicts on models that run in segments: pairs, first bad tensors, errors of every tensor."""

from __future__ import annotations

import copy
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from ampconvert.errors import UserError
from ampconvert.verify import segments as module
from ampconvert.verify.compare import verify_onnx, verify_pair
from ampconvert.verify.emulate import emulate, first_bad, tensor_errors, upcast
from ampconvert.verify.metrics import Measurement
from ampconvert.verify.runtimes import run_onnx
from ampconvert.verify.segment_cuts import Limits
from ampconvert.verify.segments import lockstep

ONE = Limits(nodes=1)  # as many segments as there can be


def model(text: str) -> ir.Model:
    head = '<ir_version: 10, opset_import: ["" : 21]>\n'
    return ir.from_proto(onnx.parser.parse_model(head + text))


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


@pytest.mark.parametrize("limits", [ONE, Limits()], ids=["one", "all"])
def test_a_pair_is_verified_without_references(limits: Limits) -> None:
    text = (
        "g (float[N,4] x) => (float[N,4] y, int64[2] n) { h = Exp(x) y = Mul(h, h) n = Shape(h) }"
    )
    converted = model(
        "g (float[N,4] x) => (float[N,4] z, int64[2] n) { l = Cast<to = 10>(x) h = Exp(l) "
        "m = Mul(h, h) n = Shape(h) z = Cast<to = 1>(m) }"
    )
    feeds = [{"x": np.full((i, 4), 0.7, np.float32)} for i in (1, 2)]
    found = verify_pair(model(text), converted, feeds, "float16", how="emulated", limits=limits)
    assert found.ok and [p.output for p in found.parities] == ["z", "n"]
    answers = [list(batch.values()) for batch in run_onnx(model(text), feeds)]
    again = verify_onnx(converted, answers, feeds, "float16", how="emulated", limits=limits)
    assert again == found
    bad = verify_pair(model(text), converted, [{"x": np.full((1, 4), 6, np.float32)}], "float16",
                      how="emulated", limits=limits)  # fmt: skip
    assert not bad.ok and bad.first_bad is not None and bad.first_bad.tensor == "m"
    with pytest.raises(UserError, match="2 outputs in the reference, 1 in the candidate"):
        verify_pair(model(text), model("g (float[2] x) => (float[2] y) { y = Neg(x) }"), feeds,
                    "float16")  # fmt: skip
    with pytest.raises(UserError, match="0 batches"):
        verify_pair(model(text), converted, [], "float16")


def test_a_reference_in_a_low_type_runs_in_float32() -> None:
    text = "g (bfloat16[2] x) => (bfloat16[2] y) { y = Exp(x) }"
    feeds = [{"x": np.array([1, 2], np.float32)}]
    found = verify_pair(model(text), model(text), feeds, "bfloat16", how="emulated")
    assert found.ok and 0 < found.parities[0].rel_l2 < 0.01


def test_sequences_text_and_flags_are_compared_element_by_element() -> None:
    text = """g (seq(float[2]) s, string[N] t, float[2] x) =>
    (seq(float[2]) y, string[N] u, bool[2] b) {
      h = Cast<to = TO>(x) f = Cast<to = 1>(h) e = Exp(f) l = Cast<to = TO>(e)
      z = Cast<to = 1>(l) y = SequenceInsert(s, z) u = Identity(t)
      o = Constant<value = float {2}>() b = Less(z, o) }"""
    reference, candidate = model(text.replace("TO", "1")), model(text.replace("TO", "10"))
    one = np.array([0.1, 2], np.float32)
    feeds = [{"s": [one] * i, "t": np.array(["a", "b"]), "x": one} for i in (0, 2)]
    found = verify_pair(reference, candidate, feeds, "float16", how="emulated")
    assert found.ok and [p.exact for p in found.parities[1:]] == [1, 1]
    assert found.parities[0].shape == (1,) and found.parities[0].samples == 2 + 6
    assert 0 < found.parities[0].rel_l2 < 1e-3
    answers: list[Any] = [[[one], ["a", "b"], [True, False]] for _ in feeds]
    answers = [{"y": [one] * 2, "u": np.array(["a", "c"]), "b": np.array([True, True])}] * 2
    wrong = verify_onnx(candidate, answers, feeds, "float16", how="emulated")
    assert [p.note for p in wrong.parities] == [
        "batch 0 has 1 tensors, the reference has 2",
        "2 of 4 elements differ",
        "2 of 4 elements differ",
    ]


def test_sequences_and_optionals_are_measured_in_any_mix() -> None:
    one, two = np.ones((2, 2)), np.full((2, 2), 2.0)
    measured = Measurement("y", 0.2)
    for reference, candidate in ((None, None), ([one, two], [one, two * 1.1]), ([], [])):
        measured.add(reference, candidate)
    found = measured.parity()
    assert found.ok and found.samples == 8 and found.exact == 0.5 and found.agree_top1 == 1
    assert found.rel_l2 == pytest.approx(0.4 / np.sqrt(4 + 16))
    for reference, candidate, note in (
        (one, None, "batch 3 has 0 tensors, the reference has 1"),
        ([one, one], [one, one[0]], "tensor 1 of batch 3 has shape [2], the reference has [2, 2]"),
        ([one], [one > 0], "tensor 0 of batch 3 has dtype bool, the reference has float64"),
    ):
        wrong = copy.deepcopy(measured)
        wrong.add(reference, candidate)
        wrong.add(one, one)
        assert not wrong.parity().ok and wrong.parity().note == note


@pytest.mark.parametrize("kind", ["float8e4m3fn", "float8e5m2", "bfloat16"])
def test_types_that_numpy_has_not_come_and_go(kind: str) -> None:
    dtype = np.dtype(getattr(ml_dtypes, kind.replace("float8", "float8_")))
    made = model(
        f"g ({kind}[N] x) => ({kind}[N] y, float[N] z) {{ y = Identity(x) z = Cast<to=1>(x) }}"
    )
    x = np.array([1, -2, 0.5], np.float32)
    for feed in (x, x.astype(dtype), x[:0]):
        (got,) = run_onnx(made, [{"x": feed}])
        assert got["y"].dtype == dtype and got["z"].tolist() == feed.astype(np.float32).tolist()
        np.testing.assert_array_equal(got["y"].astype(np.float32), got["z"])


def test_optional_inputs_and_outputs() -> None:
    made = model(
        "g (optional(float[2]) x, optional(seq(float[2])) s) => "
        "(bool y, bool t, optional(float[2]) z) { y = OptionalHasElement(x) "
        "t = OptionalHasElement(s) z = Identity(x) }"
    )
    one = np.array([1, 2], np.float64)
    empty, full = run_onnx(made, [{"x": None, "s": None}, {"x": one, "s": [one]}])
    assert not empty["y"] and not empty["t"] and empty["z"] is None
    assert full["y"] and full["t"] and full["z"].tolist() == [1, 2]


def test_both_models_run_once_however_many_tensors_there_are(sessions: list[Any]) -> None:
    lines = " ".join(f"v{i + 1} = Sigmoid(v{i})" for i in range(200))
    m = model(f"g (float16[2] v0) => (float16[2] v200) {{ {lines} }}")
    feeds = [{"v0": np.ones(2, np.float16)}]
    assert len(tensor_errors(emulate(m), upcast(m), feeds)) == 200
    assert len(sessions) == 2 and sum(len(graph.node) for graph in sessions) == 602 + 200
    sessions.clear()
    assert first_bad(emulate(m), upcast(m), feeds) is None
    assert sum(len(graph.node) for graph in sessions) == 602 + 200


def test_the_search_for_a_bad_tensor_ends_with_its_segment(
    sessions: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one in execution order, though a later one is bad in an earlier batch."""
    m = model(
        "g (float16[2] x, float16[2] z) => (float16[2] y) { a = Exp(x) b = Exp(z) c = Neg(a) "
        "d = Add(c, b) y = Neg(d) }"
    )
    feeds = [
        {"x": np.array(x), "z": np.array(z)}
        for x, z in (([1.0, 1], [1.0, 20]), ([1.0, 20], [1.0, 1]))
    ]
    bad = first_bad(emulate(m), upcast(m), feeds)
    assert bad is not None and (bad.tensor, bad.batch, bad.bad) == ("a", 1, 1)
    sessions.clear()
    monkeypatch.setattr(lockstep, "__kwdefaults__", {"limits": ONE})
    assert first_bad(emulate(m), upcast(m), feeds) == bad
    assert not any(node.output[0] == "c" for graph in sessions for node in graph.node)
