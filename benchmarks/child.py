"""Processes of the benchmark: each measurement has its own, and answers with a line of JSON."""

from __future__ import annotations

import json
import logging
import os
import resource
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def run_child(command: list[str], limit_s: float, threads: int = 2) -> dict[str, Any]:
    """Run `command` at the project's root: its last line of JSON, or {"error": why not}."""
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=limit_s
        )
    except subprocess.TimeoutExpired:
        return {"error": f"over the limit of {limit_s:.0f} s"}
    for line in reversed(done.stdout.splitlines()):
        if line.startswith("{"):
            found: dict[str, Any] = json.loads(line)
            return found
    last = (done.stderr.strip().splitlines() or ["no output"])[-1]
    return {"error": f"exit code {done.returncode}: {last[:300]}"}


def module_command(module: str, *arguments: str) -> list[str]:
    """The command for `python -m module arguments` in this environment."""
    return [sys.executable, "-m", module, *arguments]


def quiet() -> None:
    """No warnings and no library's log lines: a child's output is its JSON."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)


def resident_mb() -> float:
    """What this process holds now, in MiB."""
    return _status("VmRSS")


def peak_mb() -> float:
    """The most this process has held so far, in MiB.

    Not ru_maxrss: Linux lets a child start with its parent's.
    """
    return _status("VmHWM")


def _status(field: str) -> float:
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    line = next(ln for ln in status.read_text().splitlines() if ln.startswith(field + ":"))
    return int(line.split()[1]) / 1024
