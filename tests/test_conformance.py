"""The conformance benchmark: a sample of it, and that it tells a good conversion from a bad one."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, parser

from ampconvert.dtypes import Low
from benchmarks.conformance import truth
from benchmarks.conformance.batches import Unit
from benchmarks.conformance.batches import measure as measure_all
from benchmarks.conformance.case import Case, fetch, has_float32, input_names, store
from benchmarks.conformance.judge import Wanted, judge
from benchmarks.conformance.ours import PLANS, bare, why_not
from benchmarks.conformance.ours import measure as convert_and_judge
from benchmarks.conformance.report import Row, failed, tables, write
from benchmarks.conformance.run import flatten
from benchmarks.conformance.suite import suite_cases

# One of each kind: products, control flow, sequences, recurrent, quantised, indices as results.
SAMPLE = (
    "node/gemm_all_attributes", "node/matmul_3d", "node/conv_with_strides_padding",
    "node/layer_normalization_4d_axis1", "node/softmax_axis_1_expanded", "node/gelu_tanh_1",
    "node/attention_4d_with_qk_matmul", "node/if", "node/loop11", "node/scan9_sum", "node/if_seq",
    "node/split_to_sequence_1", "node/sequence_map_add_2_sequences", "node/lstm_with_peepholes",
    "node/gru_seq_length", "node/resize_upsample_sizes_nearest", "node/top_k",
    "node/argmax_keepdims_example", "node/dequantizelinear", "node/quantizelinear_axis",
    "node/cast_FLOAT_to_DOUBLE", "node/castlike_FLOAT_to_DOUBLE_expanded", "node/where_example",
    "node/constantofshape_float_ones", "node/range_float_type_positive_delta", "node/stft",
    "node/batchnorm_epsilon", "node/nonmaxsuppression_two_classes", "node/clip_default_min",
    "pytorch-converted/Conv2d_groups", "pytorch-converted/BatchNorm2d_momentum_eval",
    "pytorch-operator/operator_repeat", "simple/sequence_model4", "light/squeezenet",
)  # fmt: skip


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    """The sample's folders with what FP32 came to in each."""
    work = tmp_path_factory.mktemp("conformance")
    chosen = [c for c in suite_cases() if f"{c.category}/{c.name}" in SAMPLE]
    folders = {f"{case.category}/{case.name}": store(case, work) for case in chosen}
    return {name: (folder, truth.measure(folder)) for name, folder in folders.items()}


WAYS = [
    pytest.param(low, plan, marks=[pytest.mark.slow] * (low == "bfloat16" and plan != "pinned"))
    for low in ("float16", "bfloat16")
    for plan in PLANS
]


@pytest.mark.parametrize(("low", "plan"), WAYS)
@pytest.mark.parametrize("name", SAMPLE)
def test_sample(
    name: str, low: Low, plan: str, suite: dict[str, tuple[Path, dict[str, Any]]]
) -> None:
    folder, base = suite[name]
    found = convert_and_judge(folder, low=low, plan=plan, engine=base["engine"])
    row = Row(folder.parent.name, folder.name, base, {f"ours {plan}": found})
    if plan == "forced":
        assert found["valid"] and found["io"], found["why"]
    else:
        assert row.failure(f"ours {plan}") == ""


def test_sample_is_in_the_suite(suite: dict[str, tuple[Path, dict[str, Any]]]) -> None:
    assert set(suite) == set(SAMPLE)


GOOD = """<ir_version: 10, opset_import: ["" : 22]>
    g (float[4] x) => (float[4] y, int64[1] k) {
        s = Cast <to = 10> (x)
        t = Add(s, s)
        y = Cast <to = 1> (t)
        k = ArgMax <keepdims = 0> (y)
        }"""
SOURCE = """<ir_version: 10, opset_import: ["" : 22]>
    g (float[4] x) => (float[4] y, int64[1] k) { y = Add(x, x)
        k = ArgMax <keepdims = 0> (y) }"""
SOURCE, GOOD = (text.replace("int64[1] k", "int64 k") for text in (SOURCE, GOOD))
X = np.array([1.0, 3.0, 2.0, 0.1], np.float32)


def test_a_good_conversion_passes(tmp_path: Path) -> None:
    found = judge(model(GOOD), wanted(tmp_path, SOURCE, X), "float16")
    assert found["why"] == "" and found["converted"] is True
    assert all(found[step] is True for step in ("valid", "io", "loads", "ort", "emulated"))
    assert 0 < found["rel_l2"] < 1e-3


