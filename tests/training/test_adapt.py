"""The policy, told of constructed observations: what moves to FP32, why, and when it is tried
again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ampconvert.ranges.loss_scale import ExponentHistogram
from ampconvert.training.adapt import Adaptation, Changes, suggest_scales, with_tail
from ampconvert.training.observation import Arrival, Gradient, Observation, Overflow

MATMUL, DIV = "blocks.3.attn/matmul#0", "blocks.3.attn/div#0"
LOGITS = Observation(
    {MATMUL: Overflow(81234.0, (MATMUL, DIV))},
    where={MATMUL: "model.py:42", DIV: "model.py:43"},
)
CALM = Observation()


class S:
    """The S of every group."""

    def __init__(self, values: float | Mapping[str, float] = 1.0) -> None:
        self.values = values

    def value(self, name: str = "") -> float:
        return self.values[name] if isinstance(self.values, Mapping) else self.values


def gradient(*numbers: float, place: str, scale: float = 1.0, **more: Any) -> Gradient:
    """One that was counted in FP32."""
    found = ExponentHistogram.of(np.array(numbers, np.float32))
    return Gradient(found, (place,), scale, exact=True, **more)


def seen(
    first: Arrival | None = None, overflowed: str = "", scale: float = 1.0, **numbers: float
) -> Observation:
    """Gradients by place, each of elements of about one size."""
    return Observation(
        gradients={
            place: gradient(
                *[size] * 100, place=place, scale=scale, overflowed=100 * (place == overflowed)
            )
            for place, size in numbers.items()
        },
        first=first,
    )


# ------------------------------------------------------------------------------ forward


def test_an_overflow_after_a_skipped_step_moves_at_once_and_s_is_not_to_blame() -> None:
    policy = Adaptation()
    assert not policy.heard(811, True, S(), None)
    assert policy.wants(812, skipped=True)
    found = policy.heard(812, True, S(), LOGITS)
    assert found.restore
    assert set(found.promote) == {MATMUL, DIV} == set(policy.promoted)
    assert found.lines == (
        "step 812: blocks.3.attn/matmul (model.py:42) overflowed float16 in forward: "
        "8.1e4 > 65504; it runs in float32 from now on, and is tried again after 1000 good steps",
        "step 812: blocks.3.attn/div (model.py:43) reads blocks.3.attn/matmul, which overflowed "
        "float16 in forward: 8.1e4 > 65504; it runs in float32 from now on, and is tried again "
        "after 1000 good steps",
    )
    assert policy.history == list(found.lines)


def test_an_overflow_that_no_step_was_skipped_for_is_looked_at_twice() -> None:
    policy = Adaptation()
    policy.heard(1, False, S(), CALM)
    assert not policy.wants(2, skipped=False)
    assert policy.heard(200, False, S(), LOGITS) == Changes()
    assert policy.wants(201, skipped=False)
    found = policy.heard(201, False, S(), LOGITS)
    assert set(found.promote) == {MATMUL, DIV}
    assert not found.restore


def test_an_overflow_that_does_not_come_again_moves_nothing() -> None:
    policy = Adaptation()
    policy.heard(200, False, S(), LOGITS)
    assert not policy.heard(201, False, S(), CALM)
    assert not policy.wants(202, skipped=False)
    assert not policy.heard(400, False, S(), LOGITS)


def test_what_runs_in_fp32_already_is_not_moved_again() -> None:
    policy = Adaptation()
    policy.heard(1, True, S(), None)
    assert policy.heard(2, True, S(), LOGITS)
    assert policy.heard(3, True, S(), LOGITS) == Changes()


def test_an_op_that_overflows_inside_is_told_apart() -> None:
    policy = Adaptation()
    policy.heard(1, True, S(), None)
    found = policy.heard(2, True, S(), Observation({MATMUL: Overflow(3.0, (MATMUL,))}))
    assert "inf or NaN inside, 3.0e0 in float32" in found.promote[MATMUL]


# -------------------------------------------------------------------------------- retry


def good(policy: Adaptation, step: int, steps: int) -> list[tuple[int, str]]:
    """Tell of so many good steps after `step`; when what was tried again."""
    return [
        (now, place)
        for now in range(step + 1, step + steps + 1)
        for place in policy.heard(now, False, S(), None).retry
    ]


def test_a_place_is_tried_again_and_waits_twice_as_long_each_time_it_fails() -> None:
    policy = Adaptation(retry_after=10)
    policy.heard(0, True, S(), None)
    policy.heard(1, True, S(), LOGITS)
    assert good(policy, 1, 9) == []
    assert policy.heard(11, True, S(), None).retry == ()  # a skipped step is no good one
    assert good(policy, 11, 1) == [(12, DIV), (12, MATMUL)]
    assert not policy.promoted
    assert policy.history[-1] == (
        "step 12: blocks.3.attn/matmul is tried in float16 again after 10 good steps"
    )
    policy.heard(13, True, S(), None)
    again = policy.heard(14, True, S(), LOGITS)
    assert "tried again after 20 good steps" in again.lines[0]
    assert good(policy, 14, 19) == []
    assert len(good(policy, 33, 1)) == 2
    assert good(policy, 34, 500) == []  # survived: final


# ----------------------------------------------------------------------------- gradients


def test_an_overflow_that_a_smaller_scale_mends_moves_nothing() -> None:
    policy = Adaptation()
    policy.heard(1, False, S(2.0**10), seen(scale=2.0**10, a=1.0, b=2.0**-20))
    bad = seen(Arrival(0, "a"), "a", 2.0**10, a=100.0, b=2.0**-20)
    policy.heard(2, True, S(2.0**9), None)
    assert policy.heard(3, True, S(2.0**8), bad) == Changes()
    assert policy.heard(4, False, S(2.0**8), seen(scale=2.0**8, a=100.0, b=2.0**-20)) == Changes()


def test_an_overflow_moves_where_the_smaller_scale_loses_others() -> None:
    """b needs 2^6 to reach 2^-24, a overflows there."""
    policy = Adaptation()
    policy.heard(1, False, S(2.0**6), seen(scale=2.0**6, a=1.0, b=2.0**-30, c=2.0**-29))
    bad = seen(Arrival(0, "a"), "a", 2.0**6, a=2000.0, b=2.0**-30, c=2.0**-29)
    policy.heard(2, True, S(2.0**6), None)
    found = policy.heard(3, True, S(2.0**5), bad)
    assert found.promote == {
        "a": "has a gradient that overflows float16 at S = 2^6; "
        "a smaller scale loses 1 other gradient"
    }
    assert found.restore  # as a runs in FP32 now
    fine = policy.heard(4, False, S(2.0**6), seen(scale=2.0**6, b=2.0**-30, c=0.5))
    assert fine.scales == {"": 2.0**14}  # and S needn't stay where a wanted it
    assert not policy.heard(5, False, S(2.0**6), seen(scale=2.0**6, b=2.0**-30, c=0.5)).scales


def test_what_an_overflow_leaves_alone_is_told_by_the_skipped_step_itself() -> None:
    """No good step came before."""
    policy = Adaptation()
    policy.heard(1, True, S(2.0**5), None)
    for power, moves in ((4, False), (3, True)):
        bad = seen(Arrival(0, "a"), "a", 2.0 ** (power + 1), a=1e4, b=2.0**-28, c=1.0)
        found = policy.heard(6 - power, True, S(2.0**power), bad)
        assert bool(found.promote) == found.restore == moves


def test_the_fewest_ops_move() -> None:
    """One that is lost, rather than all those that overflow makes infinite."""
    policy = Adaptation()
    many = ("a", "m", "n")
    policy.heard(1, False, S(2.0**6), seen(scale=2.0**6, a=1.0, b=2.0**-30))
    bad = seen(Arrival(0, "a"), "a", 2.0**6, a=2000.0, b=2.0**-30)
    wide = Gradient(bad.gradients["a"].histogram, many, 2.0**6, overflowed=100)
    bad = Observation(gradients={**bad.gradients, "a": wide}, first=bad.first)
    policy.heard(2, True, S(2.0**6), None)
    found = policy.heard(3, True, S(2.0**5), bad)
    assert set(found.promote) == {"b"}
    assert not found.restore
    assert "at S = 2^5, which that of a needs" in found.promote["b"]


def test_a_window_that_is_empty_once_s_was_lowered_moves_the_one_that_closes_it() -> None:
    policy = Adaptation()
    policy.heard(1, True, S(2.0**4), None)
    policy.heard(2, True, S(2.0**3), seen(Arrival(0, "a"), "a", 2.0**4, a=1e4))
    sizes = {"a": 8000.0, "b": 2.0**-30, "c": 2.0**-29, "d": 2.0**-31}
    found = policy.heard(3, False, S(2.0**3), seen(scale=2.0**3, **sizes))
    assert set(found.promote) == {"a"}
    assert "a smaller scale loses 3 other gradients" in found.promote["a"]
    assert found.scales == {"": 2.0**42}  # what is left is below 2^-28


def test_a_gradient_that_the_others_scale_loses_moves_after_some_patience() -> None:
    sizes = {"a": 8000.0, "b": 2.0**-35, "c": 7000.0}
    policy = Adaptation(patience=3)
    look = seen(scale=2.0**3, **sizes)
    assert not policy.heard(200, False, S(8.0), look)
    assert not policy.heard(400, False, S(8.0), look)
    found = policy.heard(600, False, S(8.0), look)
    assert set(found.promote) == {"b"}
    assert "loses 100% of its gradient" in found.promote["b"]
    assert found.scales == {}  # the others bear no more


def test_patience_starts_again_when_the_gradient_is_back() -> None:
    bad = seen(scale=8.0, a=8000.0, b=2.0**-35, c=7000.0)
    fine = seen(scale=8.0, a=8000.0, b=2.0**-20, c=7000.0)
    policy = Adaptation(patience=3)
    for step, look in enumerate((bad, bad, fine, bad, bad)):
        assert not policy.heard(step, False, S(8.0), look)


def test_few_or_light_elements_may_be_lost() -> None:
    """A tail that holds a tenth of the elements and nothing of the sum is no reason to move."""
    tail = gradient(*[1.0] * 90, *[2.0**-40] * 10, place="b")
    look = Observation(gradients={"a": gradient(60000.0, place="a"), "b": tail})
    policy = Adaptation(patience=1)
    assert not policy.heard(1, False, S(), look)


def test_one_element_in_two_hundred_may_be_lost_however_much_it_weighs() -> None:
    """At the largest S that a allows, not at a smaller one, b loses its smallest elements alone."""
    policy = Adaptation(patience=1)
    for few, moves in ((5, False), (15, True)):
        b = gradient(*[2.0**-24] * (1000 - few), *[2.0**-25] * few, place="b")
        look = Observation(gradients={"a": gradient(60000.0, place="a"), "b": b})
        assert bool(policy.heard(1, False, S(), look)) == moves


def test_a_gradient_too_large_for_any_scale_moves() -> None:
    policy = Adaptation()
    policy.heard(1, True, S(1.0), None)
    found = policy.heard(2, True, S(0.5), seen(Arrival(0, "a"), "a", 1.0, a=1.0))
    assert "where nothing is scaled up" in found.promote["a"]


def test_a_loss_that_is_not_finite_moves_nothing() -> None:
    policy = Adaptation()
    for step, scale in enumerate((1.0, 0.5, 0.25)):
        bad = seen(Arrival(0, "a", outside=True), "a", scale, a=1.0)
        assert policy.heard(step, True, S(scale), bad) == Changes()


def test_groups_with_scales_of_their_own_share_no_window() -> None:
    sizes = {"x/a": 60000.0, "y/b": 2.0**-35}
    policy = Adaptation(patience=1, group_of=lambda place: place[0])
    assert not policy.heard(1, False, S({"x": 1.0, "y": 2.0**20}), seen(**sizes))
    assert Adaptation(patience=1).heard(1, False, S(), seen(**sizes))


def test_what_is_flushed_unseen_is_estimated_from_what_is_left() -> None:
    """Uniform numbers of which float16 keeps those above its smallest number."""
    numbers = np.linspace(0, 2.0**-22, 4001)[1:].astype(np.float32)
    kept = np.where(numbers < 2.0**-24, 0, numbers).astype(np.float32)
    found = Gradient(ExponentHistogram.of(kept), ("a",))
    assert with_tail(found).lost(0, "float16") == pytest.approx(0.25, abs=0.01)
    assert found.histogram.lost(0, "float16") == 0
    exact = Gradient(ExponentHistogram.of(kept), ("a",), exact=True)
    assert with_tail(exact) is exact.histogram
    no_zeros = Gradient(ExponentHistogram.of(kept[kept > 0]), ("a",))
    assert with_tail(no_zeros) is no_zeros.histogram


# ---------------------------------------------------------------------- when to look, rest


def test_the_first_step_is_observed_and_every_so_many() -> None:
    policy = Adaptation(observe_every=50)
    assert policy.wants(1, skipped=False)
    policy.heard(1, False, S(), CALM)
    looked = [step for step in range(2, 202) if policy.wants(step, skipped=False)]
    assert looked == [50, 100, 150, 200]
    assert policy.wants(77, skipped=True)
    assert not any(_calm(Adaptation(observe_every=0)).wants(step, False) for step in range(300))


def _calm(policy: Adaptation) -> Adaptation:
    policy.heard(1, False, S(), CALM)
    return policy


def test_suggested_scales_use_the_room_of_each_layer() -> None:
    look = seen(**{"x/a": 1.0, "x/b": 5.0, "y/c": 2.0**-20, "z/d": 0.0})
    found = suggest_scales(look, lambda place: place[0])
    assert found == {"x": 2.0**11, "y": 2.0**33}  # 5 * 2^11 < 65504 / 4 < 5 * 2^12
    assert suggest_scales(look, margin=0) == {"": 2.0**13}


def test_what_was_freed_is_remembered() -> None:
    policy = Adaptation()
    policy.heard(1, True, S(1.0), None)
    policy.heard(2, True, S(0.5), seen(Arrival(0, "a"), "a", 1.0, a=1.0))
    other = Adaptation()
    other.load_state_dict(policy.state_dict())
    assert other.heard(3, False, S(0.5), seen(scale=0.5, b=1.0)).scales == {"": 2.0**13}


STEPS = st.lists(
    st.tuples(
        st.booleans(),
        st.none()
        | st.sampled_from(
            [
                CALM,
                LOGITS,
                seen(Arrival(0, "a"), "a", 64.0, a=2000.0, b=2.0**-30),
                seen(scale=64.0, a=1000.0, b=2.0**-33),
                seen(scale=64.0, a=60000.0, b=2.0**-33, c=1.0),
            ]
        ),
    ),
    max_size=25,
)


@settings(max_examples=60)
@given(STEPS, st.integers(0, 25))
def test_a_saved_policy_goes_on_as_it_would_have(
    steps: list[tuple[bool, Observation | None]], cut: int
) -> None:
    """And two that hear the same decide the same, as ranks do."""
    one, other = (Adaptation(retry_after=3, patience=2) for _ in range(2))
    for step, (skipped, look) in enumerate(steps):
        if step == cut:
            state = json.loads(json.dumps(other.state_dict()))
            other = Adaptation(retry_after=3, patience=2)
            other.load_state_dict(state)
        changes = one.heard(step, skipped, S(32.0), look)
        assert other.heard(step, skipped, S(32.0), look) == changes
        assert other.promoted == one.promoted
        assert set(changes.promote) <= set(one.promoted)
        assert not set(changes.retry) & set(one.promoted)
        assert len(changes.lines) == len(changes.promote) + len(changes.retry)
    assert other.state_dict() == one.state_dict()
