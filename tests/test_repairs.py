"""What repairs are found in a core graph, and what they are not found in."""

from __future__ import annotations

import json

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ampconvert.cost import load_target
from ampconvert.graph import Graph
from ampconvert.ranges.calibrate import Range
from ampconvert.repairs import Declined, Repair, declined_all, find_all
from ampconvert.repairs.correct_bias import (
    OutputError,
    correctable,
    examine_measured,
    halves,
)
from ampconvert.repairs.find import KINDS, find
from ampconvert.repairs.layers import layers
from ampconvert.repairs.repair import Insert, Names, from_dict, to_dict
from tests.repaired import Onnx
from tests.text_graphs import graph_of_text, model_of_text

LAST = "int64[1] last = {-1}"
RMS = f"""g (float[4,8] x) => (float[4,8] y) <float eps = {{1e-6}}, {LAST}> {{
    s = Mul(x, x)
    m = ReduceMean(s, last)
    a = Add(m, eps)
    r = Sqrt(a)
    y = Div(x, r)
}}"""
SCORES = """g (float[4,8] q, float[8,4] k) => (float[4,4] y) <float s = {0.25}> {
    z = MatMul(q, k)
    w = Mul(z, s)
    y = Softmax(w)
}"""


def seen(**largest: float | tuple[float, float]) -> dict[str, Range]:
    """Ranges by name: the largest magnitude of both signs, or the smallest and largest number."""
    found = {}
    for name, ends in largest.items():
        low, high = ends if isinstance(ends, tuple) else (-ends, ends)
        found[name] = Range(low, high, max(abs(low), abs(high)), max(low, 1e-30), elements=1)
    return found


def kinds(graph: Graph, ranges: dict[str, Range], low: str = "float16") -> list[str]:
    return [repair.kind for repair in find_all(graph, low, ranges)]  # type: ignore[arg-type]


def declined(graph: Graph, ranges: dict[str, Range]) -> list[Declined]:
    return list(declined_all(graph, "float16", ranges))


RMS_SEEN = seen(x=1000.0, s=(1.0, 1e6), m=(1e3, 4e5))


def test_the_power_keeps_squares_finite_with_headroom() -> None:
    (repair,) = find("scale-squares", graph_of_text(RMS), "float16", RMS_SEEN)
    power = repair.numbers["power"]
    assert (1000 * 4) ** 2 * 4.0**power < 65520 <= (1000 * 4) ** 2 * 4.0 ** (power + 1)
    assert repair.allows == ("Mul_0", "ReduceMean_1")
    assert repair.describe().startswith("scale-squares at Mul_0: ")


def test_squares_between_both_ends_get_no_power() -> None:
    text = RMS.replace("1e-6", "1e-12")
    ranges = seen(x=1000.0, s=(1e-9, 1e6), m=(1e-6, 4e5))
    graph = graph_of_text(text)
    assert kinds(graph, ranges) == []
    (refusal,) = declined(graph, ranges)
    assert refusal.kind == "scale-squares"
    assert "no power of two" in refusal.describe()


def test_the_epsilon_guards_means_that_underflow() -> None:
    """A row of zeros has the epsilon, which stays float32: no mean is too small beside it."""
    ranges = seen(x=3e-2, s=(0.0, 9e-4), m=(1e-12, 5e-4))
    graph = graph_of_text(RMS)
    (repair,) = find("scale-squares", graph, "float16", ranges)
    assert 1e-6 * 4.0 ** repair.numbers["power"] >= 2.0**-14
    bare = graph_of_text(RMS.replace("Add(m, eps)", "Abs(m)"))
    assert kinds(bare, ranges) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(float[4,8] y)", "(float[4,8] y, float[4,8] s)"),  # the square itself is returned
        ("Mul(x, x)", "Mul(x, y0)\n y0b = Identity(y0)"),  # no square
        ("ReduceMean(s, last)", "ReduceMax(s, last)"),  # no sum
    ],
    ids=["returned", "no square", "no sum"],
)
def test_other_squares_are_left_alone(old: str, new: str) -> None:
    text = RMS.replace(old, new).replace("(float[4,8] x)", "(float[4,8] x, float[4,8] y0)")
    assert kinds(graph_of_text(text), RMS_SEEN) == []