@pytest.mark.parametrize(
    ("change", "steps"),
    [
        (("t = Add(s, s)", "t = Add(s, x)"), ("valid", "loads", "ort")),
        (("Add(s, s)", "Sub(s, s)"), ("ort", "emulated")),
        ((", int64 k)", ")"), ("io", "ort", "emulated")),
        (("y = Cast <to = 1> (t)", "y = Identity(t)"), ("io",)),
        (("ArgMax <keepdims = 0> (y)", "ArgMin <keepdims = 0> (y)"), ("ort", "emulated")),
    ],
    ids=["mixed types", "wrong values", "lost output", "low output", "wrong index"],
)
def test_a_bad_conversion_is_seen(
    change: tuple[str, str], steps: tuple[str, ...], tmp_path: Path
) -> None:
    text = GOOD.replace(*change)
    if steps == ("io",):
        text = text.replace("float[4] y", "float16[4] y")
    found = judge(model(text), wanted(tmp_path, SOURCE, X), "float16")
    assert {s for s in ("valid", "io", "loads", "ort", "emulated") if found[s] is False} == {*steps}
    assert found["why"].startswith(f"{steps[0]}: ")


def test_overflow_that_only_emulation_shows(tmp_path: Path) -> None:
    source = SOURCE.replace("y = Add(x, x)", "m = Mul(x, x)\n y = Div(m, x)")
    converted = GOOD.replace("t = Add(s, s)", "m = Mul(s, s)\n t = Div(m, s)")
    found = judge(model(converted), wanted(tmp_path, source, X * 300), "float16")
    assert found["ort"] is True and found["emulated"] is False


def test_an_index_may_be_that_of_rounded_inputs_unless_exact(tmp_path: Path) -> None:
    near = np.array([1.0, 1.0001, 0.0, 0.0], np.float32)  # equal in float16: the first one wins
    for exact in (True, False):
        found = judge(model(GOOD), wanted(tmp_path, SOURCE, near), "float16", exact=exact)
        assert found["emulated"] is not exact


def test_random_results_are_compared_by_shape_and_type(tmp_path: Path) -> None:
    text = SOURCE.replace("y = Add(x, x)", "y = RandomNormalLike(x)")
    assert judge(model(text), wanted(tmp_path, text, X), "float16")["why"] == ""


def test_a_model_that_nothing_runs_is_judged_by_its_form(tmp_path: Path) -> None:
    text = SOURCE.replace('["" : 22]', '["" : 22, "their.own" : 1]')
    text = text.replace("y = Add(x, x)", "y = their.own.Op(x)")
    folder = store(Case("c", "node", model(text), [{"x": X}]), tmp_path)
    assert truth.measure(folder)["engine"] == ""
    found = judge(model(text), Wanted(folder, ""), "float16")
    assert found["valid"] is True and found["loads"] is found["emulated"] is None


def test_truth_is_the_suites_where_fp32_agrees_with_it(tmp_path: Path) -> None:
    answers = [2 * X, np.array(1)]
    near = [answers[0] * np.float32(1.0001), answers[1]]
    for expected, kept, agrees in ((near, near, True), ([X, answers[1]], answers, False)):
        case = Case("c", "node", model(SOURCE), [{"x": X}], [expected])
        folder = store(case, tmp_path)
        assert truth.measure(folder)["suite"] is agrees
        (found,) = truth.truth(folder) or []
        np.testing.assert_array_equal(found["y"], kept[0])


def test_cases_come_back_as_they_were_stored(tmp_path: Path) -> None:
    feeds: list[dict[str, Any]] = [{"x": X, "s": [X, X], "o": None, "text": np.array(["a"])}]
    case = fetch(store(Case("c", "node", model(SOURCE), feeds, [[X]], 0.5, 0.25), tmp_path))
    assert (case.name, case.category, case.rtol, case.atol) == ("c", "node", 0.5, 0.25)
    assert case.model == model(SOURCE) and case.feeds[0]["o"] is None
    np.testing.assert_array_equal(case.feeds[0]["s"][1], X)
    assert not (tmp_path / "node" / "c" / "inputs").exists()  # nothing that .npz could not hold


def test_what_was_measured_of_other_data_is_removed(tmp_path: Path) -> None:
    first, second = (Case("c", "node", model(SOURCE), [{"x": n * X}]) for n in (1, 2))
    measured = store(first, tmp_path) / "fp32.json"
    measured.write_text("{}")
    store(first, tmp_path)
    assert measured.exists()
    store(second, tmp_path)
    assert not measured.exists()


def test_float32_is_found_where_it_hides() -> None:
    integers = "g (int64[2] x) => (int64[2] y) { %s }"
    hidden = "a = Cast <to = 1> (x)\n y = Cast <to = 7> (a)"
    assert not has_float32(model(HEAD + integers % "y = Add(x, x)"))
    assert has_float32(model(HEAD + integers % hidden))
    branch = "c = Constant <value = bool {1}> ()\n y = If (c) <then_branch = t () => (int64[2] y1) "
    branch += "{ %s }, else_branch = e () => (int64[2] y2) { y2 = Identity(x) }>"
    inside = branch % "a = Cast <to = 1> (x)\n y1 = Cast <to = 7> (a)"
    assert has_float32(model(HEAD + integers % inside))


