"""Runs that measure: ranges, float64 answers, and the predicted error against the measured one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ampconvert.dtypes import Low
from ampconvert.errors import UserError
from ampconvert.frontends import fx_run
from ampconvert.frontends.fx_apply import TORCH, apply
from ampconvert.summary import summarise
from tests.models import CASES, Case, Fn, build, captured, plan_for


def transformer(width: int = 32) -> Case:
    layer = nn.TransformerEncoderLayer(width, 4, 2 * width, batch_first=True, activation="gelu")
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    return Case(encoder, (torch.randn(4, 12, width),))


def perceptron() -> Case:
    parts = [
        nn.Linear(32, 64),
        nn.Tanh(),
        nn.Linear(64, 64),
        nn.GELU(),
        nn.Linear(64, 32),
        nn.ReLU(),
        nn.Linear(32, 16),
    ]
    return Case(nn.Sequential(*parts).eval(), (torch.randn(32, 32),))


@pytest.mark.parametrize("low", ["float16", "bfloat16"])
@pytest.mark.parametrize("make", [transformer, perceptron])
def test_predicted_error_is_near_the_measured_one(make: Any, low: Low) -> None:
    """Everything in `low`: the sum over all roundings against what the lowered program really
    loses.
    """
    torch.manual_seed(5)
    found = make()
    program = captured(found)
    graph, plan = plan_for(program, found, low, scatter=1)
    errors = fx_run.rounding_error(program, (found.args, {}), low)
    predicted = summarise(graph, plan, errors).predicted_error
    assert predicted is not None
    want = fx_run.outputs_float64(program, [(found.args, {})])
    got = fx_run.outputs(apply(program, plan), [(found.args, {})])
    assert want is not None
    measured = np.linalg.norm(got[0][0] - want[0][0]) / np.linalg.norm(want[0][0])
    assert measured / 2 < predicted < measured * 2


@pytest.mark.parametrize("value", ["x", "p_0_weight", "linear"])
def test_one_rounded_value_is_predicted(value: str) -> None:
    """The same for a single tensor, rounded by hand; averaged over seeds, as the estimate is an
    expectation.
    """
    torch.manual_seed(1)
    found = perceptron()
    program = captured(found)
    name = next(
        n.name
        for n in program.graph.nodes
        if n.name == value or (value == "x" and n.name == "input")
    )

    class Round(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            result = super().run_node(n)
            return result.to(TORCH["bfloat16"]).float() if n.name == name else result

    with torch.no_grad():
        flat = fx_run.flat_inputs(program, found.args, {})
        want = torch.fx.Interpreter(program.graph_module).run(*flat)[0]
        got = Round(program.graph_module).run(*flat)[0]
    measured = float(((got - want).norm() / want.norm()) ** 2)
    seeds = [
        fx_run.rounding_error(program, (found.args, {}), "bfloat16", seed)[name]
        for seed in range(16)
    ]
    assert measured / 2 < sum(seeds) / 16 < measured * 2


def test_overflow_is_an_endless_error() -> None:
    found = Case(Fn(lambda m, x: m.a(x * 1e6) / 1e6, a=nn.Linear(4, 4)), (torch.rand(2, 4) + 1,))
    program = captured(found)
    errors = fx_run.rounding_error(program, (found.args, {}), "float16")
    assert errors["mul"] == math.inf or errors["mul_1"] == math.inf
    assert all(
        math.isfinite(e)
        for e in fx_run.rounding_error(program, (found.args, {}), "bfloat16").values()
    )


@pytest.mark.parametrize("name", CASES)
def test_the_error_of_every_model_can_be_estimated(name: str) -> None:
    found = build(name)
    program = captured(found)
    errors = fx_run.rounding_error(program, (found.args, found.kwargs), "float16")
    assert all(e >= 0 for e in errors.values())
    if name != "nothing_to_lower":
        assert sum(errors.values()) > 0


@pytest.mark.parametrize("name", CASES)
def test_float64_answers_are_the_same_to_float32s_digits(name: str) -> None:
    found = build(name)
    program = captured(found)
    batch = (found.args, found.kwargs)
    single = fx_run.outputs(program, [batch])[0]
    double = fx_run.outputs_float64(program, [batch])
    assert double is not None or name in ("half_weight", "cond")
    for a, b in zip(single, double[0] if double else single, strict=True):
        assert a.shape == b.shape
        if a.dtype.kind == "f":
            assert double is None or b.dtype == np.float64
            np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-4)
        else:
            np.testing.assert_array_equal(a, b)


def test_ranges_are_merged_over_batches() -> None:
    found = Case(Fn(lambda m, x: m.a(x), a=nn.Identity()), (torch.zeros(2, 3),))
    program = captured(found, dynamic_batch=False)
    batches = [
        ((torch.tensor([[1.0, -4.0, 0.0]] * 2),), {}),
        ((torch.tensor([[9.0, 2e-6, -math.inf]] * 2),), {}),
    ]
    steps: list[int] = []
    found_range = fx_run.calibrate(program, batches, steps.append)[
        program.graph_signature.user_inputs[0]
    ]  # type: ignore[index]
    assert steps == [1, 2]
    assert (found_range.minimum, found_range.maximum, found_range.elements) == (-4.0, 9.0, 12)
    assert (
        found_range.tiny == pytest.approx(2e-6) and found_range.has_inf and not found_range.has_nan
    )


def test_masks_stay_out_of_the_unmasked_magnitude() -> None:
    found = build("masks")
    program = captured(found)
    ranges = fx_run.calibrate(program, [(found.args, {})])
    masked = [r for r in ranges.values() if r.minimum < -1e8]
    assert masked and all(r.unmasked < 1e3 for r in masked)


class Logarithm(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x - 2
        return y.log() * 2  # the line


def test_nan_is_an_error_that_names_the_value_and_the_line() -> None:
    program = captured(Case(Logarithm(), (torch.full((2, 3), 5.0),)))
    with pytest.raises(UserError, match=r"NaN at log \(test_fx_run\.py:\d+\)"):
        fx_run.calibrate(program, [((torch.zeros(2, 3),), {})])


def test_nan_in_a_weight_names_the_weight_and_nothing_of_the_graph() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(4, 4))
    module[0].weight.data[0, 0] = math.nan
    program = torch.export.export(module, (torch.ones(1, 4),), strict=False)
    with pytest.raises(UserError, match=r"^the weight 0\.weight holds NaN") as caught:
        fx_run.calibrate(program, [((torch.ones(1, 4),), {})])
    assert "\n" not in str(caught.value)


def test_nan_in_the_data_names_the_input() -> None:
    program = captured(build("mlp"))
    with pytest.raises(UserError, match=r"NaN at input"):
        fx_run.calibrate(program, [((torch.full((4, 16), math.nan),), {})])


def test_inputs_as_an_exported_model_takes_them() -> None:
    found = build("keywords")
    program = captured(found)
    (array,) = fx_run.input_arrays(
        program, (found.args, {"bias": None, "scale": 2, "x": found.kwargs["x"]})
    )
    np.testing.assert_array_equal(array, found.kwargs["x"].numpy())


def test_low_outputs_come_as_float32() -> None:
    found = Case(Fn(lambda m, x: (x.half(), x.bfloat16(), x.int())), (torch.rand(2, 3),))
    (arrays,) = fx_run.outputs(captured(found), [(found.args, {})])
    assert [a.dtype.name for a in arrays] == ["float32", "float32", "int32"]