def test_ranges_that_fit_ask_for_nothing() -> None:
    graph = graph_of_text(RMS)
    assert kinds(graph, {}) == []
    assert kinds(graph, seen(x=8.0, s=(0.0, 64.0), m=(0.1, 20.0))) == []
    assert kinds(graph, RMS_SEEN, "bfloat16") == []


@settings(max_examples=25, deadline=None)
@given(
    size=st.floats(-12, 12).map(lambda e: float(np.float32(2.0**e))),
    epsilon=st.sampled_from([0.0, 1e-12, 1e-6, 1e-2]),
    seed=st.integers(0, 1000),
    form=st.sampled_from(["Sqrt(a)\n y = Div(x, r)", "Sqrt(a)\n i = Reciprocal(r)\n y = Mul(i, x)",
                          "Sqrt(a)\n c = Clip(r, eps)\n y = Div(x, c)"]),
)  # fmt: skip
def test_scaled_norms_answer_the_same_to_the_last_bit(
    size: float, epsilon: float, seed: int, form: str
) -> None:
    text = RMS.replace("1e-6", f"{epsilon}").replace("Sqrt(a)\n    y = Div(x, r)", form)
    x = np.random.default_rng(seed).standard_normal((4, 8)).astype(np.float32) * np.float32(size)
    model = Onnx(ir.from_proto(model_of_text(text)), {"x": x})
    repairs = find("scale-squares", model.graph, "float16", model.ranges())
    repaired = model.repaired(repairs)
    np.testing.assert_array_equal(repaired.answers()[0], model.answers()[0])
    assert not find("scale-squares", repaired.graph, "float16", repaired.ranges())


def test_scores_are_scaled_before_they_are_summed() -> None:
    graph = graph_of_text(SCORES)
    (repair,) = find("scale-query", graph, "float16", seen(q=300.0, z=4e4))
    assert repair.numbers["power"] == -2
    assert repair.allows == ("MatMul_0",)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("=> (float[4,4] y)", "=> (float[4,4] y, float[4,4] z)"),
        ("=> (float[4,4] y)", "=> (float[4,4] y, float[4,4] w)"),
        ("y = Softmax(w)", "u = Neg(z)\n v = Add(w, u)\n y = Softmax(v)"),
        ("Mul(z, s)", "Add(z, s)"),
        ("{0.25}", "{1.5}"),
        ("MatMul(q, k)", "Gemm(q, k, b)"),
        ("float s = {0.25}", "float[1,1,1] s = {0.25}"),
    ],
    ids=["scores returned", "scaled returned", "two readers", "no factor", "larger", "a bias",
         "another rank"],
)  # fmt: skip
def test_scores_that_cannot_be_scaled_are_left_alone(old: str, new: str) -> None:
    text = SCORES.replace(old, new).replace("float[8,4] k)", "float[8,4] k, float[4] b)")
    assert kinds(graph_of_text(text), seen(q=300.0, z=4e4, w=1e4)) == []


def test_scores_that_stay_too_large_are_declined() -> None:
    graph = graph_of_text(SCORES)
    (refusal,) = declined(graph, seen(q=300.0, z=1e6))
    assert refusal.kind == "scale-query"
    (refusal,) = declined(graph, seen(q=1e-4, z=4e4))
    assert "first operand" in refusal.reason


VARIANCE = f"""g (float[4,8] x, float[4,8] u) => (float[4,1] y) <{LAST}, int64[1] first = {{0}}> {{
    s = Mul(x, x)
    a = ReduceMean(s, last)
    m = ReduceMean(x, last)
    q = Mul(m, m)
    y = Sub(a, q)
}}"""


