"""Runs a measured process and watches its memory from outside, so that it is not slowed by it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.child import ROOT
from benchmarks.scale.call import status_mb

INTERVAL_S = 0.02


def run_watched(command: list[str], limit_s: float, limit_mb: float) -> dict[str, Any]:
    """Run `command` at the project's root: what its last line of JSON says, or {"error": why not}.

    A process is stopped when it has used `limit_s` of processor time (three times as much by the
    clock), or holds more than `limit_mb` of its own. The keys are `seconds`, `cpu_seconds`,
    `version`, `peak_mb` (most memory held during the call, over what was held before it) and
    `anonymous_mb` (the same of memory that no file stands behind, seen every 20 ms); both None
    where there is no /proc.
    """
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=out, stderr=errors, start_new_session=True
        )
        samples, stopped = _watch(process, limit_s, limit_mb)
        out.seek(0)
        errors.seek(0)
        found = last_json(out.read(), errors.read(), process.returncode)
    if stopped:
        return {"error": stopped, "stopped": True}
    return _figures(found, samples) if "began" in found else found


def last_json(out: str, errors: str, code: int) -> dict[str, Any]:
    """The last line of JSON that a process printed; without one, its last words as the error."""
    for line in reversed(out.splitlines()):
        if line.startswith("{"):
            found: dict[str, Any] = json.loads(line)
            return found
    last = (errors.strip().splitlines() or ["no output"])[-1]
    return {"error": f"exit code {code}: {last[:300]}"}


def _watch(
    process: subprocess.Popen[Any], limit_s: float, limit_mb: float
) -> tuple[list[tuple[float, float]], str]:
    """(when, anonymous MiB) until the process ends, and why it was stopped, if it was."""
    samples: list[tuple[float, float]] = []
    start = time.monotonic()
    stopped = ""
    while process.poll() is None:
        now = time.monotonic()
        anonymous = status_mb(process.pid).get("RssAnon", 0.0)
        samples.append((now, anonymous))
        if _processor_s(process.pid) > limit_s or now - start > 3 * limit_s:
            stopped = f"over {limit_s:.0f} s"
        elif anonymous > limit_mb:
            stopped = f"over {limit_mb / 1024:.0f} GiB"
        if stopped:
            os.killpg(process.pid, signal.SIGKILL)  # its own group: also what it started
            process.wait()
            break
        time.sleep(INTERVAL_S)
    return samples, stopped


def _processor_s(pid: int) -> float:
    """Processor time that the process has used, in user and kernel mode; 0 without a /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _figures(found: dict[str, Any], samples: list[tuple[float, float]]) -> dict[str, Any]:
    """What `benchmarks.scale.call` printed and what was seen meanwhile, as the call's figures."""
    began, ended = found.pop("began"), found.pop("ended")
    before, after = found.pop("before_mb"), found.pop("after_mb")
    found["seconds"] = ended - began
    found["peak_mb"] = found["anonymous_mb"] = None
    if before:
        seen = [held for at, held in samples if began <= at <= ended]
        found["peak_mb"] = after["VmHWM"] - before["VmRSS"]
        found["anonymous_mb"] = max(after["RssAnon"], *seen, 0.0) - before["RssAnon"]
    return found
