"""Runs every command on very deep models, and prints what it took.

    python -m benchmarks.limits                        # writes benchmarks/results/DATE-limits
    python -m benchmarks.limits --sizes 1000,2000 --only onnx

Each run is a process of its own: processor time and the most memory are the operating system's.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.child import ROOT
from benchmarks.dated import Table, show, write
from benchmarks.limits.models import write_onnx, write_torch

SIZES = {"onnx": (10_000, 100_000), "torch": (1_000, 10_000)}
_WRITERS: dict[str, Callable[[Path, int], None]] = {"onnx": write_onnx, "torch": write_torch}
_ENDINGS = {"onnx": "onnx", "torch": "py"}
_COMMANDS: dict[str, dict[str, list[str]]] = {
    "onnx": {
        "convert --no-verify": ["convert", "MODEL", "-o", "OUT", "--no-verify", "--force", "-q"],
        "convert --plan": ["convert", "MODEL", "-o", "OUT", "--no-verify", "--force", "-q",
                           "--plan", "PLAN"],
        "analyze --no-verify": ["analyze", "MODEL", "--no-verify"],
        "explain --no-verify": ["explain", "MODEL", "--no-verify", "--json"],
        "convert": ["convert", "MODEL", "-o", "OUT", "--force"],
        "analyze": ["analyze", "MODEL"],
    },
    "torch": {
        "analyze": ["analyze", "MODEL"],
        "explain": ["explain", "MODEL", "--json"],
        "convert": ["convert", "MODEL", "-o", "OUT", "--force"],
        "convert --plan": ["convert", "MODEL", "-o", "OUT", "--force", "-q", "--plan", "PLAN"],
    },
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One command on one model. `error` is "" where it ended with 0 or 1."""

    kind: str
    nodes: int
    command: str
    cpu_seconds: float
    wall_seconds: float
    peak_mib: float
    error: str


def main() -> int:
    """Run, print, write; 1 when a command failed."""
    options = _options()
    console = Console(width=max(Console().width, 110))
    kinds = [options.only] if options.only else list(SIZES)
    sizes = {kind: options.sizes or SIZES[kind] for kind in kinds}
    runs: list[Run] = []
    with tempfile.TemporaryDirectory() as folder, console.status("running"):
        for kind in kinds:
            for nodes in sizes[kind]:
                for run in _runs(Path(folder), kind, nodes, options.limit):
                    runs.append(run)
                    console.print(_row(run), markup=False, highlight=False)
    failures = [f"{r.kind} {r.nodes:,} {r.command}: {r.error}" for r in runs if r.error]
    tables = [_table(kind, [r for r in runs if r.kind == kind]) for kind in kinds]
    show(console, tables, failures)
    if not options.only and not options.sizes:
        found = {"runs": [asdict(run) for run in runs], "limit_s": options.limit}
        heading = "Very deep models: processor time and memory of each command"
        for path in write(
            ROOT / "benchmarks" / "results", "limits", heading, found, tables, failures
        ):
            console.print(f"wrote {path.relative_to(ROOT)}")
    return int(bool(failures))


def _runs(folder: Path, kind: str, nodes: int, limit: float) -> Iterator[Run]:
    model = folder / f"{kind}{nodes}.{_ENDINGS[kind]}"
    out = folder / "out"
    _WRITERS[kind](model, nodes)
    places = {
        "MODEL": str(model), "OUT": str(out), "PLAN": str(out / f"{model.stem}.fp16.plan.json"),
    }  # fmt: skip
    for command, words in _COMMANDS[kind].items():
        yield _timed(kind, nodes, command, [places.get(word, word) for word in words], limit)


def _timed(kind: str, nodes: int, command: str, words: list[str], limit: float) -> Run:
    """One process, ended after `limit` seconds."""
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "ampconvert", *words],
            stdout=subprocess.DEVNULL, stderr=errors, cwd=ROOT,
        )  # fmt: skip
        timer = threading.Timer(limit, process.kill)
        timer.start()
        _, status, usage = os.wait4(process.pid, 0)
        timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - start
        errors.seek(0)
        told = errors.read().decode(errors="replace").strip().splitlines()
    error = ""
    if process.returncode not in (0, 1):
        late = wall >= limit
        error = f"over {limit:.0f} s" if late else (told or [f"code {process.returncode}"])[-1]
    spent = usage.ru_utime + usage.ru_stime
    return Run(kind, nodes, command, spent, wall, usage.ru_maxrss / 1024, error)


def _table(kind: str, runs: list[Run]) -> Table:
    title = f"{kind}: a chain of operators"
    columns = ("operators", "command", "processor s", "peak MiB", "result")
    return Table(title, columns, [_cells(run) for run in runs])


def _cells(run: Run) -> tuple[str, ...]:
    return (f"{run.nodes:,}", run.command, f"{run.cpu_seconds:.1f}", f"{run.peak_mib:,.0f}",
            run.error or "done")  # fmt: skip


def _row(run: Run) -> str:
    return f"{run.kind} " + "  ".join(_cells(run))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limits", description=__doc__)
    parser.add_argument("--only", choices=list(SIZES), help="one kind; no results file")
    parser.add_argument(
        "--sizes", type=lambda text: tuple(map(int, text.split(","))), help="no results file"
    )
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for one run")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
