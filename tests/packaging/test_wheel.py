"""The wheel in empty environments, one for each set of extras: what it can do there works, and
what it can't do says in one sentence what to install.

    python -m pytest -q -m slow tests/packaging/test_wheel.py
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import onnx
import pytest
from _pytest.mark import ParameterSet

from ampconvert.extras import EXTRAS
from tests.packaging.distributions import ROOT, bin_of, done, environment, pythons

pytestmark = pytest.mark.slow

# The sets of extras that the documentation names, and the single ones.
SETS: tuple[tuple[str, ...], ...] = (
    (), ("onnx",), ("ort",), ("onnx", "ort"), ("rewrite",), ("torch",), ("torch", "onnx"), ("all",),
)  # fmt: skip
TORCH = frozenset(("torch",))
ONNX = frozenset(("onnx",))
ORT = frozenset(("onnx", "ort"))
ALL = frozenset(("torch", "onnx", "ort"))
# Command line -> the extras without which it can't do its work.
COMMANDS: dict[str, frozenset[str]] = {
    "--help": frozenset(),
    "--version": frozenset(),
    "convert --help": frozenset(),
    "rules": frozenset(),
    "rules softmax --json": frozenset(),
    "rule AMP204": frozenset(),
    "lint train.py": frozenset(),
    "lint train.py --fix --diff": frozenset(),
    "rewrite train.py": frozenset(("rewrite",)),
    "rewrite train.py --style ampconvert": frozenset(("rewrite",)),
    "net.onnx -o out": ORT,
    "net.onnx -o out --no-verify": ONNX,
    "net.onnx --pareto": ORT,
    "net.onnx -o out --repair": ORT,
    "analyze net.onnx": ORT,
    "analyze net.onnx --no-verify --prove": ONNX,
    "explain net.onnx --no-verify": ONNX,
    "net.py -o out": ALL,
    "net.pt2 -o out": ALL,
    "net.py -o out --weights w.safetensors": ALL,
    "net.py --pareto": ALL,
    "analyze net.py": TORCH,
    "analyze net.py --measure --loss-scale": TORCH,
    "explain net.py a": TORCH,
    "verify net.onnx net.onnx": ORT,
    "verify net.py net.onnx": ALL,
    "verify net.onnx net.py": ALL,
    "verify net.py net.py": TORCH | ONNX,
    "net.onnx -o out --report out/r.html --report out/r.md --report out/r.json": ORT,
    "analyze net.py --report out/r.html": TORCH,
    "report net.plan.json -o out/r.html": frozenset(),
    "diff net.plan.json net.plan.json": frozenset(),
}
# The same model twice: softmax(x w), where all of w is a half.
NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a = torch.nn.Linear(8, 16, bias=False)
        torch.nn.init.constant_(self.a.weight, 0.5)

    def forward(self, x):
        return torch.softmax(self.a(x), -1)

def build_model():
    return Net()

def example_inputs():
    return (torch.randn(2, 8),)
"""
TRAIN = """
import torch

net = torch.nn.Linear(4, 2).cuda()
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for x, y in [(torch.randn(3, 4), torch.randn(3, 2))]:
    optimizer.zero_grad()
    loss = torch.nn.functional.mse_loss(net(x.cuda()), y.cuda())
    loss.backward()
    optimizer.step()
"""
GRAPH = """
<ir_version: 9, opset_import: ["" : 18]>
net (float[2, 8] x) => (float[2, 16] y) <float[8, 16] w>
{ h = MatMul(x, w) y = Softmax(h) }
"""
STEP = """
import torch, ampconvert
net = ampconvert.prepare_training(torch.nn.Linear(4, 2), torch.bfloat16)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
ampconvert.skip_nonfinite_steps(optimizer, net)
net(torch.ones(3, 4)).sum().backward()
optimizer.step()
assert "ampconvert" in torch.compiler.list_backends()
assert torch.compile(torch.nn.Linear(4, 2), backend="ampconvert")(torch.ones(3, 4)).shape == (3, 2)
"""


def environments() -> list[ParameterSet]:
    """(Python version, extras): all for this Python, those without PyTorch for the others."""
    own = "{}.{}".format(*sys.version_info)
    every = bool(os.environ.get("AMPCONVERT_ALL_EXTRAS"))
    return [
        pytest.param(version, extras, id=f"{version}[{','.join(extras)}]")
        for version, _ in pythons()
        for extras in SETS
        if every or version == own or not {"torch", "all"} & set(extras)
    ]


