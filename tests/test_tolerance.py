"""Tolerance search and front, whole: PyTorch and ONNX, Python and command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from ampconvert import pipeline, pipeline_onnx
from ampconvert.cli import main
from ampconvert.conversion import Conversion
from ampconvert.errors import UserError

DEEP = 4
MODEL_FILE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(3))

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(layer(x)) + 0.1 * x
        return x

def example_inputs():
    return (torch.randn(8, 64, generator=torch.Generator().manual_seed(0)),)
"""


class Deep(nn.Module):
    """Layers whose errors add up."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(DEEP))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x)) + 0.1 * x
        return x


def batches() -> list[Any]:
    made = torch.Generator().manual_seed(0)
    return [((torch.randn(8, 64, generator=made),), {}) for _ in range(3)]


def worst(done: Conversion) -> float:
    assert done.verification is not None
    return max(p.rel_l2 for p in done.verification.parities)


@pytest.fixture(scope="module")
def default() -> Conversion:
    args, kwargs = batches()[0]
    return pipeline.convert(Deep().eval(), args, kwargs, data=batches())


@pytest.mark.parametrize("share", [0.7, 0.4])
def test_a_tolerance_is_met_in_few_runs(default: Conversion, share: float) -> None:
    args, kwargs = batches()[0]
    limit = share * worst(default)
    done = pipeline.convert(Deep().eval(), args, kwargs, data=batches(), tolerance=limit)
    assert done.ok
    assert done.runs <= 3
    assert worst(done) <= limit
    assert "float16" in done.plan.compute.values()  # and not all given up
    settled = [d for d in done.plan.decisions.values() if d.evidence == "search"]
    assert settled
    assert all("error budget" in d.reason for d in settled)


def test_a_loose_tolerance_takes_the_plan_of_the_rules(default: Conversion) -> None:
    args, kwargs = batches()[0]
    done = pipeline.convert(Deep().eval(), args, kwargs, data=batches(), tolerance=0.1)
    assert done.runs == 1
    assert done.plan == default.plan
    assert done.attempts[0].aim is None


def test_a_tolerance_below_float32s_own_error_fails_and_says_so() -> None:
    args, kwargs = batches()[0]
    done = pipeline.convert(Deep().eval(), args, kwargs, data=batches(), tolerance=1e-12)
    assert not done.ok
    assert set(done.plan.compute.values()) == {"float32"}


def test_the_front_is_a_front_and_its_points_convert() -> None:
    args, kwargs = batches()[0]
    found = pipeline.pareto(Deep().eval(), args, kwargs, data=batches())
    seconds = [t.point.seconds for t in found.points]
    errors = [t.point.error for t in found.points]
    assert seconds == sorted(seconds)
    assert errors == sorted(errors, reverse=True)
    for tried in found.points:
        assert tried.finite
        assert tried.measured <= max(3 * tried.point.error, 1e-5)
    last = len(found.points)
    done = pipeline.convert(Deep().eval(), args, kwargs, data=batches(), point=last)
    assert done.plan.compute == found.points[-1].point.plan.compute
    with pytest.raises(UserError, match=f"the front has {last} points"):
        pipeline.convert(Deep().eval(), args, kwargs, data=batches(), point=last + 1)


@pytest.fixture(scope="module")
def onnx_model() -> onnx.ModelProto:
    program = torch.onnx.export(Deep().eval(), batches()[0][0], dynamo=True, verbose=False)
    assert program is not None
    return program.model_proto


def feeds(model: onnx.ModelProto) -> list[dict[str, np.ndarray[Any, Any]]]:
    return [{model.graph.input[0].name: args[0].numpy()} for args, _ in batches()]


def test_onnx_a_tolerance_is_met_in_few_runs(onnx_model: onnx.ModelProto) -> None:
    given = feeds(onnx_model)
    default = pipeline_onnx.convert(onnx_model, given)
    limit = 0.6 * worst(default)
    done = pipeline_onnx.convert(onnx_model, given, tolerance=limit)
    assert done.ok
    assert done.runs <= 4
    assert worst(done) <= limit
    assert "float16" in done.plan.compute.values()


def test_onnx_the_front_converts_by_number(onnx_model: onnx.ModelProto) -> None:
    given = feeds(onnx_model)
    found = pipeline_onnx.pareto(onnx_model, given)
    done = pipeline_onnx.convert(onnx_model, given, point=1)
    assert done.plan.compute == found.points[0].point.plan.compute


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "net.py"
    path.write_text(MODEL_FILE)
    return path


def test_command_line_front_then_point(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(net), "--pareto"]) == 0
    page = capsys.readouterr().out
    assert "--point N" in page
    assert "relative L2 error against predicted microseconds" in page
    assert sorted(p.name for p in net.parent.iterdir() if p.suffix in (".onnx", ".pt2")) == []
    assert main([str(net), "--point", "1"]) == 0
    assert (net.parent / "net.fp16.onnx").exists()


@pytest.mark.slow
def test_command_line_front_as_json(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(net), "--pareto", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    numbers = [point["point"] for point in data["points"]]
    assert numbers[-1] == len([n for n in numbers if n > 0])
    assert all(point["measured_error"] >= 0 for point in data["points"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--pareto", "--tolerance", "1e-3"], "--tolerance has no use with --pareto"),
        (["--point", "2", "--plan", "x.json"], "--plan has no use with --point"),
        (["--pareto", "--point", "1"], "not allowed with"),
        (["--point", "-1"], "no whole number"),
        (["--point", "one"], "no whole number"),
        (["--point", "99"], "the front has"),
    ],
)
def test_options_that_contradict(
    net: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    try:
        code = main([str(net), *options])
    except SystemExit as stop:  # argparse's own way
        code = int(stop.code or 0)
    assert code == 2
    assert words in capsys.readouterr().err
