"""One command in bash, with the folder, variables and exit code of the one before."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

LIMIT = 1200.0  # seconds for one command; the longest installs PyTorch
_OWN = ("_", "SHLVL", "OLDPWD")  # bash sets them in every process


@dataclass(frozen=True)
class Shell:
    """What a terminal keeps between two commands."""

    env: Mapping[str, str]
    folder: str
    status: int = 0


@dataclass(frozen=True)
class Ran:
    """A command's output, stdout and stderr as they came, its exit code and its time."""

    output: tuple[str, ...]
    status: int
    seconds: float
    shell: Shell


def run(shell: Shell, command: str, limit: float = LIMIT) -> Ran:
    """Run `command`; exit code 124 where it took longer than `limit` seconds."""
    with tempfile.TemporaryDirectory(prefix="cleanroom-") as scratch:
        after = Path(scratch) / "after"
        # A trap, so that `exit` and `set -e` in the command leave their state too.
        script = (
            f"trap 'status=$?; (exit $status); {{ pwd; env -0; }} > {after}; exit $status' EXIT\n"
            f"(exit {shell.status})\n{command}\n"
        )
        began = time.monotonic()
        output, status = _run(script, shell, limit)
        seconds = time.monotonic() - began
        left = _left(after, shell)
    lines = tuple(line.split("\r")[-1].rstrip() for line in output.splitlines())
    return Ran(lines, status, seconds, replace(left, status=status))


def _run(script: str, shell: Shell, limit: float) -> tuple[str, int]:
    process = subprocess.Popen(
        ["bash", "-c", script],
        cwd=shell.folder, env=dict(shell.env), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True, encoding="utf-8", errors="replace",
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        return f"{output}\n[stopped after {limit:g} s]\n", 124
    return output, process.returncode


def _left(after: Path, before: Shell) -> Shell:
    if not after.exists():  # the shell was killed
        return before
    folder, _, variables = after.read_text(encoding="utf-8", errors="surrogateescape").partition(
        "\n"
    )
    pairs = (item.partition("=") for item in variables.split("\0") if item)
    env = {name: value for name, _, value in pairs if name not in _OWN}
    return Shell(env, folder)
