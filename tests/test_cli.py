"""The command line: what it takes, prints, writes and exits with, on small models."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
from onnx import parser as onnx_text

import ampconvert
from ampconvert import cli
from ampconvert.commands.options import COMMANDS, parser, with_command
from ampconvert.files import read_plan

ROOT = Path(__file__).parent.parent
NET = """
import torch
from torch import nn

print("printed by the model's file")

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.hidden = nn.Linear(8, 16)
        self.out = nn.Linear(16, 4)

    def forward(self, x):
        return self.out(torch.relu(self.hidden(x)))
"""
OVERFLOWS = """
<ir_version: 9, opset_import: ["" : 20]>
g (float[N] x, float[N] small) => (float[N] y) { CASTS }
"""
FULL = "big = Mul(x, x)  y = Mul(big, small)"
HALF = (
    "a = Cast<to = 10>(x)  b = Cast<to = 10>(small)  big = Mul(a, a)  c = Mul(big, b)"
    "  y = Cast<to = 1>(c)"
)


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "net.py"
    path.write_text(NET, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with net.py and what `ampconvert net.py` writes beside it."""
    folder = tmp_path_factory.mktemp("converted")
    (folder / "net.py").write_text(NET, encoding="utf-8")
    assert cli.main([str(folder / "net.py"), "-o", str(folder), "--quiet"]) == 0
    return folder


