"""Windows of loss scales: from histograms known by construction, and from backward passes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import nn

from ampconvert.errors import UserError
from ampconvert.frontends import fx
from ampconvert.frontends.fx_gradients import describe_loss, gradient_exponents
from ampconvert.ranges.loss_scale import ExponentHistogram, advise
from tests.models import Case, Fn, captured

FLOATS = arrays.arrays(np.float32, st.integers(0, 60), elements=st.floats(width=32))


@given(FLOATS)
def test_a_histogram_counts_what_frexp_gives(array: np.ndarray[Any, Any]) -> None:
    found = ExponentHistogram.of(array)
    finite = array[np.isfinite(array)].astype(np.float64)
    exponents = np.frexp(finite[finite != 0])[1]
    want = {int(e): int(np.count_nonzero(exponents == e)) for e in exponents}
    assert dict(found.counts) == want
    assert found.zeros == np.count_nonzero(finite == 0)
    assert found.nonfinite == array.size - finite.size
    assert found.largest == np.abs(finite).max(initial=0.0)


@given(FLOATS, st.integers(0, 60), st.integers(0, 60))
def test_merging_parts_in_any_order_is_one_pass(
    array: np.ndarray[Any, Any], first: int, second: int
) -> None:
    a, b, c = np.split(array, sorted((min(first, array.size), min(second, array.size))))
    of = ExponentHistogram.of
    whole = of(array)
    assert of(a).merge(of(b)).merge(of(c)) == whole
    assert of(c).merge(of(a).merge(of(b))) == whole
    assert ExponentHistogram({}).merge(whole) == whole


def histogram(*numbers: float) -> ExponentHistogram:
    return ExponentHistogram.of(np.array(numbers, np.float32))


def test_the_window_of_two_numbers_is_known() -> None:
    """2^-30 has to reach 2^-24, and 2^-10 times 4 has to stay below 2^16."""
    found = advise({"g": histogram(2.0**-30, 2.0**-10)}, "float16", share=0.4, mass=0.0)
    assert found.window == (6, 23)
    assert found.recommended == 2.0**15
    assert found.needed
    assert advise({"g": histogram(2.0**-30, 2.0**-10)}, "float16", margin=0, mass=0.0).window == (
        6, 25,
    )  # fmt: skip


@settings(max_examples=50)
@given(
    st.lists(st.floats(2.0**-30, 2.0**10, width=32), min_size=1, max_size=30),
    st.integers(-12, 12),
)
def test_the_borders_of_a_tensors_window_are_where_float16_gives_in(
    numbers: list[float], power: int
) -> None:
    """Against numpy's own float16: at the borders nothing overflows or is lost beyond the share,
    and one step further something does.
    """
    gradient = np.array(numbers, np.float32) * np.float32(2.0**power)
    (tensor,) = advise({"g": ExponentHistogram.of(gradient)}, "float16", mass=1.0, margin=0).tensors
    scaled = gradient * np.float32(2.0**tensor.largest)
    assert scaled.max() <= 65504 < scaled.max() * 2
    lost = np.mean(gradient.astype(np.float64) * 2.0**tensor.smallest < 2.0**-24)
    assert lost <= 0.01
    assert np.mean(gradient.astype(np.float64) * 2.0 ** (tensor.smallest - 1) < 2.0**-24) > 0.01


def test_a_share_of_small_elements_may_be_lost_if_they_weigh_little() -> None:
    large = np.full(990, 2.0**-5, np.float32)
    few = np.full(10, 2.0**-40, np.float32)
    many = np.full(11, 2.0**-40, np.float32)
    of = ExponentHistogram.of
    (tensor,) = advise({"g": of(np.append(large, few))}, "float16").tensors
    assert tensor.smallest == -19 and tensor.lost == 0.01
    (tensor,) = advise({"g": of(np.append(large, many))}, "float16").tensors
    assert tensor.smallest == 16
    # Where none of the squares may be lost either, they all have to be kept.
    (tensor,) = advise({"g": of(np.append(large, few))}, "float16", mass=0.0).tensors
    assert tensor.smallest == 16


def test_what_no_scale_fits_names_the_fewest_tensors() -> None:
    spread = {f"good{i}": histogram(2.0**-26, 2.0**-8) for i in range(4)}
    found = advise({**spread, "huge": histogram(2.0**12), "wide": histogram(2.0**-40, 1.0)},
                   "float16", mass=0.0)  # fmt: skip
    assert found.window is None
    assert [t.name for t in found.outside] == ["huge", "wide"]
    assert all(t.allows(round(math.log2(found.recommended))) for t in found.tensors[:4])
    wide = found.tensors[-1]
    assert wide.smallest > wide.largest
    assert "2 tensors" in found.reason
    kept = advise({**spread, "huge": histogram(2.0**12)}, "float16", full=["huge"])
    assert kept.window is not None


def test_bfloat16_needs_none_and_says_why() -> None:
    found = advise({"g": histogram(2.0**-60, 2.0**20)}, "bfloat16", mass=0.0)
    assert (found.needed, found.recommended) == (False, 1.0)
    assert "exponents of FP32" in found.reason


def test_gradients_that_are_no_numbers_are_beyond_any_scale() -> None:
    found = advise({"g": histogram(1.0, math.inf), "h": histogram(1.0)}, "float16")
    assert found.window is None
    assert [t.name for t in found.outside] == ["g"]
    assert "in float32 already" in found.reason


def test_tensors_without_a_gradient_have_no_say() -> None:
    found = advise({"dead": histogram(0.0, 0.0), "g": histogram(2.0**-30)}, "float16")
    assert [t.name for t in found.tensors] == ["g"]
    assert advise({"dead": histogram(0.0)}, "float16").window == (0, 0)


class Scaled(nn.Module):
    """loss = factor * sum(w * x): the gradient of w is factor * x, bit for bit."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor
        self.w = nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.w * x).sum() * self.factor


