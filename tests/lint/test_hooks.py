"""The pre-commit hooks and the GitHub action: what they call exists, and they run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ampconvert.commands.options import parser

ROOT = Path(__file__).parents[2]
BAD = "from torch.cuda.amp import autocast\n\nwith autocast():\n    pass\n"


def hooks() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    return found


@pytest.mark.parametrize("hook", hooks(), ids=lambda h: h["id"])
def test_hooks_call_what_there_is(hook: dict[str, Any]) -> None:
    program, *words = hook["entry"].split()
    assert program == "ampconvert"
    options = parser().parse_args([*words, "a.py", "b.ipynb"])
    assert options.command == "lint" and options.paths == ["a.py", "b.ipynb"]
    assert options.fix == (hook["id"] == "ampconvert-fix")


def step(name: str) -> str:
    """The script of a step of action.yml."""
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    script: str = next(s["run"] for s in action["runs"]["steps"] if s["name"] == name)
    return script


def run_step(folder: Path, **given: str) -> subprocess.CompletedProcess[str]:
    """The action's lint step, with this environment's ampconvert where the action installs it."""
    program = folder / "tools" / "ampconvert" / "bin" / "ampconvert"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ampconvert "$@"\n')
    program.chmod(0o755)
    environment = os.environ | {
        "RUNNER_TEMP": str(folder / "tools"), "PYTHONPATH": str(ROOT), "PATHS": ".", "ARGS": "",
        "SARIF": "", **given,
    }  # fmt: skip
    return subprocess.run(
        ["bash", "-eo", "pipefail", "-c", step("Lint")],
        cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.skipif(shutil.which("bash") is None, reason="GitHub's runners have bash")
def test_the_action_annotates_and_fails(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(BAD)
    done = run_step(tmp_path)
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("::warning title=AMP001 ")
    assert run_step(tmp_path, ARGS="--ignore AMP001 --no-cache").returncode == 0


@pytest.mark.skipif(shutil.which("bash") is None, reason="GitHub's runners have bash")
def test_the_action_writes_sarif_and_does_not_fail(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(BAD)
    done = run_step(tmp_path, SARIF="found.sarif", PATHS="train.py")
    assert done.returncode == 0, done.stderr
    assert '"ruleId": "AMP001"' in (tmp_path / "found.sarif").read_text()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pre-commit") is None, reason="pre-commit is not installed")
def test_the_real_pre_commit_runs_them(tmp_path: Path) -> None:
    """Installs the last commit of this repository, so it needs git and pip's index."""

    def called(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)

    revision = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    names = "".join(f"      - id: {hook['id']}\n" for hook in hooks())
    (tmp_path / ".pre-commit-config.yaml").write_text(
        f"repos:\n  - repo: {ROOT}\n    rev: {revision}\n    hooks:\n{names}"
    )
    (tmp_path / "train.py").write_text(BAD)
    called("git", "init", "-q")
    called("git", "add", "-A")
    done = called("pre-commit", "run", "--all-files")
    assert done.returncode == 1 and "train.py:3:6: AMP001" in done.stdout, done.stdout
    assert 'with autocast("cuda"):' in (tmp_path / "train.py").read_text()
    called("git", "add", "-A")
    assert called("pre-commit", "run", "--all-files").returncode == 0
