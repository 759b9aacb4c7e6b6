"""Parity figures: what they must be for any numbers, and what they say of broken answers."""

from __future__ import annotations

import math
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ampconvert.dtypes import FLOAT_TYPES
from ampconvert.verify.metrics import Parity, compare, default_tolerance

shapes = hnp.array_shapes(min_dims=1, max_dims=3, max_side=5)
any_float32 = st.floats(width=32, allow_nan=True, allow_infinity=True)
moderate = st.floats(min_value=-(2**40), max_value=2**40, width=32).filter(
    lambda x: x == 0 or abs(x) > 2**-40
)


@st.composite
def pairs(draw: st.DrawFn, elements: st.SearchStrategy[float]) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(shapes)
    return draw(hnp.arrays(np.float32, shape, elements=elements)), draw(
        hnp.arrays(np.float32, shape, elements=elements)
    )


@given(hnp.arrays(np.float32, shapes, elements=any_float32))
def test_identical_arrays_have_no_error(x: np.ndarray) -> None:
    p = compare("y", [x], [x.copy()], 0.0)
    assert (p.rel_l2, p.max_abs, p.exact, p.finite) == (0.0, 0.0, 1.0, True)
    assert p.sqnr_db == math.inf and p.cosine == pytest.approx(1.0)
    assert p.ok != bool(np.isnan(x).all())  # all NaN is nothing to compare with
    if not np.isnan(x).any():
        assert p.agree_top1 in (None, 1.0)


@given(pairs(moderate), st.integers(-60, 60))
def test_relative_error_does_not_depend_on_scale(
    xy: tuple[np.ndarray, np.ndarray], power: int
) -> None:
    r, c = (a.astype(np.float64) for a in xy)
    small = compare("y", [r], [c], 1e-2)
    large = compare("y", [r * 2.0**power], [c * 2.0**power], 1e-2)
    if r.any():
        assert large.rel_l2 == small.rel_l2
        assert large.ok == small.ok
    assert large.cosine == small.cosine
    assert large.max_abs == small.max_abs * 2.0**power


@given(pairs(moderate))
def test_distance_and_angle_are_symmetric(xy: tuple[np.ndarray, np.ndarray]) -> None:
    r, c = xy
    there, back = compare("y", [r], [c], 1e-2), compare("y", [c], [r], 1e-2)
    assert there.max_abs == back.max_abs
    assert there.exact == back.exact
    assert there.cosine == pytest.approx(back.cosine, abs=1e-15)
    assert there.agree_top1 == back.agree_top1


@given(pairs(moderate), st.integers(1, 4))
def test_batches_are_one_large_array(xy: tuple[np.ndarray, np.ndarray], cut: int) -> None:
    r, c = (a.ravel() for a in xy)
    cut = min(cut, r.size)
    whole = compare("y", [r], [c], 1e-2)
    parts = compare("y", [r[:cut], r[cut:]], [c[:cut], c[cut:]], 1e-2)
    assert parts.rel_l2 == pytest.approx(whole.rel_l2, rel=1e-12)
    assert parts.cosine == pytest.approx(whole.cosine, abs=1e-12)
    assert replace(parts, rel_l2=0, cosine=0, sqnr_db=0, shape=()) == replace(
        whole, rel_l2=0, cosine=0, sqnr_db=0, shape=()
    )


def test_figures_by_hand() -> None:
    p = compare("y", [np.array([3.0, 4.0])], [np.array([3.0, 4.5])], 0.2, reference_rel_l2=1e-7)
    assert p.rel_l2 == pytest.approx(0.1) and p.max_abs == 0.5 and p.sqnr_db == pytest.approx(20.0)
    assert p.exact == 0.5 and p.ok and p.samples == 2 and p.note == "" and p.agree_top1 is None
    assert p.cosine == pytest.approx((9 + 18) / (5 * math.hypot(3, 4.5)))
    assert p.reference_rel_l2 == 1e-7


@pytest.mark.parametrize("scale", [1e300, 1e-300, 1e-310])
def test_squares_neither_overflow_nor_vanish(scale: float) -> None:
    p = compare("y", [np.array([4 * scale, 8 * scale])], [np.array([8 * scale, 8 * scale])], 1.0)
    assert p.rel_l2 == pytest.approx(1 / math.sqrt(5))


def test_a_huge_candidate_of_a_tiny_reference_is_not_called_absolute() -> None:
    p = compare("y", [np.array([1e-200])], [np.array([1e200])], 1.0)
    assert p.rel_l2 == math.inf and not p.ok


def test_a_zero_reference_is_judged_absolutely() -> None:
    near = compare("y", [np.zeros(4)], [np.full(4, 1e-3)], 1e-2)
    assert near.rel_l2 == pytest.approx(2e-3) and near.ok and near.cosine == 0.0
    assert not compare("y", [np.zeros(4)], [np.ones(4)], 1e-2).ok
    assert compare("y", [np.zeros(4)], [np.zeros(4)], 0.0).cosine == 1.0


