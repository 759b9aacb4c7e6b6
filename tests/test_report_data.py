"""The report as data: what each operator costs and errs adds up to what the summary says."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import ampconvert
from ampconvert.conversion import Conversion
from ampconvert.report import jsonable, model_data, next_steps
from ampconvert.report.subject import Subject, unnamed
from ampconvert.verify.histogram import Magnitudes


class Net(nn.Module):
    """A product, a norm that stays in FP32 inside, squares that overflow FP16, a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up = nn.Linear(16, 64)
        self.norm = nn.LayerNorm(64)
        self.head = nn.Linear(64, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(self.up(x))
        size = ((700 * h) ** 2).mean(-1, keepdim=True).sqrt() / 700
        return self.head(h / size)


@pytest.fixture(scope="module")
def done() -> Conversion:
    x = torch.randn(8, 16, generator=torch.Generator().manual_seed(1))
    return ampconvert.convert(Net().eval(), (x,))


@pytest.fixture(scope="module")
def data(done: Conversion) -> dict[str, Any]:
    found: dict[str, Any] = jsonable.plain(jsonable.conversion(None, done))
    return found


def test_errors_of_operators_add_up(done: Conversion, data: dict[str, Any]) -> None:
    energy = sum(node["output_error"] ** 2 for node in data["nodes"])
    assert math.sqrt(energy) == pytest.approx(done.summary.predicted_error)


def test_work_of_operators_adds_up(done: Conversion, data: dict[str, Any]) -> None:
    assert sum(node["flops"] for node in data["nodes"]) == done.summary.flops


def test_seconds_of_operators_and_casts_add_up(done: Conversion, data: dict[str, Any]) -> None:
    assert done.summary.predicted_seconds is not None
    before, after = (sum(node["seconds"][i] for node in data["nodes"]) for i in (0, 1))
    casts = sum(cast["seconds"] for cast in data["casts"])
    assert (before, after + casts) == pytest.approx(done.summary.predicted_seconds)


def test_casts_are_those_of_the_plan(done: Conversion, data: dict[str, Any]) -> None:
    assert len(data["casts"]) == done.summary.casts > 0
    assert sum(cast["bytes"] for cast in data["casts"]) == done.summary.cast_bytes
    names = {node["node"] for node in data["nodes"]} | {"output"}
    for cast in data["casts"]:
        assert {cast["from"], cast["to"]} == {"float32", "float16"}
        assert set(cast["readers"]) <= names
        assert cast["maker"] is None or cast["maker"] in names


def test_bytes_follow_the_plan(data: dict[str, Any]) -> None:
    for node in data["nodes"]:
        before, after = node["result_bytes"]
        assert after == (before // 2 if node["runs_in"] == "float16" else before)
    product = next(n for n in data["nodes"] if n["op"] == "aten::linear")
    assert product["weight_bytes"] == [4 * (16 * 64 + 64), 2 * (16 * 64 + 64)]


def test_the_front_names_the_plan_that_was_taken(data: dict[str, Any]) -> None:
    points = data["front"]["points"]
    assert sum(point["chosen"] for point in points) == 1
    chosen = next(point for point in points if point["chosen"])
    assert chosen["measured"] == data["attempts"][-1]["measured"]
    assert chosen["default"]
    assert data["front"]["seconds_full"] == data["summary"]["predicted_seconds"][0]


def test_a_stored_report_has_nothing_that_another_run_would_change(done: Conversion) -> None:
    found = jsonable.stored(None, done)
    assert not {"seconds", "seconds_total", "files"} & set(found)
    assert found["parity"]["outputs"][0]["ok"]


def test_a_graph_alone_names_its_model_and_inputs(done: Conversion) -> None:
    subject = unnamed(done.analysis)
    assert (subject.name, subject.format) == ("model", "torch")
    assert [(t.name, t.dtype) for t in subject.tensors] == [("x", "float32")]


def test_limits_are_those_of_the_type() -> None:
    assert model_data.limits("float16")["max"] == 65504
    assert model_data.limits("bfloat16")["smallest_normal"] == 2.0**-126


def test_random_data_and_no_gpu_are_said_first(done: Conversion) -> None:
    subject = Subject("net.py", "Net", "class Net", data_random=True)
    steps = next_steps.after_conversion(subject, done)
    assert steps[0].command == "ampconvert net.py --data FOLDER"
    assert not next_steps.after_failure(subject, done)


def test_an_analysis_asks_to_be_converted() -> None:
    found = ampconvert.analyze(Net().eval(), (torch.randn(8, 16),), dtype="bfloat16")
    steps = next_steps.after_analysis(Subject("my net.py", "Net", "class Net"), found)
    assert steps[0].command == "ampconvert 'my net.py' --dtype bf16"


def test_failed_parity_says_what_to_deny(done: Conversion) -> None:
    x = torch.randn(8, 16, generator=torch.Generator().manual_seed(1))
    done = ampconvert.convert(Net().eval(), (x,), tolerance=1e-9, plan=done.plan)
    assert not done.ok
    subject = Subject("net.py", "Net", "class Net")
    steps = next_steps.after_conversion(subject, done)
    assert steps[0].command.startswith("ampconvert explain net.py ")
    assert steps[1].command.startswith("ampconvert net.py --deny ")
    assert any("no plan can hold less" in step.text for step in steps)


def test_magnitudes_are_counted_by_powers_of_two() -> None:
    found = Magnitudes()
    found.add(np.array([1.0, 3.0, 0.0, np.inf, np.nan]), np.array([1.0, 2.5, 0.25, 1.0, 1.0]))
    found.add(np.array([-4.0]), np.array([-4.0]))
    assert found.histogram.values == ((0, 1), (1, 1), (2, 1))
    assert found.histogram.errors == ((-2, 1), (-1, 1))
    assert found.histogram.exact == 2
