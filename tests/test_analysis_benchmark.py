"""The analysis benchmark's own parts: autocast's rule, the bisection, attacks on bounds, tables."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from torch import nn

from ampconvert.conversion import Analysis
from ampconvert.cut import minimise
from ampconvert.frontends.fx_apply import TORCH
from ampconvert.pipeline import analyze
from ampconvert.plan import FLOAT32
from benchmarks.analysis import autocast, networks, report
from benchmarks.analysis.attacks import Attack, Seen
from benchmarks.analysis.bisection import Runs, bisect, worst_error
from benchmarks.analysis.subjects import SUBJECTS, Subject, declared
from benchmarks.zoo.registry import Sample, entries


class Mixed(nn.Module):
    """Something of every list: products, a norm, a softmax, sums of both types, a weight alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.norm, self.scale = nn.LayerNorm(8), nn.Parameter(torch.ones(8))
        self.batch = nn.BatchNorm1d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.batch(self.first(x)).relu()
        b = torch.softmax(a, -1) + a
        c = self.norm(self.second(b)).transpose(0, 1).transpose(0, 1)
        return self.second(c) * self.scale


def analysed(model: nn.Module, *args: torch.Tensor) -> Analysis:
    return analyze(model.eval(), args, data=[(args, {})])


def by_op(found: Analysis, types: dict[str, str]) -> list[tuple[str, str]]:
    ops = {node.name: node.op.removeprefix("aten::") for node in found.graph.nodes}
    return [(ops[name], dtype) for name, dtype in types.items()]


def test_autocast_lists_are_those_of_torch() -> None:
    known = autocast.lists()
    assert {("linear", "default"), ("matmul", "default"), ("lstm_cell", "default")} <= known.low
    assert {("softmax", "int"), ("layer_norm", "default"), ("rsqrt", "default")} <= known.full
    assert ("pow", "Tensor_Scalar") in known.full
    assert not known.low & known.full


def test_another_header_is_refused() -> None:
    with pytest.raises(ValueError, match="AT_FORALL_LOWER_PRECISION_FP"):
        autocast.read_lists("#define SOMETHING_ELSE(_) _(mm)\n\n")


def test_autocast_promotes_what_is_in_no_list() -> None:
    """The relu of a low value is low, a sum with float32 is float32, and so is what a bare weight
    is multiplied with; a batch norm takes float32 statistics and stays low.
    """
    found = analysed(Mixed(), torch.randn(4, 8))
    low = "float16"
    assert by_op(found, autocast.compute_types(found.graph, low)) == [
        ("linear", low), ("batch_norm", low), ("relu", low), ("softmax", FLOAT32),
        ("add", FLOAT32), ("linear", low), ("layer_norm", FLOAT32), ("transpose", FLOAT32),
        ("transpose", FLOAT32), ("linear", low), ("mul", FLOAT32),
    ]  # fmt: skip


def test_autocast_agrees_with_autocast() -> None:
    """The types that torch.autocast gives on a CPU for operators that all devices' lists share."""
    model, x = Mixed().eval(), torch.randn(4, 8)
    found = analysed(model, x)
    types = by_op(found, autocast.compute_types(found.graph, "bfloat16"))
    seen: list[torch.dtype] = []
    for module in (model.first, model.batch, model.second):
        module.register_forward_hook(lambda _m, _i, result: seen.append(result.dtype))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        final = model(x)
    assert seen == [TORCH[t] for op, t in types if op in ("linear", "batch_norm")]
    assert final.dtype == torch.float32 and types[-1] == ("mul", FLOAT32)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.integers(0, 60))
def test_the_bisection_holds_and_keeps_nothing_that_may_go(loss: list[int], limit: int) -> None:
    names = [f"n{i}" for i in range(len(loss))]
    asked: list[Sequence[str]] = []

    def holds(kept: Sequence[str]) -> bool:
        asked.append(kept)
        return sum(x for name, x in zip(names, loss, strict=True) if name not in kept) <= limit

    kept = bisect(names, holds)
    assert holds(kept) and kept == sorted(kept, key=names.index)
    assert asked[0] == []  # everything in float16 comes first
    for name in kept:
        assert not holds([other for other in kept if other != name])


