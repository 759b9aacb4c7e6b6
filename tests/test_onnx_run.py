"""Calibration of ONNX models: ranges are numpy's, over all batches, and no tensor is kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ampconvert.errors import UserError
from ampconvert.frontends.onnx_run import calibrate, outputs
from ampconvert.ranges.calibrate import Range, merge_all
from ampconvert.verify import segments
from ampconvert.verify.runtimes import run_onnx
from ampconvert.verify.segment_cuts import Limits
from tests.test_ranges import plain_range

Array = np.ndarray[Any, Any]


def model(text: str, opset: int = 21) -> ir.Model:
    head = f'<ir_version: 10, opset_import: ["" : {opset}]>\n'
    return ir.from_proto(onnx.parser.parse_model(head + text))


OPERATIONS = (
    "Add({0}, {1})", "Mul({0}, {1})", "MatMul({0}, {1})", "Exp({0})", "Log({0})", "Neg({0})",
    "Div({0}, {1})", "Where(c, {0}, {1})", "Relu({0})",
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_ranges_of_a_graph_are_those_of_its_tensors(data: st.DataObject) -> None:
    made = ["x", "w", "k"]
    lines = []
    for i in range(data.draw(st.integers(1, 7))):
        reads = [data.draw(st.sampled_from(made)) for _ in range(2)]
        lines.append(f"v{i} = {data.draw(st.sampled_from(OPERATIONS)).format(*reads)}")
        made.append(f"v{i}")
    inputs = "float[3,3] x, bool[3,3] c"
    stored = "<float[3,3] w = {0,1,2,3,4,5,6,7,8}>"
    body = f"{{ k = Constant<value = float[1,1] {{2}}>() {' '.join(lines)} }}"
    shown = ", ".join(f"float[A,B] {name}" for name in made[3:])
    element = st.floats(-1e3, 1e3, width=32)
    feeds = [
        {"x": data.draw(hnp.arrays(np.float32, (3, 3), elements=element)), "c": np.eye(3) > 0}
        for _ in range(data.draw(st.integers(1, 3)))
    ]
    try:
        fetched = run_onnx(model(f"g ({inputs}) => ({shown}) {stored} {body}"), feeds)
    except UserError:
        return  # a product whose shapes do not fit
    made_here = {name: merge_all(plain_range(b[name]) for b in fetched) for name in made[3:]}
    whole = model(f"g ({inputs}) => (float[A,B] {made[-1]}) {stored} {body}")
    ranges, shapes = calibrate(whole, feeds, lambda done: None)
    assert ranges == made_here | {"x": merge_all(plain_range(f["x"]) for f in feeds)}
    assert shapes == {n: fetched[0][n].shape for n in made[3:]} | {"x": (3, 3), "c": (3, 3)}


NETWORK = """g (float[N,4] x, int64[M] ids, double[2] d) => (float[N,A] y, double[2] e)
<float[8,4] table = {}> {{
  t = Constant<value = float[1] {{2}}>()
  looked = Gather(table, ids)
  h = MatMul(x, flat)
  flat = Transpose<perm = [1, 0]>(looked)
  n = Shape(h)
  drop, = Dropout(h)
  none = Slice(h, zero, zero)
  zero = Constant<value = int64[1] {{0}}>()
  y = Mul(drop, t)
  e = Neg(d)
}}"""


def network() -> ir.Model:
    m = model(NETWORK.format("{" + ",".join(map(str, range(32))) + "}"))
    m.graph.sort()
    return m


def network_feeds() -> list[dict[str, Array]]:
    return [
        {"x": np.full((rows, 4), float(rows)), "ids": np.arange(rows), "d": np.ones(2)}
        for rows in (2, 3)
    ]


def test_which_values_have_a_range_and_which_a_shape() -> None:
    """Float32 only, weights and constants not; sizes of all tensors, by the first batch."""
    ranges, shapes = calibrate(network(), network_feeds(), lambda done: None)
    assert set(ranges) == {"x", "looked", "flat", "h", "drop", "y", "none"}
    assert ranges["x"] == Range(2, 3, 3, 2, elements=2 * 4 + 3 * 4)
    assert ranges["none"] == Range()
    assert shapes == {
        "x": (2, 4), "ids": (2,), "d": (2,), "looked": (2, 4), "flat": (4, 2), "h": (2, 2),
        "n": (2,), "drop": (2, 2), "none": (0, 2), "y": (2, 2), "e": (2,),
    }  # fmt: skip


def test_progress_counts_batches_also_in_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    whole = calibrate(network(), network_feeds(), told.append)
    assert told == [1, 2]
    told.clear()
    monkeypatch.setitem(segments.visit.__kwdefaults__, "limits", Limits(nodes=1))
    assert calibrate(network(), network_feeds(), told.append) == whole
    assert told == sorted(told) and told[-1] == 2 and len(told) == 2 * 8


def test_nan_and_infinities_are_seen() -> None:
    m = model("g (float[3] x) => (float[3] y) { l = Log(x) y = Neg(l) }")
    feeds = [{"x": np.array([1, 0, 2], np.float32)}, {"x": np.array([1, -1, 1], np.float32)}]
    ranges, _ = calibrate(m, feeds, lambda done: None)
    assert ranges["l"].has_nan and ranges["l"].has_inf and not ranges["x"].has_nan
    assert ranges["y"].maximum == 0 and ranges["y"].minimum == -np.log(np.float32(2))


def test_a_model_in_a_low_type_runs_in_float32() -> None:
    """Its overflow is no fact of the float32 model, and only its float32 values are given."""
    text = (
        "g (bfloat16[2] x) => (float16[2] y) { f = Cast<to = 1>(x) s = Mul(f, f) "
        "y = Cast<to = 10>(s) }"
    )
    feeds = [{"x": np.array([300, 2], np.float32)}]
    ranges, shapes = calibrate(model(text), feeds, lambda done: None)
    assert set(ranges) == {"f", "s"} and ranges["s"].maximum == 90000 and set(shapes) == set("xfsy")
    (answer,) = outputs(model(text), feeds)
    assert answer["y"].dtype == np.float32 and answer["y"].tolist() == [90000, 4]


def test_functions_and_missing_types_are_no_obstacle() -> None:
    text = """g (float[2] x) => (float[2] y) { h = f.Twice(x) y = Neg(h) }
    <domain: "f", opset_import: ["" : 21]> Twice (a) => (b) { b = Add(a, a) }"""
    head = '<ir_version: 10, opset_import: ["" : 21, "f" : 1]>\n'
    m = ir.from_proto(onnx.parser.parse_model(head + text))
    ranges, _ = calibrate(m, [{"x": np.array([1, 2], np.float32)}], lambda done: None)
    assert ranges["h"].maximum == 4 and ranges["y"].minimum == -4 and len(m.functions) == 1


def test_outputs_are_the_models() -> None:
    text = (
        "g (float[2] x) => (seq(float[2]) s, float[2] y, float[2] x) { y = Neg(x) "
        "s = SequenceConstruct(x, y) }"
    )
    feeds = [{"x": np.array([1, 2], np.float32)}, {"x": np.array([3, 4], np.float32)}]
    found = outputs(model(text), feeds)
    assert [list(batch) for batch in found] == [["s", "y", "x"]] * 2
    assert [a.tolist() for a in found[1]["s"]] == [[3, 4], [-3, -4]]
    assert found[1]["y"].tolist() == [-3, -4] and found[1]["x"].tolist() == [3, 4]


def test_a_model_that_does_not_run_is_said() -> None:
    m = model("g (float[N] x, int64[M] s) => (float[K] y) { [fold] y = Reshape(x, s) }")
    feeds = [{"x": np.ones(2, np.float32), "s": np.array([5])}]
    with pytest.raises(UserError, match=r"could not run the model: .*Name:'fold'"):
        calibrate(m, feeds, lambda done: None)
    with pytest.raises(UserError, match="missing"):
        outputs(m, [{}])