@pytest.fixture(scope="module")
def make(
    wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, tuple[str, ...]], Path]:
    """Gives the environment of a Python version and extras, made when it is first asked for."""
    folder = tmp_path_factory.mktemp("environments")

    @cache
    def made(version: str, extras: tuple[str, ...]) -> Path:
        return environment(dict(pythons())[version], wheel, extras, folder)

    return made


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models in every format, weights, a plan with its report, and a script."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("files")
    (folder / "net.py").write_text(NET, encoding="utf-8")
    (folder / "train.py").write_text(TRAIN, encoding="utf-8")
    model = onnx.parser.parse_model(GRAPH)
    weight = torch.full((8, 16), 0.5).numpy()
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(model, folder / "net.onnx")
    own = {"cwd": folder, "check": True, "capture_output": True}
    code = "import torch, net; torch.export.save(torch.export.export(net.build_model(), net.example_inputs()), 'net.pt2')"  # noqa: E501
    subprocess.run([sys.executable, "-c", code], **own)
    save_file({"a.weight": torch.ones(16, 8)}, folder / "w.safetensors")
    convert = [sys.executable, str(ROOT / "cli.py"), "net.onnx", "-q", "-o", "net.half.onnx"]
    subprocess.run(convert, **own)
    (folder / "net.half.plan.json").rename(folder / "net.plan.json")
    return folder


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("version", "extras"), environments())
def test_works_or_says_what_to_install(
    make: Callable[[str, tuple[str, ...]], Path],
    files: Path,
    version: str,
    extras: tuple[str, ...],
    command: str,
) -> None:
    place = make(version, extras)
    found = run(place, command, files)
    have = frozenset(EXTRAS) if extras == ("all",) else frozenset(extras)
    if COMMANDS[command] <= have:
        assert found.returncode == 0, found.stderr
        assert found.stdout
        return
    assert found.returncode == 2, found.stderr
    assert not found.stdout
    (line,) = found.stderr.splitlines()
    assert line.startswith("ampconvert: error: ")
    (named,) = re.findall(r"pip install 'ampconvert\[([\w,]+)\]'", line)
    enough = frozenset(EXTRAS) if named == "all" else frozenset(named.split(","))
    assert COMMANDS[command] <= have | enough, line  # one installation is enough


@pytest.mark.parametrize(("version", "extras"), environments())
def test_environment_is_in_order(
    make: Callable[[str, tuple[str, ...]], Path],
    files: Path,
    version: str,
    extras: tuple[str, ...],
) -> None:
    """Its packages agree with each other, `python -m` is the command, and training can start."""
    place = make(version, extras)
    python = str(bin_of(place, "python"))
    done([python, "-m", "pip", "check"])
    assert run(place, "--version", files).stdout == done([python, "-m", "ampconvert", "--version"])
    found = subprocess.run(
        [python, "-c", STEP], capture_output=True, text=True, cwd=files, check=False
    )
    assert (found.returncode == 0) == bool({"torch", "all"} & set(extras)), found.stderr


def test_python_callers_are_told_too(
    make: Callable[[str, tuple[str, ...]], Path], files: Path
) -> None:
    """An ImportError, as callers expect, whose message names the extra."""
    own = "{}.{}".format(*sys.version_info)
    for code, extras in (
        ("import ampconvert; ampconvert.prepare_training", "torch"),
        ("import ampconvert; ampconvert.convert('net.onnx')", "onnx"),
    ):
        found = subprocess.run(
            [str(bin_of(make(own, ()), "python")), "-c", code],
            capture_output=True, text=True, cwd=files, check=False,
        )  # fmt: skip
        last = found.stderr.splitlines()[-1]
        assert f"pip install 'ampconvert[{extras}]'" in last, found.stderr


@pytest.mark.parametrize("version", [version for version, _ in pythons()])
def test_editable_installation_reads_the_checkout(version: str, tmp_path: Path) -> None:
    place = tmp_path / "editable"
    done([dict(pythons())[version], "-m", "venv", str(place)])
    python = str(bin_of(place, "python"))
    done([python, "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), "-e",
          str(ROOT)])  # fmt: skip
    code = "from ampconvert import __file__, rules; print(__file__); print(rules.data_directory())"
    package, folder = done([python, "-c", code], folder=tmp_path).split()
    assert Path(package).is_relative_to(ROOT / "ampconvert")
    assert Path(folder) == ROOT / "rules"
    assert run(place, "rules", tmp_path).returncode == 0


def run(place: Path, command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The environment's `ampconvert` with these words, from `folder`; what it writes is removed."""
    out = folder / "out"
    out.mkdir()
    try:
        return subprocess.run(
            [str(bin_of(place, "ampconvert")), *command.split()],
            capture_output=True, text=True, cwd=folder, check=False, timeout=300,
        )  # fmt: skip
    finally:
        shutil.rmtree(out)