def exponents_of(module: nn.Module, *data: torch.Tensor) -> dict[str, ExponentHistogram]:
    program = captured(Case(module, (data[0],)), dynamic_batch=False)
    return gradient_exponents(program, [((x,), {}) for x in data])


def test_a_models_own_loss_gives_the_gradients_by_hand() -> None:
    x = torch.tensor([2.0**-30, 3 * 2.0**-20, 0.0, 2.0**-10])
    found = exponents_of(Scaled(1.0), x)
    assert dict(found["p_w"].counts) == {-29: 1, -18: 1, -9: 1}
    assert found["p_w"].zeros == 1
    assert dict(found["mul"].counts) == {1: 4}  # of the products each is 1
    assert "own loss" in describe_loss(captured(Case(Scaled(1.0), (x,)), dynamic_batch=False))


@pytest.mark.parametrize("power", [-20, 7])
def test_a_scaled_loss_shifts_the_window_back(power: int) -> None:
    x = torch.tensor([2.0**-12, 2.0**-14, 2.0**-9, 2.0**-10])
    program = captured(Case(Scaled(1.0), (x,)), dynamic_batch=False)
    names = {"mul", "p_w"}  # what comes before the factor
    found = {n: h for n, h in exponents_of(Scaled(1.0), x).items() if n in names}
    scaled = {n: h for n, h in exponents_of(Scaled(2.0**power), x).items() if n in names}
    plain, moved = (advise(h, "float16", fx.read(program)) for h in (found, scaled))
    assert plain.window is not None and moved.window is not None
    assert moved.window == tuple(end - power for end in plain.window)
    assert moved.recommended == plain.recommended * 2.0**-power


def test_batches_are_merged_exactly() -> None:
    first, second = torch.rand(4) + 0.1, torch.rand(4) * 1e-6
    both = exponents_of(Scaled(1.0), first, second)
    apart = [exponents_of(Scaled(1.0), x) for x in (first, second)]
    assert both == {name: apart[0][name].merge(apart[1][name]) for name in apart[0]}


class Layered(nn.Module):
    """The gradient of `tiny` is 2^-60 times that of `big`."""

    def __init__(self) -> None:
        super().__init__()
        self.tiny, self.big, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.tiny(x) * 2.0**-60 + self.big(x))


def test_an_empty_window_names_layer_and_line() -> None:
    torch.manual_seed(0)
    program = captured(Case(Layered(), (torch.randn(2, 4),)))
    graph = fx.read(program)
    found = advise(gradient_exponents(program, [((torch.randn(2, 4),), {})]), "float16", graph)
    assert found.window is None
    assert {t.scope for t in found.outside} == {"tiny"}
    assert {t.label for t in found.outside} >= {"tiny.weight", "tiny.bias"}
    assert all(t.where for t in found.outside if not t.label)


def test_an_output_called_loss_is_the_loss() -> None:
    def forward(m: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = m.a(x)
        return {"logits": y * 1e6, "loss": y.square().mean()}

    program = captured(Case(Fn(forward, a=nn.Linear(4, 4)), (torch.randn(8, 4),)))
    assert describe_loss(program) == "the model's own loss, its output loss"
    found = gradient_exponents(program, [((torch.randn(8, 4),), {})])
    assert found["p_a_weight"].largest < 100 and "mul" not in found


def test_without_a_loss_a_stand_in_is_named() -> None:
    program = captured(Case(nn.Linear(4, 4), (torch.randn(8, 4),)))
    assert "stand-in" in describe_loss(program)
    found = gradient_exponents(program, [((torch.randn(8, 4),), {})])
    assert set(found) == {"p_weight", "p_bias", "linear"}
    assert found["linear"].nonzero == 32
    assert 1e-3 < found["linear"].largest < 0.2  # about 1/32 each


def test_frozen_parameters_have_no_gradient() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    module[0].requires_grad_(False)
    assert set(exponents_of(module, torch.randn(2, 4))) == {"p_1_weight", "p_1_bias", "linear_1"}
    module.requires_grad_(False)  # a finished model: all of it is meant
    assert "p_0_weight" in exponents_of(module, torch.randn(2, 4))


def test_a_model_without_parameters_has_nothing_to_scale() -> None:
    with pytest.raises(UserError, match="nothing to train"):
        exponents_of(Fn(lambda m, x: x * 2), torch.randn(3))
