"""Evidence on the command line: proofs, measured errors, repairs, loss-scale advice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

from ampconvert.cli import main
from tests.text_graphs import model_of_text

ENCODER = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(50, 16)
        self.norm = nn.LayerNorm(16)
        self.up = nn.Linear(16, 32)
        self.down = nn.Linear(32, 4)

    def forward(self, ids, x):
        h = self.norm(self.table(ids))
        return self.down(torch.relu(self.up(h))) + x

def example_inputs():
    return torch.arange(12).reshape(2, 6), torch.ones(2, 6, 4)
"""
NORMED = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(64, 8)

    def forward(self, x):
        y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        return torch.log(torch.softmax(self.head(y), -1))

def example_inputs():
    return (900 * torch.randn(32, 64, generator=torch.Generator().manual_seed(0)),)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "encoder.py").write_text(ENCODER)
    (tmp_path / "normed.py").write_text(NORMED)
    return tmp_path


def report(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main([*words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def levels(data: dict[str, Any]) -> dict[str, str]:
    return {n["op"]: n["safety"]["level"] for n in data["nodes"] if n["safety"]}


def test_a_proof_needs_the_range_of_float_inputs(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without = report(capsys, "analyze", "encoder.py", "--prove")
    assert levels(without)["aten::layer_norm"] == "PROVED"
    assert levels(without)["aten::add"] == "CALIBRATED"
    assert any("no range is declared for the input x" in n for n in without["proof"]["notes"])
    ranged = ("--prove", "--input", "x:2x6x4:-1..1", "--input", "ids:int64:2x6:0..49")
    data = report(capsys, "analyze", "encoder.py", *ranged)
    assert set(levels(data).values()) == {"PROVED"}
    assert data["inputs"]["random"] is False  # the example lies inside the ranges, and stays


def test_a_contract_stands_in_for_a_range(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = report(capsys, "analyze", "encoder.py", "--prove", "--assume", "x<=10")
    assert set(levels(data).values()) == {"PROVED"}
    assert data["proof"]["assumed"] == {"x": ["x"]}
    assert main(["analyze", "encoder.py", "--prove", "--assume", "x<=10"]) == 0
    assert "Assumed: x" in " ".join(capsys.readouterr().out.split())


def test_onnx_proof(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = """g (int64[2,3] ids, float[2,3,4] x) => (float[2,3,4] y)
        <float[3,4] table = {1.,2.,3.,4.,5.,6.,7.,8.,9.,10.,11.,12.}> {
            t = Gather(table, ids)
            s = Softmax(x)
            y = Mul(t, s)
        }"""
    onnx.save(model_of_text(text), "m.onnx")
    data = report(capsys, "analyze", "m.onnx", "--prove")
    assert levels(data)["onnx::Gather"] == "PROVED"
    assert levels(data)["onnx::Mul"] == "PROVED"
    assert levels(data)["onnx::Softmax"] == "CALIBRATED"  # of x nothing was declared


def test_each_operator_alone(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = report(capsys, "analyze", "encoder.py", "--measure")
    alone = {n["op"]: n["alone"] for n in data["nodes"] if n["alone"]}
    both = alone["aten::linear"]
    assert 0.1 < both["predicted"] / both["measured"] < 10
    assert main(["analyze", "encoder.py", "--measure"]) == 0
    assert "each operator alone in FP16" in capsys.readouterr().out


def test_loss_scale(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = report(capsys, "analyze", "encoder.py", "--loss-scale")
    smallest, largest = data["loss_scale"]["window"]
    assert smallest <= largest
    assert 2.0**smallest <= data["loss_scale"]["recommended"] <= 2.0**largest


def test_repairs_are_offered_made_and_replayed(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = report(capsys, "analyze", "normed.py")
    assert {"scale-squares", "log-softmax"} <= {o["kind"] for o in data["repairs_offered"]}
    done = report(capsys, "normed.py", "--repair", "-o", "out")
    assert done["ok"]
    assert {"scale-squares", "log-softmax"} <= {r["kind"] for r in done["repairs_made"]}
    again = report(capsys, "normed.py", "--plan", "out/normed.fp16.plan.json", "-o", "again")
    assert again["ok"]
    assert (place / "again/normed.fp16.onnx").read_bytes() == (
        place / "out/normed.fp16.onnx"
    ).read_bytes()


def test_one_kind_of_repair(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = report(capsys, "normed.py", "--repair", "scale-squares", "-o", "out")
    assert {r["kind"] for r in done["repairs_made"]} == {"scale-squares"}


def test_onnx_repair(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = """g (float[4,8] x) => (float[4,8] y) <float two = {2.0}, float eps = {1e-5}> {
            s = Pow(x, two)
            m = ReduceMean<axes = [-1]>(s)
            e = Add(m, eps)
            r = Sqrt(e)
            n = Div(x, r)
            p = Softmax(n)
            y = Log(p)
        }"""
    onnx.save(model_of_text(text, 17), "m.onnx")
    spec = "x:4x8:-2000..2000"
    done = report(capsys, "m.onnx", "--repair", "--input", spec, "-o", "fixed.onnx")
    assert done["ok"]
    assert done["repairs_made"]
    onnx.checker.check_model("fixed.onnx", full_check=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["normed.py", "--repair", "nothing"], "no repair is called 'nothing'"),
        (["--repair", "normed.py"], "no repair is called 'normed.py'"),
        (["normed.py", "--repair", "--plan", "p.json"], "--repair has no use with --plan"),
        (["normed.py", "--assume", "x<=1"], "give --prove too"),
        (["analyze", "normed.py", "--prove", "--assume", "x<1"], "is no contract"),
        (["analyze", "normed.py", "--assume", "x<=1"], "none is asked for"),
    ],
)
def test_options_that_make_no_sense(
    place: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    try:
        code = main(words)
    except SystemExit as stop:
        code = int(stop.code or 0)
    assert code == 2
    assert message in capsys.readouterr().err


def test_a_proof_needs_no_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = """g (float[2,4] x) => (float[2,4] y) { s = Softmax(x) y = Add(s, x) }"""
    onnx.save(model_of_text(text), "m.onnx")
    data = report(capsys, "analyze", "m.onnx", "--prove", "--no-verify", "--input", "x:2x4:-5..5")
    assert set(levels(data).values()) == {"PROVED"}
