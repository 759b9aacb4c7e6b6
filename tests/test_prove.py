"""What a proof claims and what it does not: unknown operators, contracts, masks, vanishing eps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ampconvert.classify import classify
from ampconvert.dtypes import FLOAT_TYPES, Low
from ampconvert.graph import Graph
from ampconvert.ranges.calibrate import Range
from ampconvert.ranges.prove import Assumption, Proof, prove
from ampconvert.ranges.rounding import round_to, rounding_errors, spectral
from ampconvert.ranges.safety import safety
from ampconvert.rules import RuleBook, load
from tests.graphs import graph
from tests.low_plans import TYPES
from tests.text_graphs import graph_of_text

ROWS = "float[2,8] x"


def obstacles(held: Graph, proof: Proof) -> dict[str, str]:
    return {node.outputs[0]: proof.obstacle(held, node) for node in held.nodes}


def seen(low: float, high: float) -> Range:
    return Range(low, high, max(-low, high), 1e-3, elements=100)


def test_an_unknown_operator_yields_unknown() -> None:
    held = graph("y = relu(x)", "z = mystery(y)", "u = tanh(z)", "v = add(z, z)", outputs="u v",
                 operands={"v": "self other"})  # fmt: skip
    proof = prove(held, {"x": (-1.0, 1.0)}, "float16")
    assert "z" not in proof.bounds and "v" not in proof.bounds
    assert proof.bounds["u"].magnitude < 1.1  # a curve that ends, whatever goes in
    assert [n.outputs[0] for n in held.nodes if proof.proved(held, n)] == ["y"]
    assert any("aten::mystery" in note for note in proof.notes)


def test_a_float_input_without_a_range_is_noted_and_unknown() -> None:
    held = graph("y = relu(x)", outputs="y")
    proof = prove(held, {}, "float16")
    assert "y" not in proof.bounds
    assert proof.notes == ("no range is declared for the input x",)
    assert "no input" in prove(held, {"z": (0, 1)}, "float16").notes[-1]


def test_arithmetic_in_shorter_types_is_unknown() -> None:
    types = {"h": "float16", "s": "float16", "t": "float16"}
    held = graph_of_text(
        """g (float[2] x) => (float[2] y, float[2] z) {
            h = Cast<to = 10>(x)
            s = Add(h, h)
            t = Neg(h)
            y = Cast<to = 1>(s)
            z = Cast<to = 1>(t)
        }"""
    )
    assert {n: held.values[n].dtype for n in types} == types
    proof = prove(held, {"x": (-1.0, 1.0)}, "bfloat16")
    assert "y" not in proof.bounds and proof.bounds["z"].magnitude == 1.0


def test_weights_count_as_operands() -> None:
    held = graph("y = mul(x, w)", outputs="y", weights={"w": np.full(4, 7e4)},
                 operands={"y": "self other"}, shapes={"x": (4,), "y": (4,)})  # fmt: skip
    proof = prove(held, {"x": (0, 0.5)}, "float16")
    assert proof.bounds["y"].hi < 4e4
    assert "weight w" in proof.obstacle(held, held.nodes[0])
    assert prove(held, {"x": (0, 0.5)}, "bfloat16").proved(held, held.nodes[0])


def test_a_contract_narrows_what_it_names() -> None:
    held = graph("y = exp(x)", "z = mul(y, y)", outputs="z", operands={"z": "self other"})
    declared = {"x": (-20.0, 20.0)}
    assert not prove(held, declared, "float16").proved(held, held.nodes[0])
    proof = prove(held, declared, "float16", [Assumption("y", 100.0), Assumption("layer.*", 1.0)])
    assert all(proof.proved(held, node) for node in held.nodes)
    assert proof.assumed == {"y": ("y",)}
    assert proof.bounds["z"].hi == pytest.approx(1e4, rel=1e-3)
    assert any("layer.*" in note for note in proof.notes)


def test_a_contract_that_the_data_breaks_is_noted() -> None:
    held = graph("y = exp(x)", outputs="y")
    proof = prove(held, {"x": (-20.0, 20.0)}, "float16", [Assumption("y", 100.0)],
                  {"y": seen(0.0, 5e3)})  # fmt: skip
    assert any("y was seen" in note for note in proof.notes)


@pytest.mark.parametrize(("eps", "low", "proved"), [
    ("0.000001", "float16", True), ("0.00000001", "float16", False), ("0", "float16", False),
    ("0.00000001", "bfloat16", True), ("0.000000000001", "bfloat16", True),
])  # fmt: skip
def test_a_norm_by_hand_needs_an_eps_that_does_not_vanish(eps: str, low: Low, proved: bool) -> None:
    held = graph_of_text(
        f"g ({ROWS}) => (float[2,8] y) <float two = {{2.0}}, float eps = {{{eps}}}> {{"
        " s = Pow(x, two)\n m = ReduceMean<axes = [-1]>(s)\n a = Add(m, eps)\n r = Sqrt(a)\n"
        " y = Div(x, r) }", 17,
    )  # fmt: skip
    proof = prove(held, {"x": (-100.0, 100.0)}, low)
    assert (obstacles(held, proof)["y"] == "") == proved
    if proved:
        assert proof.bounds["y"].hi < 8**0.5 * (1 + 20 * FLOAT_TYPES[low].unit + 1e-2)


def test_squares_that_may_overflow_stay_unproved_but_their_norm_is_bounded() -> None:
    held = graph_of_text(
        f"g ({ROWS}) => (float[2,8] y) <float two = {{2.0}}, float eps = {{0.00001}}> {{"
        " s = Pow(x, two)\n m = ReduceMean<axes = [-1]>(s)\n a = Add(m, eps)\n r = Sqrt(a)\n"
        " i = Reciprocal(r)\n y = Mul(x, i) }", 17,
    )  # fmt: skip
    proof = prove(held, {"x": (-1e4, 1e4)}, "float16")
    found = obstacles(held, proof)
    assert [bool(found[name]) for name in ("s", "m", "a", "r", "i", "y")] == [True] * 4 + [
        False
    ] * 2
    kept = prove(held, {"x": (-1e4, 1e4)}, "float16", kept=[n.name for n in held.nodes])
    assert kept.bounds["y"].hi < 3


def test_a_least_length_that_vanishes_in_float16() -> None:
    """x / max(||x||, 1e-12): float16 makes 0 / 0 of a small vector."""
    text = (f"g ({ROWS}) => (float[2,8] y) <float eps = {{0.000000000001}}> {{"
            " n = ReduceL2<axes = [-1]>(x)\n c = Max(n, eps)\n y = Div(x, c) }")  # fmt: skip
    held = graph_of_text(text, 17)
    proof = prove(held, {"x": (-1.0, 1.0)}, "float16")
    (check,) = proof.domains
    assert not check.clear and "rounds to zero" in check.reason
    assert obstacles(held, proof)["y"]
    kept = prove(held, {"x": (-1.0, 1.0)}, "float16", kept=[n.name for n in held.nodes])
    assert kept.domains[0].clear and not obstacles(held, kept)["y"]
    proof = prove(held, {"x": (-1.0, 1.0)}, "bfloat16")
    assert proof.domains[0].clear and not obstacles(held, proof)["y"]


MASKED = """g (float[2,4,8] q, float[2,8,4] k, bool[4,4] hide) => (float[2,4,4] y)
    <float low = {-3.4028e38}, float none = {-inf}> {
        s = MatMul(q, k)
        m = Where(hide, low, s)
        y = Softmax<axis = -1>(m)
    }"""


@pytest.mark.parametrize("constant", ["low", "none"])
def test_masks_do_not_stand_in_the_way(constant: str) -> None:
    held = graph_of_text(MASKED.replace("Where(hide, low", f"Where(hide, {constant}"))
    proof = prove(held, {"q": (-4.0, 4.0), "k": (-4.0, 4.0)}, "float16")
    assert set(obstacles(held, proof).values()) == {""}
    assert proof.bounds["m"].hidden == (0.0 if constant == "none" else -32752.0)


def test_a_mask_that_is_read_as_a_number_is_none() -> None:
    held = graph_of_text(MASKED.replace("y = Softmax<axis = -1>(m)", "n = Neg(m)\n y = Tanh(n)"))
    proof = prove(held, {"q": (-4.0, 4.0), "k": (-4.0, 4.0)}, "float16")
    assert "masked elements" in obstacles(held, proof)["m"]
    held = graph_of_text(MASKED.replace("y = Softmax<axis = -1>(m)", "y = Identity(m)"))
    proof = prove(held, {"q": (-4.0, 4.0), "k": (-4.0, 4.0)}, "float16")
    assert obstacles(held, proof)["y"]


def test_scores_below_the_stand_in_of_minus_infinity() -> None:
    held = graph_of_text(
        """g (float[2,4] s, float[2,4] hide) => (float[2,4] y) <float low = {-100000}> {
            m = Mul(hide, low)
            a = Add(s, m)
            y = Softmax<axis = -1>(a)
        }"""
    )
    held_mask = {"hide": (0.0, 1.0)}
    proof = prove(held, {"s": (-40000.0, 40000.0), **held_mask}, "float16")
    assert obstacles(held, proof)["a"]  # a share of a mask is an ordinary number


def test_loops_are_unknown_inside_and_bounded_behind() -> None:
    held = graph_of_text(
        """g (float[2] x) => (float[2] y) <int64 n = {5}, bool go = {1}, float one = {1.0}> {
            y = Loop(n, go, x) <body = b (int64 i, bool c, float[2] s) => (bool d, float[2] t) {
                d = Identity(c)
                u = Add(s, one)
                t = Tanh(u)
            }>
        }"""
    )
    proof = prove(held, {"x": (-3.0, 3.0)}, "float16")
    assert "s" not in proof.bounds and "u" not in proof.bounds
    assert -3.01 < proof.bounds["y"].lo <= -3 and proof.bounds["y"].hi == pytest.approx(3, 1e-3)


VARIANCE = """g (float[2,64] x) => (float[2,1] y) <float two = {2.0}, float eps = {0.00001}> {
    s = Pow(x, two)
    a = ReduceMean<axes = [-1]>(s)
    m = ReduceMean<axes = [-1]>(x)
    b = Pow(m, two)
    v = Sub(a, b)
    e = Add(v, eps)
    y = Sqrt(e)
}"""


def test_a_variance_by_cancellation_is_not_clear_in_bfloat16() -> None:
    held = graph_of_text(VARIANCE, 17)
    ranges = {"a": seen(90.0, 110.0), "b": seen(85.0, 105.0), "v": seen(2.0, 6.0),
              "e": seen(2.0, 6.0), "x": seen(-5.0, 15.0), "m": seen(9.0, 10.5)}  # fmt: skip
    (plain,) = prove(held, {"x": (-5.0, 15.0)}, "bfloat16").domains
    assert not plain.clear and plain.lo < 0
    (check,) = prove(held, {"x": (-5.0, 15.0)}, "bfloat16", seen=ranges).domains
    assert not check.clear and check.lo < 0
    (fine,) = prove(held, {"x": (-5.0, 15.0)}, "float16", seen=ranges).domains
    assert fine.clear and fine.evidence == "seen"
    (told,) = prove(held, {"x": (-5.0, 15.0)}, "float16", seen=ranges, errors={"e": 1.0}).domains
    assert not told.clear


def test_levels_of_safety() -> None:
    held = graph("y = relu(x)", "z = exp(y)", "u = mul(z, z)", "v = exp(u)", outputs="v",
                 operands={"u": "self other"})  # fmt: skip
    proof = prove(held, {"x": (-5.0, 12.0)}, "float16")
    ranges = {
        "x": seen(-1, 2),
        "y": seen(0, 2),
        "z": seen(0, 7),
        "u": seen(0, 50),
        "v": seen(0, 6e4),
    }
    found = safety(held, proof, ranges, "float16")
    assert found["y"].level == "PROVED"
    assert found["y"].bound == 12.0 and found["y"].slack == 6.0
    assert found["y"].margin == pytest.approx(65520 / 12)
    assert found["z"].level == "CALIBRATED" and found["z"].margin == pytest.approx(65520 / 7)
    assert found["v"].level == "AT RISK"
    alone = safety(held, None, ranges, "float16")
    assert [alone[n].level for n in "yzuv"] == ["CALIBRATED"] * 3 + ["AT RISK"]
    assert safety(held, None, {}, "float16")["y"].level == "AT RISK"


def test_masks_are_not_at_risk() -> None:
    held = graph_of_text(MASKED)
    ranges = {n: seen(-30, 30) for n in ("q", "k", "s")} | {"y": seen(0, 1)}
    ranges["m"] = Range(-3.4e38, 30.0, 30.0, 1e-3, elements=100)
    found = safety(held, None, ranges, "float16", masks={"m", "low"})
    assert {s.level for s in found.values()} == {"CALIBRATED"}
    assert safety(held, None, ranges, "float16")["Softmax_2"].level == "AT RISK"


def test_a_proof_lifts_the_headroom_that_data_asks_for() -> None:
    held = graph("y = relu(x)", outputs="y")
    book = RuleBook(load())
    ranges = {"x": seen(0.0, 2e4), "y": seen(0.0, 2e4)}
    assert classify(held, book, "float16", ranges).decisions["y"].cls == "deny"
    proof = prove(held, {"x": (0.0, 3e4)}, "float16")
    lifted = classify(held, book, "float16", ranges, proved=proof.fitting(held))
    assert lifted.decisions["y"].cls != "deny"
    beyond = {"x": seen(0.0, 7e4), "y": seen(0.0, 7e4)}
    kept = classify(held, book, "float16", beyond, proved=proof.fitting(held))
    assert kept.decisions["y"].cls == "deny"  # data goes before a contract that it breaks


@given(st.floats(-1e5, 1e5, width=32), st.sampled_from(["float16", "bfloat16"]))
def test_rounding_is_the_type_s_own(number: float, low: Low) -> None:
    limits = FLOAT_TYPES[low]
    rounded = float(round_to(number, limits))
    if abs(number) < limits.overflow:
        assert rounded == float(np.float32(number).astype(TYPES[low]))
    assert float(rounding_errors(np.asarray(number), limits)) >= abs(rounded - number)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 10**6))
def test_spectral_is_an_upper_bound(rows: int, columns: int, seed: int) -> None:
    matrix = np.random.default_rng(seed).normal(size=(rows, columns)) * 10.0 ** (seed % 40 - 20)
    exact = np.linalg.norm(matrix, 2)
    assert exact <= spectral(matrix) <= exact * 1.001


MASKED_MEAN = """g (float[2,5,4] x, int64[2,5] mask) => (float[2,4] y)
    <int64[1] last = {{-1}}, int64[1] one = {{1}}, float least = {{{least}}}> {{
        m = Unsqueeze(mask, last)
        f = Cast<to = 1>(m)
        p = Mul(x, f)
        s = ReduceSum<keepdims = 0>(p, one)
        c = ReduceSum<keepdims = 0>(f, one)
        d = Max(c, least)
        y = Div(s, d)
    }}"""
MASK = {"x": (-3.0, 3.0), "mask": (0, 1)}


def test_a_mean_over_a_mask_is_no_larger_than_its_values() -> None:
    graph = graph_of_text(MASKED_MEAN.format(least="1e-9"), 18)
    kept = [n.name for n in graph.nodes if n.outputs[0] in ("c", "d", "y")]
    bound = prove(graph, MASK, "float16", kept=kept).bounds["y"]
    assert 3.0 <= bound.magnitude <= 3.1
    # Where the least value may be rounded to zero, an empty mask divides zero by zero.
    assert "y" not in prove(graph, MASK, "float16").bounds
    safe = graph_of_text(MASKED_MEAN.format(least="1.0"), 18)
    assert prove(safe, MASK, "float16").bounds["y"].magnitude <= 3.1


@pytest.mark.parametrize("span", [(-1, 1), (0.0, 1.0)])
def test_weights_that_may_be_negative_or_fractions_are_no_mask(span: tuple[float, float]) -> None:
    text = """g (float[2,5] x, float[2,5] f) => (float[2] y)
        <int64[1] one = {1}, float least = {1e-3}> {
            p = Mul(x, f)
            s = ReduceSum<keepdims = 0>(p, one)
            c = ReduceSum<keepdims = 0>(f, one)
            d = Max(c, least)
            y = Div(s, d)
        }"""
    bound = prove(graph_of_text(text, 18), {"x": (-3.0, 3.0), "f": span}, "float16").bounds["y"]
    assert bound.magnitude > 100