def test_version_is_the_package_s() -> None:
    """The build reads it from the package: tests/packaging holds that of the wheel."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "ampconvert/__init__.py"


def test_public_names_are_there() -> None:
    for name in ampconvert.__all__:
        assert getattr(ampconvert, name) is not None
    assert set(dir(ampconvert)) == set(ampconvert.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        ampconvert.nothing  # noqa: B018


@pytest.mark.parametrize("words", [["--help"], *([c, "--help"] for c in COMMANDS), ["--version"]])
def test_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 0
    assert "ampconvert" in capsys.readouterr().out


def test_every_option_is_explained() -> None:
    actions = parser()._subparsers
    assert actions is not None
    for name, sub in cast(Any, actions._group_actions[0]).choices.items():
        for action in sub._actions:
            assert action.help, f"{name}: {action.dest}"


@pytest.mark.parametrize(
    ("typed", "taken"),
    [
        ("model.py", "convert model.py"),
        ("--dtype bf16 model.py", "convert --dtype bf16 model.py"),
        ("--json model.py", "convert --json model.py"),
        ("--json analyze model.py", "analyze --json model.py"),
        ("--name rules model.py", "convert --name rules model.py"),
        ("verify a.py b.py", "verify a.py b.py"),
        ("package.module:Net", "convert package.module:Net"),
        ("--help", "--help"),
        ("", ""),
    ],
)
def test_convert_goes_without_saying(typed: str, taken: str) -> None:
    assert with_command(typed.split()) == taken.split()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nosuch.py"], "nosuch.py: there is no such file"),
        (["analyse", "net.py"], "did you mean analyze?"),
        (["net.py", "--dtype", "fp8"], "use fp16 or bf16"),
        (["net.py", "--tolerance", "-1"], "no number above 0"),
        (["net.py", "--seed", "x"], "no whole number"),
        (["net.py", "--frobnicate"], "--frobnicate"),
        (["net.py", "--tol", "1"], "--tol"),
        (["net.py", "--name", "a/b"], "plain file name"),
        (["net.py", "-o", "net.py"], "needs a folder"),
        (["net.py", "--deny", ""], "--deny needs an operator name"),
        (["net.py", "--rules", "no.toml"], "no.toml"),
        (["net.py", "--plan", "no.json"], "no.json"),
        (["net.py", "--input", "q:2x8"], "q"),
        (["net.py", "--model", "Nett"], "Nett"),
        (["model.onnx"], "model.onnx: "),
        (["analyze", "model.onnx"], "model.onnx: "),
        (["explain", "net.py", "hiden"], "there are hidden"),
        (["rules", "sofmax"], "did you mean softmax"),
        (["rules", "nosuchrule"], "ampconvert rules"),
        (["verify", "net.py"], "candidate"),
        (["verify", "a.onnx", "b.onnx"], "a.onnx: there is no such file"),
        (["verify", "net.py", "net.py", "--inputs", "no.npz"], "no.npz"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], said: str, net: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    last = [line for line in captured.err.splitlines() if "printed by" not in line]
    assert len(last) == 1 and last[0].startswith("ampconvert: error: ") and said in last[0]
    assert [p.name for p in net.parent.iterdir() if p.name != "__pycache__"] == ["net.py"]


def test_convert_writes_and_reports(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["net.py", "-o", "out", "--dtype", "bf16", "--deny", "out.*"]) == 0
    captured = capsys.readouterr()
    assert "Parity held" in captured.out and "BF16-safe" in captured.out
    assert "printed by" not in captured.out and "printed by" in captured.err
    names = sorted(p.name for p in (net.parent / "out").iterdir())
    assert names == ["net.bf16.onnx", "net.bf16.plan.json", "net.bf16.pt2"]
    plan = json.loads((net.parent / "out" / "net.bf16.plan.json").read_text(encoding="utf-8"))
    assert plan["nodes"]["linear_1"]["compute"] == "float32"
    assert plan["nodes"]["linear"]["compute"] == "bfloat16"


def test_nothing_is_overwritten_unasked(
    converted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(converted / "net.py"), "-o", str(converted)]
    before = (converted / "net.fp16.plan.json").stat().st_mtime_ns
    assert cli.main(words) == 2
    assert "--force" in capsys.readouterr().err
    assert (converted / "net.fp16.plan.json").stat().st_mtime_ns == before
    assert cli.main([*words, "--force", "--quiet"]) == 0
    assert (converted / "net.fp16.plan.json").stat().st_mtime_ns > before
    assert capsys.readouterr().out == ""


def test_saved_plan_is_applied_again(
    converted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = str(converted / "net.fp16.plan.json")
    words = [str(converted / "net.py"), "-o", str(tmp_path), "--plan", plan]
    assert cli.main([*words, "--quiet"]) == 0
    again = read_plan(tmp_path / "net.fp16.plan.json")
    assert again == read_plan(converted / "net.fp16.plan.json")
    assert cli.main([*words, "--force", "--dtype", "bf16"]) == 2
    assert "another model or type" in capsys.readouterr().err


def test_failed_parity_is_exit_1_and_says_what_to_do(
    net: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["net.py", "--tolerance", "1e-12", "--static"]) == 1
    out = capsys.readouterr().out
    assert "Parity FAILED" in out and "What to do" in out and "random numbers" in out


def test_json_is_all_there_is_on_stdout(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = run_json(["net.py", "--json"], capsys)
    assert data["command"] == "convert" and data["ok"] is True and data["dtype"] == "float16"
    assert set(data["files"]) == {"onnx", "pt2", "plan"}
    assert data["parity"]["outputs"][0]["rel_l2"] < 1e-2
    found = run_json(["analyze", "net.py", "--json"], capsys)
    assert {n["node"] for n in found["nodes"]} == {"linear", "relu", "linear_1"}
    told = run_json(["explain", "net.py", "hidden", "--json"], capsys)
    assert [n["node"] for n in told["nodes"]] == ["linear"]
    assert told["nodes"][0]["where"].startswith("net.py:")


def test_analyze_writes_nothing(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["analyze", "net.py", "--deny", "Nosuch"]) == 0
    out = capsys.readouterr().out
    assert "nothing was written" in out and "Matched nothing: '--deny Nosuch'" in out
    assert [p.name for p in net.parent.iterdir() if p.name != "__pycache__"] == ["net.py"]


def test_explain_says_whose_rule_it_was(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", "net.py", "hidden", "--deny", "linear"]) == 0
    out = capsys.readouterr().out
    assert "your rule --deny linear" in out and "net.py:15" in out and "linear_1" not in out


def test_rules_shows_the_user_s_first(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.toml").write_text(
        '[[op]]\nname = "mine"\nclass = "deny"\nreason = "Because."\naten = ["relu"]\n',
        encoding="utf-8",
    )
    data = run_json(["rules", "--json", "--rules", "mine.toml"], capsys)
    assert data["rules"][0]["name"] == "mine" and len(data["rules"]) > 50
    assert cli.main(["rules", "mine", "--rules", "mine.toml"]) == 0
    assert "Because." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("reference", "candidate", "how"),
    [
        ("net.py", "net.fp16.onnx", "emulated model"),
        ("net.py", "net.fp16.pt2", "kernels round at every op"),
        ("net.fp16.onnx", "net.fp16.pt2", "kernels round at every op"),
        ("net.fp16.pt2", "net.py", "no FP16 or BF16 in it"),
    ],
)
def test_verify_takes_any_mix(
    reference: str, candidate: str, how: str, converted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tolerance = ["--tolerance", "1e-2"]
    assert (
        cli.main(["verify", str(converted / reference), str(converted / candidate), *tolerance])
        == 0
    )
    out = " ".join(capsys.readouterr().out.split())
    assert "Parity held" in out and how in out


def test_verify_finds_an_overflow_that_a_cpu_hides(
    net: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save("full.onnx", FULL)
    save("half.onnx", HALF)
    np.savez("in.npz", x=np.array([300, 2], np.float32), small=np.array([1e-3, 1], np.float32))
    data = run_json(["verify", "full.onnx", "half.onnx", "--inputs", "in.npz", "--json"], capsys, 1)
    assert data["parity"]["first_bad"]["tensor"] == "big" and data["low"] == "float16"
    assert data["inputs"]["random"] is False
    assert cli.main(["verify", "full.onnx", "half.onnx", "--inputs", "in.npz"]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "Parity FAILED" in out and "First bad tensor: big" in out
    Path("data").mkdir()
    np.savez("data/a.npz", np.array([3, 2], np.float32), np.array([1e-3, 1], np.float32))
    assert cli.main(["verify", "full.onnx", "half.onnx", "--data", "data"]) == 0
    assert (
        cli.main(["verify", "full.onnx", "full.onnx", "--input", "x:3", "--input", "small:3"]) == 0
    )
    assert "random numbers, as --input asks" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": np.ones(2, np.float32)}, "the model's inputs are x, small"),
        ({"x": np.array([np.nan], np.float32), "small": np.ones(1, np.float32)}, "holds NaN"),
        ({"x": np.ones((1, 1), np.float32), "small": np.ones(1, np.float32)}, "takes float32 N"),
        ({"x": np.array(["a"]), "small": np.ones(1, np.float32)}, "takes float32"),
    ],
)
def test_verify_refuses_inputs_that_do_not_fit(
    arrays: Mapping[str, Any], said: str, net: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save("full.onnx", FULL)
    np.savez("in.npz", **arrays)
    assert cli.main(["verify", "full.onnx", "full.onnx", "--inputs", "in.npz"]) == 2
    assert said in capsys.readouterr().err


def test_verify_refuses_models_that_do_not_match(
    converted: Path, net: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save("full.onnx", FULL)
    assert cli.main(["verify", "net.py", "full.onnx"]) == 2
    assert "can't be matched" in capsys.readouterr().err
    Path("broken.onnx").write_bytes(b"no protobuf at all")
    assert cli.main(["verify", "net.py", "broken.onnx"]) == 2
    assert "broken.onnx: not a readable ONNX model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (RuntimeError("odd\nlines"), 3, "a bug in ampconvert: RuntimeError: odd"),
        (OSError(28, "No space left on device", "out/net.onnx"), 2, "out/net.onnx: No space left"),
        (MemoryError(), 2, "out of memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_have_codes(
    error: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("ampconvert.commands.rules.run", fail)
    monkeypatch.delenv("AMPCONVERT_TRACEBACK", raising=False)
    assert cli.main(["rules"]) == code
    err = capsys.readouterr().err
    assert said in err and len(err.splitlines()) == 1
    monkeypatch.setenv("AMPCONVERT_TRACEBACK", "1")
    if isinstance(error, Exception):
        with pytest.raises(type(error)):
            cli.main(["rules"])


def test_a_closed_pipe_is_no_error() -> None:
    run = subprocess.Popen(
        [sys.executable, "-m", "ampconvert", "rules"], cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert run.stdout is not None and run.stderr is not None
    run.stdout.close()
    errors = run.stderr.read()
    run.stderr.close()
    assert run.wait() == 0 and errors == b""


def test_rules_starts_without_torch() -> None:
    code = (
        "import sys\nfrom ampconvert.cli import main\nassert main(['rules', 'softmax']) == 0\n"
        "print([m for m in ('torch', 'onnx', 'onnxruntime') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.stdout.splitlines()[-1] == "[]", run.stderr


def run_json(words: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert cli.main(words) == code
    data = json.loads(capsys.readouterr().out)
    assert data["schema"] == 1 and data["version"] == ampconvert.__version__
    return cast("dict[str, Any]", data)


def save(path: str, body: str) -> None:
    onnx.save(onnx_text.parse_model(OVERFLOWS.replace("CASTS", body)), path)