def test_a_variance_may_run_low_where_its_spread_fits() -> None:
    graph = graph_of_text(VARIANCE)
    (repair,) = find("two-pass-variance", graph, "float16", {})
    assert repair.allows == ()
    (repair,) = find("two-pass-variance", graph, "float16", seen(x=(90.0, 110.0), y=(1.0, 30.0)))
    assert repair.allows == ("Sub_4_squared", "Sub_4")
    (repair,) = find("two-pass-variance", graph, "float16", seen(x=500.0, y=(1.0, 30.0)))
    assert repair.allows == ()


@pytest.mark.parametrize(
    ("old", "new"),
    [("ReduceMean(x, last)", "ReduceMean(x, first)"),
     ("ReduceMean(x, last)", "ReduceMean(u, last)"),
     ("Sub(a, q)", "Sub(q, a)"), ("Mul(m, m)", "Mul(m, a)")],
    ids=["other axes", "other data", "exchanged", "no square"],
)  # fmt: skip
def test_what_is_no_variance_is_left_alone(old: str, new: str) -> None:
    assert kinds(graph_of_text(VARIANCE.replace(old, new)), {}) == []


def test_a_sum_over_its_count_is_a_mean() -> None:
    text = VARIANCE.replace("a = ReduceMean(s, last)", "b = ReduceSum(s, last)\n a = Div(b, n)")
    graph = graph_of_text(text.replace(f"<{LAST}", f"<float n = {{8.0}}, {LAST}"))
    assert kinds(graph, {}) == ["two-pass-variance"]
    graph = graph_of_text(text.replace(f"<{LAST}", f"<float n = {{7.0}}, {LAST}"))
    assert kinds(graph, {}) == []


def test_a_logarithm_that_float32_cannot_hold_is_declined() -> None:
    graph = graph_of_text("g (float[4] x) => (float[4] y) { p = Softmax(x)\n y = Log(p) }")
    assert kinds(graph, seen(p=(1e-9, 1.0))) == ["log-softmax"]
    assert kinds(graph, seen(p=(0.0, 1.0))) == []
    assert [d.kind for d in declined(graph, seen(p=(0.0, 1.0)))] == ["log-softmax"]
    graph = graph_of_text(
        "g (float[4] x) => (float[4] y) <float e = {1e-9}> "
        "{ p = Softmax(x)\n q = Add(p, e)\n y = Log(q) }"
    )
    assert kinds(graph, {}) == []


def linear(scale: float, bias: str = "b") -> Graph:
    data = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32) * scale
    numbers = ", ".join(f"{x:.9g}" for x in data.reshape(-1))
    return graph_of_text(
        f"g (float[4,8] x, float[4] c) => (float[4,4] y)"
        f"<float[8,4] w = {{{numbers}}}, float[4] b = {{1, 2, 3, 4.00001}}>"
        f"{{ y = Gemm(x, w, {bias}) }}"
    )


def test_weights_are_scaled_as_far_as_the_result_leaves_room() -> None:
    graph = linear(1e-6)
    (repair,) = find("scale-weights", graph, "float16", seen(y=4.0))
    assert repair.numbers["power"] <= 12  # 4 * 4 * 2^12 is float16's end
    assert repair.numbers["after"] < repair.numbers["before"]
    assert not find("scale-weights", graph, "float16", {})
    assert not find("scale-weights", graph, "bfloat16", seen(y=4.0))
    assert not find("scale-weights", linear(1.0), "float16", seen(y=4.0))
    assert not find("scale-weights", linear(1e-6, bias="c"), "float16", seen(y=4.0))


def test_weights_that_no_power_brings_into_range_are_declined() -> None:
    graph = linear(1e5)
    assert find("scale-weights", graph, "float16", seen(y=4.0))
    shared = graph_of_text(
        "g (float[2,2] x) => (float[2,2] y) <float[2,2] w = {1e-7, 1e-7, 1e-7, 1e-7}>"
        "{ a = MatMul(x, w)\n y = MatMul(a, w) }"
    )
    assert not list(layers(shared))