def test_shared_infinities_are_left_out() -> None:
    r = np.array([1.0, -np.inf, np.inf])
    p = compare("y", [r], [np.array([1.001, -np.inf, np.inf])], 1e-2)
    assert p.ok and p.finite and p.rel_l2 == pytest.approx(1e-3)


@pytest.mark.parametrize("wrong", [np.inf, -np.inf, np.nan])
def test_a_lost_finite_value_fails(wrong: float) -> None:
    p = compare("y", [np.ones(3)], [np.array([1.0, wrong, 1.0])], 1e9)
    assert not p.finite and not p.ok and p.rel_l2 == math.inf
    assert p.note == "1 of 3 elements are inf or NaN where the reference is finite"


@pytest.mark.parametrize("wrong", [-np.inf, np.nan, 65504.0])
def test_a_changed_infinity_fails(wrong: float) -> None:
    p = compare("y", [np.array([1.0, np.inf])], [np.array([1.0, wrong])], 1.0)
    assert not p.ok and p.finite and "1 of 2 elements should be infinite" in p.note


def test_nan_in_the_reference_is_left_out_and_said() -> None:
    p = compare("y", [np.array([1.0, np.nan])], [np.array([1.0, 7.0])], 1e-2)
    assert p.ok and p.note == "1 elements left out: the reference is NaN there"
    nothing = compare("y", [np.array([np.nan])], [np.array([7.0])], 1e-2)
    assert not nothing.ok and "NaN everywhere" in nothing.note


@pytest.mark.parametrize(
    ("r", "c", "said"),
    [
        (np.ones((2, 3)), np.ones((3, 2)), "batch 0 has shape [3, 2], the reference has [2, 3]"),
        (np.ones(2), np.ones(2, np.int64), "batch 0 has dtype int64, the reference has float64"),
        (np.ones(2, bool), np.ones(2), "batch 0 has dtype float64, the reference has bool"),
    ],
)
def test_what_cannot_be_compared_fails_and_says_why(
    r: np.ndarray, c: np.ndarray, said: str
) -> None:
    p = compare("y", [r], [c], 1e9)
    assert not p.ok and p.note == said and math.isnan(p.rel_l2)


def test_batches_must_pair_up() -> None:
    with pytest.raises(ValueError, match="y: 2 reference and 1 candidate batches"):
        compare("y", [np.ones(1), np.ones(1)], [np.ones(1)], 1.0)
    with pytest.raises(ValueError, match="0 reference"):
        compare("y", [], [], 1.0)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_])
def test_integers_and_booleans_must_be_equal(dtype: type) -> None:
    r = np.array([0, 1, 1, 1]).astype(dtype)
    c = np.array([0, 1, 1, 0]).astype(dtype)
    p = compare("y", [r], [c], 1e9)
    assert p.exact == 0.75 and not p.ok and p.note == "1 of 4 elements differ"
    assert compare("y", [r], [r], 0.0).ok
    assert p.agree_top1 is None


def test_text_is_compared_for_equality() -> None:
    r = np.array(["a", "b"], dtype=object)
    assert compare("y", [r], [r.copy()], 0.0).ok
    assert compare("y", [r], [np.array(["a", "c"], dtype=object)], 0.0).exact == 0.5


def test_low_types_are_floating() -> None:
    r = np.linspace(1, 2, 100, dtype=np.float32)
    for dtype in (np.float16, ml_dtypes.bfloat16):
        p = compare("y", [r], [r.astype(dtype)], 1e-2)
        unit = FLOAT_TYPES[np.dtype(dtype).name].unit
        assert p.ok and unit / 8 < p.rel_l2 <= unit and p.dtype == np.dtype(dtype).name


def test_complex_numbers() -> None:
    p = compare("y", [np.array([3 + 4j])], [np.array([3 + 3.5j], np.complex64)], 1.0)
    assert p.rel_l2 == pytest.approx(0.1)


def test_top1_counts_rows() -> None:
    r = np.array([[1.0, 2.0], [5.0, 2.0], [0.0, 3.0]])
    c = np.array([[1.0, 2.0], [1.0, 2.0], [np.nan, 3.0]])
    assert compare("y", [r], [c], 1.0).agree_top1 == pytest.approx(1 / 3)
    assert compare("y", [r[:, :1]], [c[:, :1]], 1.0).agree_top1 is None


def test_empty_outputs_are_equal() -> None:
    p = compare("y", [np.ones((0, 3))], [np.ones((0, 3))], 0.0)
    assert p.ok and p.samples == 0 and p.agree_top1 is None


def test_nan_tolerance_is_never_met() -> None:
    p: Parity = compare("y", [np.ones(2)], [np.ones(2)], math.nan)
    assert not p.ok


def test_default_tolerances_are_about_twenty_roundoffs() -> None:
    for low in ("float16", "bfloat16"):
        assert 20 <= default_tolerance(low) / FLOAT_TYPES[low].unit <= 21