def test_inputs_with_a_default_are_not_fed() -> None:
    text = HEAD + "g (float[1] x, float[1] w) => (float[1] y) <float[1] w = {2}> { y = Mul(x, w) }"
    assert input_names(model(text)) == ["x"]


def test_outputs_are_flattened() -> None:
    found = flatten(["a", "b", "c", "d"], [1.5, [X, [X]], None, [{"k": 2, 3: 4.0}]])
    assert list(found) == ["a", "b[0]", "b[1][0]", "d[0][k]", "d[0][3]"]


def test_only_metadata_is_left_out_of_the_comparison() -> None:
    first, second = model(SOURCE), model(SOURCE)
    helper.set_model_props(second, {"made": "twice"})
    second.graph.node[0].doc_string = "why"
    assert bare(first) == bare(second)
    second.graph.node[0].input[1] = "y"
    assert bare(first) != bare(second)


TASK = """
import os, signal, time

def measure(folder, *, how):
    if how == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "hang":
        time.sleep(600)
    if how == "raise":
        raise ValueError("a reason")
    return {"how": how}
"""


def test_what_ends_a_process_costs_one_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "task.py").write_text(TASK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    ways = ("good", "crash", "raise", "hang", "good")
    units = [Unit(tmp_path, f"{i}.json", {"how": how}) for i, how in enumerate(ways)]
    units[4].path.write_text('{"how": "kept"}')
    told: list[int] = []
    measure_all(sys.executable, "task", units, limit_s=1, jobs=1, tell=told.append)
    found = [json.loads(unit.path.read_text()) for unit in units]
    assert found[0] == {"how": "good"} and found[4] == {"how": "kept"} and told == [4]
    assert found[1]["error"] == "the process ended with SIGSEGV"
    assert found[2]["error"].startswith("ValueError at task.py:")
    assert found[3]["error"] == "over the limit of 1 s"


SOUND = {"valid": True, "io": True, "loads": True, "ort": True, "emulated": True, "again": "same"}
BASE = {"valid": True, "engine": "onnxruntime", "runs": True}


def row(name: str, base: dict[str, Any] | None = None, **result: Any) -> Row:
    return Row("node", name, base or BASE, {"ours rules": {**SOUND, **result}})


def test_what_a_failure_is() -> None:
    tool = "ours rules"
    assert row("a", converted=True).failure(tool) == ""
    assert row("a", ort=None).failure(tool) == ""
    assert row("a", again="changed").failure(tool) != ""
    assert row("a", valid=False, why="valid: so").failure(tool) == "valid: so"
    assert row("a", {**BASE, "valid": False}, valid=False).failure(tool) == ""
    assert row("a", error="crash").failure(tool) == "error: crash"
    assert row("a", refused="rule x").refused(tool) == "rule x"
    assert row("a", converted=True, rel_l2=3.14e-4).status(tool) == "ok 3.1e-04"


def test_the_target_counts_rules_and_pinned_alone() -> None:
    results = {f"ours {plan}": {**SOUND, "emulated": False} for plan in PLANS}
    found = failed([Row("node", "a", BASE, results)])
    assert [tool for _, tool in found] == ["ours rules", "ours pinned"]


def test_results_name_every_failure_and_no_place_on_this_machine(tmp_path: Path) -> None:
    why = f"emulated: in {Path(__file__).parent}{os.sep}x"
    rows = [row("good", converted=True), row("bad", emulated=False, why=why)]
    json_path, md_path = write(rows, "float16", tmp_path, {"peers": "not run"})
    data = json.loads(json_path.read_text())
    assert [m["ours rules"].split(":")[0] for m in data["models"]] == ["ok", "emulated"]
    assert "- node/bad (rules): emulated: in tests" in md_path.read_text()
    assert str(Path(__file__).parent) not in json_path.read_text() + md_path.read_text()
    summary = tables(rows, "float16")[0][1]
    assert dict(zip(*summary, strict=True))["agrees emulated"] == "1 of 2"


HEAD = '<ir_version: 10, opset_import: ["" : 22]> '


def model(text: str) -> onnx.ModelProto:
    return parser.parse_model(text)


def wanted(work: Path, text: str, x: np.ndarray[Any, Any]) -> Wanted:
    folder = store(Case("c", "node", model(text), [{"x": x}]), work)
    return Wanted(folder, truth.measure(folder)["engine"])


def test_why_nothing_runs_low() -> None:
    from ampconvert.classify import Decision
    from ampconvert.plan import Plan

    decisions = {
        "a": Decision("deny", "fixed-type", "no"),
        "b": Decision("deny", "exp", "no"),
        "c": Decision("infer", "add", "no"),
        "d": Decision("deny", "range", "no", evidence="seen"),
    }
    plan = Plan("float16", dict.fromkeys(decisions, "float32"), (), {}, decisions)
    assert why_not(plan) == (
        "neutral with nothing around it to follow, no float operand may be low, rule exp, "
        "values: range"
    )