def test_the_bisection_asks_in_the_packages_order() -> None:
    """Eight nodes of which the third costs too much: halves, the largest and first before others,
    all that is not settled kept.
    """
    names = list("abcdefgh")
    asked: list[str] = []

    def holds(kept: Sequence[str]) -> bool:
        asked.append("".join(kept))
        return "c" in kept

    assert bisect(names, holds) == ["c"]
    assert asked == ["", "efgh", "abcd", "cd", "", "d", "c", "c"]


def test_a_bisection_without_a_result_says_so() -> None:
    with pytest.raises(ValueError, match="does not hold"):
        bisect(["a", "b"], lambda kept: False)


def test_runs_are_counted_and_limited() -> None:
    answers = [np.zeros(2)]
    runs = Runs(lambda *_: answers, limit_s=60.0)
    assert runs(None, {}) is answers
    assert runs(None, {}, ["inner"]) is answers
    assert runs.count == 1
    runs.limit_s = -1.0
    with pytest.raises(TimeoutError, match="after 1 runs"):
        runs(None, {})


def test_the_worst_error_counts() -> None:
    right = [np.array([3.0, 4.0], np.float32), np.array([1, 2])]
    assert worst_error(right, [np.array([3.0, 4.5]), np.array([7, 7])]) == pytest.approx(0.1)
    assert worst_error(right, [np.array([3.0, np.nan]), right[1]]) == math.inf


def test_small_networks_are_solved() -> None:
    rng = np.random.default_rng(3)
    for _ in range(30):
        network = networks.small(rng)
        best = networks.cheapest(network)
        assert network.price(minimise(network)) == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("name,make", list(networks.shapes()), ids=lambda x: str(x)[:16])
def test_large_networks_have_something_to_choose(name: str, make: object) -> None:
    assert callable(make)
    network = make(600, np.random.default_rng(0))
    found = minimise(network)
    constant = [dict.fromkeys(found, side) for side in (True, False)]
    assert network.price(found) <= min(map(network.price, constant))
    if "thin" not in name:
        assert len(set(found.values())) == 2