def test_a_mask_that_something_else_reads_is_reported() -> None:
    graph = graph_of_text(
        "g (float[4] x, float[4] m) => (float[4] y, float[4] z) <float c = {-1e9}>"
        "{ k = Mul(m, c)\n s = Add(x, k)\n y = Softmax(s)\n z = Exp(k) }"
    )
    (refusal,) = declined(graph, seen(k=(-1e9, 0.0), s=(-1e9, 1.0)))
    assert refusal.kind == "saturate-masks"
    assert refusal.nodes == ("Mul_0",)
    assert "Exp_3" in refusal.reason


def test_only_what_the_target_keeps_in_float32_is_split() -> None:
    graph = graph_of_text(
        "g (float[2,2] x) => (float[2,2] y) <float[2,2] w = {0.1, 0.2, 0.3, 0.4}>"
        "{ y = MatMul(x, w) }"
    )
    for name in ("h100", "ort-cuda", "ort-cpu", "trt"):
        assert not find("split-weight", graph, "float16", {}, load_target(name))


def test_a_correction_has_to_be_more_than_chance() -> None:
    graph = linear(1.0)
    assert correctable(graph, "float16") == {"Gemm_0": 1}
    ones = np.ones(4)
    constant = {"Gemm_0": OutputError(1e-3 * 100 * ones, 1e-6 * 100 * ones, 100)}
    (repair,) = examine_measured(graph, "float16", constant)
    assert isinstance(repair, Repair)
    assert repair.numbers["gain"] > 0.25
    noise = {"Gemm_0": OutputError(1e-5 * 100 * ones, 1e-6 * 100 * ones, 100)}
    assert not list(examine_measured(graph, "float16", noise))
    few = {"Gemm_0": OutputError(1e-3 * ones, 1e-6 * ones, 1)}
    assert not list(examine_measured(graph, "float16", few))


def test_biases_are_judged_on_other_batches() -> None:
    assert halves([1, 2, 3]) == ([1, 3], [2])
    assert halves([1]) == ([1], [1])


def test_errors_of_batches_add_up() -> None:
    one = OutputError(np.array([1.0, 2.0]), np.array([3.0, 4.0]), 2)
    both = one.merge(one)
    assert both.count == 4
    np.testing.assert_array_equal(both.mean, one.mean)


def test_a_node_is_repaired_once() -> None:
    """Of a one-pass variance the squares could be scaled too; the two passes come first."""
    graph = graph_of_text(VARIANCE)
    ranges = seen(x=1000.0, s=(1.0, 1e6), a=(1e3, 4e5), y=(1e3, 3e5))
    assert find("scale-squares", graph, "float16", ranges)
    assert kinds(graph, ranges) == ["two-pass-variance"]


def test_repairs_survive_json() -> None:
    graph = graph_of_text(RMS)
    every = [*find_all(graph, "float16", RMS_SEEN)]
    every += find("scale-query", graph_of_text(SCORES), "float16", seen(q=300.0, z=4e4))
    every += find("two-pass-variance", graph_of_text(VARIANCE), "float16", {})
    every += find("scale-weights", linear(1e-6), "float16", seen(y=4.0))
    assert len(every) == 4
    for repair in every:
        assert from_dict(json.loads(json.dumps(to_dict(repair)))) == repair
    with pytest.raises(ValueError, match="damaged"):
        from_dict({"kind": "scale-squares"})
    with pytest.raises(ValueError, match="damaged"):
        from_dict(to_dict(every[0]) | {"edits": [{"edit": "none"}]})


def test_names_are_new() -> None:
    names = Names(graph_of_text(RMS))
    assert names.fresh("Mul_0") == "Mul_0_2"
    assert names.fresh("new") == "new"
    assert names.fresh("new") == "new_2"


def test_finding_repeats_itself() -> None:
    graph = graph_of_text(RMS)
    assert find_all(graph, "float16", RMS_SEEN) == find_all(graph, "float16", RMS_SEEN)
    edits = [e for e in find_all(graph, "float16", RMS_SEEN)[0].edits if isinstance(e, Insert)]
    assert [edit.name for edit in edits] == ["Mul_0_scaled"]
    assert len(KINDS) == 7
