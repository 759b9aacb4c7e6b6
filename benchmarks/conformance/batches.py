"""Many cases over few processes: what ends a process costs one case, never the run."""

from __future__ import annotations

import json
import signal
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.child import run_child

from .child import write

BATCH = 200  # a process takes seconds to import what it needs


@dataclass(frozen=True)
class Unit:
    """One result to be had: the case's folder, the file's name in it, arguments of the task."""

    folder: Path
    name: str
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """Where the result lies once it is there."""
        return self.folder / self.name


def measure(
    python: str,
    task: str,
    units: Iterable[Unit],
    *,
    limit_s: float,
    jobs: int,
    tell: Callable[[int], None] = lambda count: None,
) -> None:
    """Measure the units that have no result yet, in `jobs` processes of `python` at a time.

    `tell` is given the number of units as each batch ends. Every unit has a result afterwards: one
    that ended its process, or ran over `limit_s` seconds, has that as its error.
    """
    waiting = [unit for unit in units if not unit.path.exists()]
    batches = [waiting[i : i + BATCH] for i in range(0, len(waiting), BATCH)]

    def one(batch: list[Unit]) -> int:
        _batch(python, task, batch, limit_s)
        return len(batch)

    with ThreadPoolExecutor(jobs) as pool:
        for count in pool.map(one, batches):
            tell(count)


def _batch(python: str, task: str, units: list[Unit], limit_s: float) -> None:
    while units:
        with tempfile.NamedTemporaryFile("w", suffix=".json") as job:
            rows = [(str(unit.folder), unit.name, unit.arguments) for unit in units]
            json.dump({"task": task, "limit_s": limit_s, "units": rows}, job)
            job.flush()
            command = [python, "-m", "benchmarks.conformance.child", job.name]
            found = run_child(command, limit_s * (len(units) + 1), threads=1)
        units = [unit for unit in units if not unit.path.exists()]
        if units:
            write(units[0].path, {"error": _ended(found.get("error", "no result"), limit_s)})
            units = units[1:]


def _ended(message: str, limit_s: float) -> str:
    """Why a process left off, in words."""
    code = message.removeprefix("exit code ").partition(":")[0]
    if code == str(-signal.SIGALRM):
        return f"over the limit of {limit_s:.0f} s"
    if code.startswith("-") and code[1:].isdigit():
        return f"the process ended with {signal.Signals(int(code[1:])).name}"
    return message