class Sharp(nn.Module):
    """Its largest value is at one corner of its inputs, which random inputs do not meet."""

    def __init__(self) -> None:
        super().__init__()
        self.row = nn.Parameter(torch.tensor([1.0, -1.0] * 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.row).sum(-1, keepdim=True)


def attack(
    model: nn.Module, spans: list[tuple[float, float]], *args: torch.Tensor
) -> tuple[Attack, Seen, Analysis]:
    found, seen = analysed(model, *args), Seen()
    assert found.program is not None
    names = dict(zip(found.graph.inputs, spans, strict=True))
    return Attack(found.program, names, args, seen, torch.float16), seen, found


def test_a_climb_finds_the_corner() -> None:
    tried, seen, found = attack(Sharp(), [(-2.0, 2.0)], torch.zeros(1, 32))
    last = found.graph.outputs[0]
    for _ in range(4):
        tried.random()
    by_chance = seen.largest(last)
    for _ in range(4):
        tried.climb(last)
    assert by_chance < 64.0
    assert max(seen.hi[last], -seen.lo[last]) == pytest.approx(64.0, rel=1e-3)


def test_a_climb_replaces_ids() -> None:
    """One row of the table makes the output large; it is found among a thousand."""
    table = nn.Embedding(1000, 4)
    with torch.no_grad():
        table.weight.uniform_(-0.1, 0.1)
        table.weight[777] = 5.0
    model = nn.Sequential(table, nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        model[1].weight.fill_(1.0)
    tried, seen, found = attack(model, [(0, 999)], torch.zeros(1, 3, dtype=torch.int64))
    for _ in range(6):
        tried.climb(found.graph.outputs[0])
    assert seen.hi[found.graph.outputs[0]] == pytest.approx(20.0, rel=1e-3)


def test_attacks_stay_in_the_declared_range() -> None:
    tried, seen, found = attack(
        nn.Sequential(nn.Identity(), nn.ReLU()), [(-1.0, 3.0)], torch.ones(2, 5)
    )
    relu = found.graph.outputs[0]
    for _ in range(20):
        tried.random()
        tried.climb(relu)
    assert seen.lo[relu] >= 0.0 and seen.hi[relu] == 3.0


def test_every_subject_is_a_trained_zoo_entry() -> None:
    zoo = entries()
    assert all(s.name in zoo and zoo[s.name].trained for s in SUBJECTS)
    assert all(s.rows for s in SUBJECTS if s.searched)
    assert len({s.name for s in SUBJECTS}) == len(SUBJECTS)


def test_batches_are_joined_and_ranges_declared() -> None:
    batches = [((torch.full((2, 3), float(i)), torch.tensor([[i], [i]])), {}) for i in range(4)]
    found = Subject("x", ((0.0, 9.0),), rows=10)
    (wide, ids), kwargs = found.wide(Sample(nn.Identity(), batches))
    assert wide.shape == (10, 3) and ids.shape == (10, 1) and not kwargs
    assert wide[:, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 0, 0]
    assert declared(found, ["a", "b"], batches) == {"a": (0.0, 9.0), "b": (-0.03, 3.03)}


def plan_row(seconds: float, error: float) -> dict[str, float]:
    return {"seconds": seconds, "measured": error, "predicted": error, "full": 1, "casts": 0}


RESULTS = report.Results(
    {
        "cut": {"graphs": 5, "equal": 5, "seconds": {"chain": {"5000": 0.1, "50000": 1.0}}},
        "proof a float16": {
            "declared": "any", "ops": 4, "proved": 3, "proved_any": 2, "seconds": 1.0,
            "slack_median": 2.0, "slack_p90": None, "tensors": 10000, "violations": 0,
        },
        "plan a float16": {"ops": 4, "low": 3, "predicted": 1e-3, "measured": 1.5e-3},
        "zoo": {
            "models": {
                "b": {
                    "trained": False, "ops": 8, "PROVED": 7, "CALIBRATED": 1, "AT RISK": 0,
                    "slack": 3.0, "seconds": 0.5, "seconds_in_all": 1.0,
                },
                "c": {"trained": True, "why": "no kernel"},
            }
        },
        "errors a float16": {
            "ops": 4, "spearman": {**dict.fromkeys(report.RANKINGS, 0.5), "our deny rules": None},
            "predicted": 1e-3, "measured": 2e-3, "seconds": {"predict": 1.0, "measure": 2.0},
        },
        "front a float16": {
            "rows": 8, "float32": 2e-6, "autocast": plan_row(2e-6, 1e-3),
            "default": plan_row(1e-6, 2e-3), "front": [plan_row(1e-6, 1e-3)],
            "rivals": {"not slower": plan_row(1e-6, 1e-3)}, "dominated": True,
        },
        "search a float16": {
            "tolerances": {"0.5": 1e-3},
            "ours": {"0.5": {"ok": True, "full": 1, "ops": 4, "predicted_seconds": 1e-6,
                             "error": 9e-4, "runs": 1, "passes": 2}},
            "bisected": {"0.5": {"runs": 3, "why": "over the limit"}},
            "package": {
                "0.5": {
                    "runs": 4, "full": 0, "ops": 4, "predicted_seconds": 1e-6, "error": 1e-4,
                    "emulated": 2e-3,
                }
            },
        },
        "errors b float16": {"error": "RuntimeError: broken"},
    }
)  # fmt: skip


def test_tables_show_every_part_and_results_are_written(tmp_path: Path) -> None:
    console = Console(width=250, record=True)
    report.show(console, RESULTS)
    text = console.export_text()
    for word in (
        "75%",
        "unbounded",
        "0.50",
        "1/4, 1+2 runs, 1 us",
        "over the limit (3 runs)",
        "not held",
        "All ops proved in 0 of 1 models, median share 88%",
        "Within 1.3 times: 0 of 1; within 2 times: 1.",
    ):
        assert word in text
    assert "errors b float16: RuntimeError: broken" in text
    data, page = report.write(RESULTS, tmp_path)
    assert json.loads(data.read_text())["results"]["cut"]["equal"] == 5
    assert len({row.count("|") for row in _table(page.read_text(), "Search")}) == 1


def test_a_broken_bound_and_a_worse_cut_are_failures() -> None:
    assert len(RESULTS.failures()) == 1
    broken = dict(RESULTS.found)
    broken["proof a float16"] = broken["proof a float16"] | {"violations": 2}
    broken["cut"] = broken["cut"] | {"equal": 4}
    assert len(report.Results(broken).failures()) == 3


def _table(page: str, title: str) -> list[str]:
    lines = itertools.dropwhile(lambda line: not line.startswith(f"## {title}"), page.splitlines())
    return [line for line in lines if line.startswith("|")]
