"""Energies of rounding: predicted and measured, per value, per operand and per op."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch import nn

from ampconvert.dtypes import Low
from ampconvert.errors import UserError
from ampconvert.frontends import fx, fx_errors
from ampconvert.frontends.fx_apply import TORCH
from ampconvert.frontends.fx_run import flat_inputs
from ampconvert.frontends.fx_targets import target_nodes
from ampconvert.ranges.sensitivity import Prediction, lone_op_errors
from tests.graphs import graph as core_graph
from tests.models import CASES, Case, Fn, build, captured
from tests.test_fx_run import perceptron, transformer

Batches = list[tuple[tuple[Any, ...], dict[str, Any]]]


def batches(found: Case, *more: torch.Tensor) -> Batches:
    return [(found.args, found.kwargs), *(((tensor,), {}) for tensor in more)]


def rounded_by_hand(program: Any, batch: Any, name: str, low: Low) -> float:
    """The energy of rounding one value, in float32, without any reuse."""

    class Round(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            result = super().run_node(n)
            return result.to(TORCH[low]).float() if n.name == name else result

    with torch.no_grad():
        flat = flat_inputs(program, *batch)
        want = torch.fx.Interpreter(program.graph_module).run(*flat)[0]
        got = Round(program.graph_module).run(*flat)[0]
    return float(((got.double() - want.double()).norm() / want.double().norm()) ** 2)


@pytest.mark.parametrize("low", ["float16", "bfloat16"])
@pytest.mark.parametrize("make", [transformer, perceptron])
def test_predicted_ops_rank_and_add_up_like_measured_ones(make: Any, low: Low) -> None:
    torch.manual_seed(2)
    found = make()
    program = captured(found)
    graph = fx.read(program)
    data = batches(found, torch.randn_like(found.args[0]))
    prediction = fx_errors.predict(program, data, low, probes=8, edges=True)
    predicted = lone_op_errors(graph, prediction)
    measured = fx_errors.measured_op_errors(program, graph, data, low)
    assert predicted.keys() == measured.keys()
    names = [name for name in measured if measured[name] > 0]
    rank = spearmanr([predicted[n] for n in names], [measured[n] for n in names]).statistic
    assert rank > 0.9
    ratios = [math.sqrt(predicted[n] / measured[n]) for n in names]
    assert np.percentile(ratios, 10) > 0.5 and np.percentile(ratios, 90) < 2
    values = graph.values.values()
    given = sum(prediction.values.get(v.name, 0.0) for v in values if v.kind != "computed")
    total = fx_errors.measured_total(program, graph, data, low)
    assert 0.5 < math.sqrt((given + sum(prediction.results.values())) / total) < 2


@pytest.mark.parametrize("low", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["p_0_weight", "linear", "gelu", "input"])
def test_a_measured_value_is_what_a_run_by_hand_gives(name: str, low: Low) -> None:
    torch.manual_seed(3)
    found = perceptron()
    program = captured(found)
    name = name if name != "input" else str(program.graph_signature.user_inputs[0])
    by_hand = rounded_by_hand(program, (found.args, {}), name, low)
    measured = fx_errors.measured_errors(program, batches(found), low, [name])
    assert measured == {name: pytest.approx(by_hand, rel=1e-2)}


def test_energies_are_over_all_batches_together() -> None:
    """Sums of squares over sums of squares: a batch counts by the size of its outputs."""
    found = perceptron()
    program = captured(found)
    small, large = found.args[0], found.args[0] * 50
    one = fx_errors.measured_errors(program, [((small,), {})], "bfloat16", ["linear"])["linear"]
    two = fx_errors.measured_errors(program, [((large,), {})], "bfloat16", ["linear"])["linear"]
    both = fx_errors.measured_errors(
        program, [((small,), {}), ((large,), {})], "bfloat16", ["linear"]
    )["linear"]
    with torch.no_grad():
        sizes = [float(found.module(x).double().square().sum()) for x in (small, large)]
    assert both == pytest.approx((one * sizes[0] + two * sizes[1]) / sum(sizes), rel=1e-3)
    (last,) = (node.name for node in target_nodes(program))
    data: Batches = [((small,), {}), ((large,), {})]
    predicted = fx_errors.predict(program, data, "bfloat16", probes=2).values[last]
    measured = fx_errors.measured_errors(program, data, "bfloat16", [last])[last]
    assert predicted == pytest.approx(measured, rel=1e-2)  # no chance in the output's own rounding


def test_what_operands_on_a_grid_make_loses_nothing() -> None:
    """A view, a ReLU or a concatenation of rounded numbers holds rounded numbers."""
    found = Case(
        Fn(lambda m, x: m.a(torch.cat((x.relu(), x), -1).view(-1, 16)), a=nn.Linear(16, 3)),
        (torch.randn(5, 8),),
    )
    program = captured(found, dynamic_batch=False)
    prediction = fx_errors.predict(program, batches(found), "float16")
    for name in ("relu", "cat", "view"):
        assert prediction.values[name] > 0
        assert prediction.results[name] == 0
    assert prediction.results["linear"] > 0


def test_edges_of_a_shared_value_tell_its_readers_apart() -> None:
    """y = 1000 x + sin(x): all that rounding x costs comes in through the product."""
    found = Case(Fn(lambda m, x: x * 1000 + x.sin() / 1000), (torch.rand(64) + 0.5,))
    program = captured(found, dynamic_batch=False)
    graph = fx.read(program)
    prediction = fx_errors.predict(program, batches(found), "float16", probes=4, edges=True)
    x = graph.inputs[0]
    at = {node: prediction.edges[node, 0] for node in ("mul", "sin")}
    assert at["mul"] == pytest.approx(prediction.values[x], rel=1e-3)
    assert at["sin"] < 1e-10 * at["mul"]
    assert prediction.edges["add", 0] == prediction.values["mul"]
    measured = fx_errors.measured_op_errors(program, graph, batches(found), "float16", ["sin"])
    assert measured["sin"] < 1e-10 * at["mul"]


def test_an_operand_read_twice_has_two_edges() -> None:
    found = Case(Fn(lambda m, x: x * x), (torch.rand(256) + 0.5,))
    program = captured(found, dynamic_batch=False)
    prediction = fx_errors.predict(program, batches(found), "float16", edges=True)
    x = fx.read(program).inputs[0]
    for position in (0, 1):
        edge = prediction.edges["mul", position]
        assert edge == pytest.approx(prediction.values[x] / 4, rel=1e-5)


def test_kept_operands_are_not_rounded() -> None:
    found = perceptron()
    program = captured(found)
    graph = fx.read(program)
    keep = {"linear": (0, 1, 2)}
    prediction = fx_errors.predict(program, batches(found), "float16", edges=True)
    assert lone_op_errors(graph, prediction, keep=keep)["linear"] == pytest.approx(
        prediction.results["linear"]
    )
    args: Any = (program, graph, batches(found), "float16", ["linear"])
    kept = fx_errors.measured_op_errors(*args, keep=keep)["linear"]
    values = fx_errors.measured_errors(program, batches(found), "float16", ["linear"])
    assert kept == pytest.approx(values["linear"], rel=1e-6)
    assert fx_errors.measured_op_errors(*args)["linear"] > 1.2 * kept


def test_rows_of_a_table_that_nobody_looks_up_do_not_count() -> None:
    torch.manual_seed(0)
    table = nn.Embedding(40_000, 8)
    found = Case(Fn(lambda m, i: m.a(i).sum(1), a=table), (torch.tensor([[1, 5, 5], [7, 1, 2]]),))
    program = captured(found, dynamic_batch=False)
    before = fx_errors.predict(program, batches(found), "float16").values["p_a_weight"]
    with torch.no_grad():
        table.weight[100:] *= 1e9  # beyond float16
    assert fx_errors.predict(program, batches(found), "float16").values["p_a_weight"] == before > 0
    measured = fx_errors.measured_errors(program, batches(found), "float16", ["p_a_weight"])
    assert measured["p_a_weight"] == pytest.approx(before, rel=0.9)


def test_a_model_that_answers_integers_is_judged_before_them() -> None:
    found = Case(Fn(lambda m, x: m.a(x).argmax(-1), a=nn.Linear(8, 4)), (torch.randn(16, 8),))
    program = captured(found)
    assert [node.name for node in target_nodes(program)] == ["linear"]
    prediction = fx_errors.predict(program, batches(found), "float16")
    assert prediction.values["linear"] > 0
    measured = fx_errors.measured_errors(program, batches(found), "float16", ["linear"])
    assert prediction.values["linear"] == pytest.approx(measured["linear"], rel=1e-2)


def test_integer_outputs_beside_floating_point_ones_are_no_targets() -> None:
    found = Case(
        Fn(lambda m, x: ((y := m.a(x)), y.argmax(-1)), a=nn.Linear(8, 4)), (torch.randn(16, 8),)
    )
    assert [node.name for node in target_nodes(captured(found))] == ["linear"]


def test_several_outputs_add_up() -> None:
    """Each is relative to its own size: the small one is not drowned by the large one."""
    found = Case(Fn(lambda m, x: (x * 1e4, x * 1e-4)), (torch.rand(512) + 0.5,))
    program = captured(found, dynamic_batch=False)
    x = fx.read(program).inputs[0]
    measured = fx_errors.measured_errors(program, batches(found), "bfloat16", [x])[x]
    single = rounded_by_hand(program, (found.args, {}), x, "bfloat16")
    assert measured == pytest.approx(2 * single, rel=1e-3)
    # The signs of the two are random, so that only the mean is the sum.
    predicted = fx_errors.predict(program, batches(found), "bfloat16", probes=64).values[x]
    assert predicted == pytest.approx(measured, rel=0.1)


def test_complex_outputs_are_judged_as_pairs() -> None:
    found = Case(Fn(lambda m, x: torch.fft.rfft(x)), (torch.randn(64),), onnx=False)
    program = captured(found, dynamic_batch=False)
    x = fx.read(program).inputs[0]
    measured = fx_errors.measured_errors(program, batches(found), "float16", [x])[x]
    predicted = fx_errors.predict(program, batches(found), "float16", probes=32).values[x]
    assert measured > 0 and 0.5 < predicted / measured < 2


def test_a_gradient_that_is_no_number_does_not_spoil_what_comes_before() -> None:
    """The root of 0 has an infinite derivative, and 0 times infinity is NaN."""
    found = Case(
        Fn(lambda m, x: m.a(x) + (m.a(x) * 0).sqrt() * 0, a=nn.Linear(8, 4)), (torch.randn(3, 8),)
    )
    program = captured(found)
    prediction = fx_errors.predict(program, batches(found), "float16")
    assert 0 < prediction.values["p_a_weight"] < 1e-5


def test_overflow_is_endless_in_both() -> None:
    found = Case(Fn(lambda m, x: (x * 1e6) / 1e6), (torch.rand(4) + 1,))
    program = captured(found, dynamic_batch=False)
    prediction = fx_errors.predict(program, batches(found), "float16")
    assert prediction.values["mul"] == prediction.results["mul"] == math.inf
    assert fx_errors.measured_errors(program, batches(found), "float16")["mul"] == math.inf
    graph = fx.read(program)
    assert fx_errors.measured_total(program, graph, batches(found), "float16") == math.inf


def test_a_mask_that_overflows_to_what_it_means_costs_nothing() -> None:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        masked = x.masked_fill(torch.arange(8) > 5, -1e9)
        return masked.softmax(-1)

    found = Case(Fn(forward), (torch.randn(4, 8),))
    program = captured(found)
    prediction = fx_errors.predict(program, batches(found), "float16")
    assert prediction.values["masked_fill"] < 1e-6
    measured = fx_errors.measured_errors(program, batches(found), "float16", ["masked_fill"])
    assert measured["masked_fill"] < 1e-6


HARD = ("cond", "half_weight", "several_results", "masks", "tied")


@pytest.mark.parametrize(
    "name", [n if n in HARD else pytest.param(n, marks=pytest.mark.slow) for n in CASES]
)
def test_every_model_can_be_measured_and_predicted_with_edges(name: str) -> None:
    found = build(name)
    program = captured(found)
    graph = fx.read(program)
    data = batches(found)
    ops = [node.name for node in graph.nodes][:12]
    measured = fx_errors.measured_op_errors(program, graph, data, "bfloat16", ops)
    assert set(measured) <= set(ops)
    assert all(energy >= 0 for energy in measured.values())
    prediction = fx_errors.predict(program, data, "bfloat16", edges=True)
    known = {(node.name, i) for node in graph.nodes for i in range(len(node.inputs))}
    assert set(prediction.edges) <= known
    assert set(prediction.results) <= set(prediction.values) <= set(graph.values)


def test_an_unchanged_value_ends_the_run_early() -> None:
    """Nothing behind a ReLU runs again for a change that the ReLU removes."""
    found = Case(Fn(lambda m, x: (x - 5).relu() + x * 0), (torch.rand(32),))
    program = captured(found, dynamic_batch=False)
    told: list[tuple[int, int]] = []
    measured = fx_errors.measured_errors(
        program, batches(found), "float16", ["sub"], lambda done, total: told.append((done, total))
    )
    assert measured == {"sub": 0.0}
    assert told == [(1, 1)]


def test_what_has_no_derivative_is_said_to_its_owner() -> None:
    found = Case(
        Fn(lambda m, x: torch.igamma(m.a(x).abs() + 1, x + 1), a=nn.Linear(4, 4)),
        (torch.rand(2, 4),),
    )
    program = captured(found)
    with pytest.raises(UserError, match=r"can't be estimated: .*igamma"):
        fx_errors.predict(program, batches(found), "float16")
    assert fx_errors.measured_errors(program, batches(found), "float16", ["linear"])["linear"] > 0


@settings(max_examples=40, deadline=None)
@given(
    values=st.dictionaries(st.sampled_from("xabc"), st.floats(0, 1)),
    kept=st.sets(st.integers(0, 1)),
)
def test_a_lone_op_is_its_operands_and_its_result(values: dict[str, float], kept: set[int]) -> None:
    graph = core_graph("a = relu(x)", "b = mul(a, x)", outputs="b")
    results = {name: energy / 2 for name, energy in values.items()}
    edges = {("b", 1): 0.25}
    found = lone_op_errors(graph, Prediction("float16", values, results, edges), keep={"b": kept})
    operands = [values.get("a", 0.0), 0.25]
    want = sum(e for i, e in enumerate(operands) if i not in kept) + results.get("b", 0.0)
    assert found["b"] == pytest.approx(want)
    assert found["a"] == pytest.approx(values.get("x", 0.0) + results.get("a", 0.0))
