"""CPU seconds of linters on the same files, one after another in one run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.lint.packages import WORK

_QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


@dataclass(frozen=True)
class Tool:
    """A linter as it is called on a folder; `prepare` runs before each timed call."""

    name: str
    command: Callable[[Path], list[str]]
    runs: int
    prepare: Callable[[Path], None] | None = None


@dataclass(frozen=True)
class Timing:
    """Medians over `runs` calls: CPU seconds of the process and its children, and wall seconds."""

    tool: str
    cpu_s: float
    wall_s: float
    runs: int
    exit_code: int


def ours(*options: str) -> Callable[[Path], list[str]]:
    """`ampconvert lint` with one process, as the peers have."""
    return lambda folder: [
        sys.executable, "-m", "ampconvert", "lint", str(folder), "-j", "1", "-q", *options,
    ]  # fmt: skip


def ruff(program: Path, *options: str) -> Callable[[Path], list[str]]:
    """Ruff with its default rules, deaf to any configuration around."""
    words = [str(program), "check", "--isolated", "--quiet", "--exit-zero", *options]
    return lambda folder: [*words, str(folder)]


def tools(peers: Path, *, torchfix: bool, runs: int) -> list[Tool]:
    """What is timed; `peers` is the folder of programs that holds ruff and torchfix."""
    cache = WORK / "ruff-cache"
    warm_ruff = ruff(peers / "ruff", "--cache-dir", str(cache))
    found = [
        Tool("ampconvert lint", ours("--no-cache"), runs),
        Tool("ampconvert lint, cache unchanged", ours(), runs, _once(ours())),
        Tool("ruff", ruff(peers / "ruff", "--no-cache"), runs),
        Tool("ruff, cache unchanged", warm_ruff, runs, _once(warm_ruff)),
    ]
    if torchfix:
        found.append(Tool("TorchFix", lambda f: [str(peers / "torchfix"), "-j", "1", str(f)], 1))
    return found


def compare(folder: Path, chosen: Sequence[Tool]) -> list[Timing]:
    """Every tool's timing on `folder`: in turns, so that a busy minute hits all alike."""
    measured: dict[str, list[tuple[float, float, int]]] = {tool.name: [] for tool in chosen}
    for turn in range(max(tool.runs for tool in chosen)):
        for tool in chosen:
            if turn < tool.runs:
                if tool.prepare is not None and turn == 0:
                    tool.prepare(folder)
                measured[tool.name].append(timed(tool.command(folder)))
    return [
        Timing(
            tool.name,
            median(cpu for cpu, _, _ in measured[tool.name]),
            median(wall for _, wall, _ in measured[tool.name]),
            tool.runs,
            measured[tool.name][-1][2],
        )
        for tool in chosen
    ]


def start_up(peers: Path, runs: int) -> list[Timing]:
    """The same on one small file: what a pre-commit hook waits for."""
    folder = WORK / "one-file"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "train.py").write_text(_SMALL, encoding="utf-8")
    chosen = [
        Tool("python -c pass", lambda _: [sys.executable, "-c", "pass"], runs),
        Tool("ampconvert lint", ours("--no-cache"), runs),
        Tool("ruff", ruff(peers / "ruff", "--no-cache"), runs),
        Tool("TorchFix", lambda f: [str(peers / "torchfix"), "-j", "1", str(f)], min(runs, 5)),
    ]
    return compare(folder, chosen)


def timed(command: list[str]) -> tuple[float, float, int]:
    """CPU seconds, wall seconds and exit code of one call."""
    start = time.perf_counter()
    process = subprocess.Popen(command, **_QUIET)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime, time.perf_counter() - start, process.returncode


def plain(timings: Sequence[Timing]) -> list[dict[str, Any]]:
    """Timings as JSON has them."""
    return [asdict(one) for one in timings]


def _once(command: Callable[[Path], list[str]]) -> Callable[[Path], None]:
    """A call that fills the cache, not timed."""

    def fill(folder: Path) -> None:
        subprocess.run(command(folder), check=False, **_QUIET)

    return fill


_SMALL = """\
import torch
from torch import nn
from torch.cuda.amp import GradScaler, autocast

model = nn.Linear(8, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = GradScaler()
for x, y in loader:
    with autocast():
        loss = nn.functional.mse_loss(model(x), y)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
"""
