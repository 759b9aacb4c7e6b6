"""Seconds from the start of a process until it has done one small thing, and what Python itself
takes of them.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.lint.speed import timed

SCRIPT = """\
import torch


def train(net, optimizer, batches):
    for x, y in batches:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
"""


@dataclass(frozen=True)
class Call:
    """A command that is timed, and the exit code with which it did what it should."""

    name: str
    command: tuple[str, ...]
    code: int = 0


@dataclass(frozen=True)
class Time:
    """Medians and extremes over `runs` processes, in seconds."""

    name: str
    wall_s: float
    cpu_s: float
    best_s: float
    worst_s: float
    runs: int


def own_calls(python: Path, folder: Path) -> list[Call]:
    """What is asked of ampconvert, in the environment of `python`. A model that is not there ends a
    command where the first stage would have opened it, with everything imported for that.
    """
    script = folder / "train.py"
    script.write_text(SCRIPT, encoding="utf-8")
    command = str(python.parent / "ampconvert")
    return [
        Call("python -c pass", (str(python), "-c", "pass")),
        Call("import ampconvert", (str(python), "-c", "import ampconvert")),
        Call("ampconvert --version", (command, "--version")),
        Call("ampconvert --help", (command, "--help")),
        Call("ampconvert lint FILE", (command, "lint", "--no-cache", "-q", str(script))),
        Call("ampconvert rules", (command, "rules")),
        Call("ampconvert analyze MODEL.onnx, until it is opened",
             (command, "analyze", str(folder / "absent.onnx")), 2),
        Call("ampconvert analyze MODEL.py, until it is opened",
             (command, "analyze", str(folder / "absent.py")), 2),
    ]  # fmt: skip


def peer_calls(python: Path) -> list[Call]:
    """Imports of other converters and of the frameworks, those that `python` has."""
    modules = ("onnx", "torch", "onnxruntime", "onnxconverter_common.float16",
               "modelopt.onnx.autocast")  # fmt: skip
    calls = [Call(f"import {name}", (str(python), "-c", f"import {name}")) for name in modules]
    return [
        call for call in calls
        if subprocess.run(call.command, capture_output=True, check=False).returncode == 0
    ]  # fmt: skip


def measure(calls: Sequence[Call], runs: int) -> list[Time]:
    """Every call `runs` times, in turns, after one that is not counted: files are in the page cache
    and bytecode is compiled. Raises RuntimeError for a call that ends otherwise than it should.
    """
    measured: dict[str, list[tuple[float, float]]] = {call.name: [] for call in calls}
    for turn in range(runs + 1):
        for call in calls:
            cpu, wall, code = timed(list(call.command))
            if code != call.code:
                raise RuntimeError(f"{call.name}: exit code {code}, and not {call.code}")
            if turn:
                measured[call.name].append((cpu, wall))
    return [_summary(name, pairs) for name, pairs in measured.items()]


def _summary(name: str, pairs: Sequence[tuple[float, float]]) -> Time:
    cpu, wall = zip(*pairs, strict=True)
    return Time(name, median(wall), median(cpu), min(wall), max(wall), len(pairs))
