"""Errors of rounding, measured by running: groups that do no harm, shares, and single values."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ampconvert.dtypes import Low
from ampconvert.frontends.onnx import read
from ampconvert.frontends.onnx_errors import (
    ALL_RUNS,
    RUNS,
    measured_errors,
    rounding_errors,
    shared_errors,
)
from ampconvert.frontends.onnx_groups import fitted
from ampconvert.frontends.onnx_load import from_proto
from ampconvert.frontends.onnx_rounded import rounded, switched
from ampconvert.verify.segments import outputs
from tests.onnx_cases import load_all

FEED = {"x": np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)}


def model(body: str, weights: str = "") -> ir.Model:
    text = f"""<ir_version: 9, opset_import: ["" : 18]>
    g (float[2,4] x) => (float[2,4] y) {weights} {{ {body} }}"""
    return ir.from_proto(onnx.parser.parse_model(text))


def test_values_too_small_to_show_do_no_harm() -> None:
    built = model("y = Add(x, tiny)", "<float[4] tiny = {3e-8, 1e-7, -2e-7, 5e-8}>")
    found = rounding_errors(built, ["tiny"], FEED, "float16", 1e-12)
    assert 0 < found["tiny"] <= 1e-12


def test_values_that_show_are_told_apart_from_those_that_do_not() -> None:
    """A factor of 1e-7 that is multiplied up again loses bits that the answer shows."""
    built = model(
        "a = Mul(x, small) b = Mul(a, large) y = Add(b, tiny)",
        "<float[4] small = {1.1e-7, 2.3e-7, 3.1e-7, 1.7e-7}, float large = {1e7},"
        " float[4] tiny = {3e-8, 1e-7, -2e-7, 5e-8}>",
    )
    found = rounding_errors(built, ["small", "a", "tiny"], FEED, "float16", 1e-12)
    assert found["small"] == found["a"] == float("inf")
    assert found["tiny"] <= 1e-12


def test_the_number_of_runs_is_limited() -> None:
    names = [f"w{i}" for i in range(64)]
    text = ", ".join(f"float[4] {n} = {{1.3, 2.7, 3.1, 4.9}}" for n in names)
    body = " ".join(
        f"v{i} = Mul({'x' if i == 0 else f'v{i - 1}'}, w{i})" for i in range(len(names) - 1)
    )
    built = model(f"{body} y = Mul(v62, w63)", f"<{text}>")
    found = rounding_errors(built, names, FEED, "float16", 0.0)
    assert set(found) == set(names)
    assert set(found.values()) == {float("inf")}
    assert len(names) > RUNS


def test_shares_follow_where_the_error_is_made() -> None:
    """A difference of nearly equal numbers: rounding them is what errs."""
    built = model(
        "a = Add(x, big) b = Sub(a, big) c = Mul(b, two) y = Mul(c, half)",
        "<float big = {1000}, float two = {2}, float half = {0.5}>",
    )
    told: list[int] = []
    names = ["a", "b", "c"]
    found = shared_errors(built, names, FEED, "float16", lambda done, total: told.append(done))
    assert found["a"] > 1e3 * max(found["b"], found["c"])
    assert told == sorted(told)


def test_an_overflow_has_no_finite_share() -> None:
    built = model("a = Mul(x, k) y = Div(a, k)", "<float k = {1e6}>")
    found = shared_errors(built, ["a"], FEED, "float16", lambda done, total: None)
    assert found["a"] == float("inf")


def energy(built: ir.Model, names: list[str], low: Low, feed: dict[str, np.ndarray]) -> float:
    """Of rounding these values, in a model of its own."""
    (right,) = outputs(built, [feed])
    (got,) = outputs(rounded(built, names, low), [feed])
    return sum(
        float(
            np.square(got[name].astype(float) - value).sum() / np.square(value.astype(float)).sum()
        )
        for name, value in right.items()
        if value.dtype.kind == "f"
    )


CONTROL = ("if_captures_outer", "loop_float_state", "scan_state_and_inputs", "if_in_loop")


@pytest.mark.parametrize("low", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", CONTROL)
def test_each_value_is_measured_as_if_it_alone_was_rounded(name: str, low: Low) -> None:
    """Inputs, weights, results, and what bodies of control flow make and read."""
    found = load_all()[name]
    built = from_proto(found.model)
    graph = read(built, low)
    names = [value.name for value in graph.values.values() if value.is_float32]
    feed = found.feeds[0]
    told: list[tuple[int, int]] = []
    measured = measured_errors(built, names, [feed], low, lambda *step: told.append(step))
    assert told[-1] == (len(names), len(names)) and told == sorted(told)
    for value in names:
        assert measured[value] == pytest.approx(energy(built, [value], low, feed), abs=1e-13)
    assert max(measured.values()) > 0


def test_a_switch_at_0_changes_no_bit_and_at_1_rounds() -> None:
    built = model("a = Mul(x, w) y = Exp(a)", "<float[4] w = {1.1, 0.3, -0.7, 3.3}>")
    copy, switches = switched(built, ["x", "w", "a", "y"], "bfloat16")
    assert set(switches) == {"x", "w", "a", "y"}
    off = {name: np.zeros((), np.float32) for name in switches.values()}
    on = {name: np.ones((), np.float32) for name in switches.values()}
    (same, changed) = outputs(copy, [{**FEED, **off}, {**FEED, **on}])
    np.testing.assert_array_equal(same["y"], outputs(built, [FEED])[0]["y"])
    (want,) = outputs(rounded(built, ["x", "w", "a", "y"], "bfloat16"), [FEED])
    np.testing.assert_array_equal(changed["y"], want["y"])
    assert not np.array_equal(same["y"], changed["y"])


def test_several_batches_and_outputs_are_summed() -> None:
    text = """<ir_version: 9, opset_import: ["" : 18]>
    g (float[2,4] x) => (float[2,4] y, float[2,4] z, int64[2] i)
    <float k = {1000}> { y = Mul(x, k) z = Div(x, k) i = ArgMax<axis = 1, keepdims = 0>(x) }"""
    built = ir.from_proto(onnx.parser.parse_model(text))
    second = {"x": FEED["x"] * 64 + 1}
    found = measured_errors(built, ["x"], [FEED, second], "float16")["x"]
    values = np.concatenate([FEED["x"], second["x"]]).astype(np.float64)
    lost = values.astype(np.float16) - values
    assert found == pytest.approx(2 * np.square(lost).sum() / np.square(values).sum(), rel=1e-4)


def test_an_infinite_mask_is_measured_apart_from_the_rest() -> None:
    """-1e9 overflows to minus infinity, which means the same: and does not stop the others."""
    built = model("m = Add(x, mask) y = Softmax(m)", "<float[4] mask = {0, 0.3, -1000000000, 0.1}>")
    found = measured_errors(built, ["mask", "m", "y"], [FEED], "float16")
    assert all(0 < found[name] < 1e-6 for name in ("mask", "m", "y"))
    shared = shared_errors(built, ["mask", "m", "y"], FEED, "float16", lambda *_: None)
    assert shared["y"] == pytest.approx(found["y"], rel=1e-3)
    assert all(0 < shared[name] < 1e-6 for name in ("mask", "m"))


def chain(count: int, culprit: int) -> tuple[ir.Model, list[str]]:
    """So many products and sums in a row; behind one sum its bits are cancelled and blown up."""
    factors = np.random.default_rng(0).uniform(0.7, 1.4, count)
    body, last = [], "x"
    for i, factor in enumerate(factors):
        body.append(f"f{i} = Constant<value_float = {factor:.6f}>() p{i} = Mul({last}, f{i})")
        last = f"s{i}"
        body.append(f"s{i} = Add(p{i}, x)")
        if i == culprit:
            body.append(f"u = Add(s{i}, big) v = Sub(u, big)")
            last = "v"
    built = model(" ".join([*body, f"y = Identity({last})"]), "<float big = {300}>")
    made = [name for i in range(count) for name in (f"f{i}", f"p{i}", f"s{i}")]
    where = made.index(f"s{culprit}") + 1
    return built, [*made[:where], "u", *made[where:]]


@pytest.mark.parametrize("culprit", [3, 17, 30])
def test_crossing_groups_find_the_one_that_errs(culprit: int) -> None:
    built, names = chain(40, culprit)
    assert len(names) > 4 * ALL_RUNS
    told: list[tuple[int, int]] = []
    shared = shared_errors(built, names, FEED, "float16", lambda *step: told.append(step))
    assert set(shared) == set(names)
    assert {total for _, total in told} == {ALL_RUNS}
    assert told == sorted(told) and ALL_RUNS - 2 <= told[-1][0] <= ALL_RUNS
    measured = measured_errors(built, names, [FEED], "float16")
    assert max(measured, key=lambda name: measured[name]) == "u"
    assert sorted(shared, key=lambda name: -shared[name]).index("u") < 3
    assert 0.5 < (sum(shared.values()) / sum(measured.values())) ** 0.5 < 2


def test_few_values_are_measured_one_by_one() -> None:
    built, names = chain(8, 4)
    shared = shared_errors(built, names[:20], FEED, "bfloat16", lambda *_: None)
    measured = measured_errors(built, names[:20], [FEED], "bfloat16")
    assert shared == pytest.approx(measured)


def test_what_is_exact_in_the_low_type_has_no_part() -> None:
    built = model("a = Mul(x, w) y = Add(a, x)", "<float[4] w = {1, 0.5, -2, 4}>")
    assert shared_errors(built, ["w"], FEED, "float16", lambda *_: None) == {"w": 0.0}


def test_an_overflow_among_many_is_found_and_the_rest_still_shared_out() -> None:
    body = " ".join(f"p{i} = Mul({'x' if not i else f'p{i - 1}'}, f)" for i in range(40))
    built = model(
        f"{body} h = Mul(p39, huge) y = Div(h, huge)", "<float f = {1.01}, float huge = {1000000}>"
    )
    names = ["f", *(f"p{i}" for i in range(40)), "h"]
    shared = shared_errors(built, names, FEED, "float16", lambda *_: None, singles=0)
    assert [name for name in names if not np.isfinite(shared[name])] == ["h"]
    assert all(0 < shared[f"p{i}"] < 1e-5 for i in range(40))


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 3), st.floats(1e-6, 1.0)),
        min_size=1, max_size=40,
    )
)  # fmt: skip
def test_fitted_parts_give_every_group_its_sum(cells: list[tuple[int, int, float]]) -> None:
    """Where the sums come from a product of factors, the parts are those very numbers."""
    rows, columns = np.array([c[0] for c in cells]), np.array([c[1] for c in cells])
    true = np.array([1e-3 * (1 + row) * 3.0**-column for row, column, _ in cells])
    sums = [np.bincount(rows, true, 5), np.bincount(columns, true, 4)]
    parts = fitted([rows, columns], sums)
    for way, wanted in zip((rows, columns), sums, strict=True):
        np.testing.assert_allclose(np.bincount(way, parts, len(wanted)), wanted, rtol=1e-3)
