"""examples/pipeline: its Makefile passes on the model beside it and fails when that drifts."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ampconvert.commands.options import parser

ROOT = Path(__file__).parents[2]
PIPELINE = ROOT / "examples" / "pipeline"
COMMAND = f"{shlex.quote(sys.executable)} {shlex.quote(str(ROOT / 'cli.py'))}"

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = ["make", *words, f"AMPCONVERT={COMMAND}"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_every_command_is_one_of_ampconvert() -> None:
    run = make(PIPELINE, "-n", "check")
    assert run.returncode == 0, run.stderr
    lines = run.stdout.replace("\\\n", " ").splitlines()
    words = [shlex.split(line)[2:] for line in lines if line.startswith(COMMAND)]
    assert [found[0] for found in words] == ["convert", "verify", "diff"]
    for found in words:
        parser().parse_args(found)


@pytest.mark.parametrize(
    ("file", "steps"),
    [
        ("github-actions.yml", lambda data: [s.get("run", "") for s in
                                             data["jobs"]["convert"]["steps"]]),
        ("gitlab-ci.yml", lambda data: data["precision"]["script"]),
    ],
)  # fmt: skip
def test_the_files_for_ci_call_the_makefile(file: str, steps: object) -> None:
    data = yaml.safe_load((PIPELINE / file).read_text(encoding="utf-8"))
    assert callable(steps) and "make check" in steps(data)


@pytest.mark.slow
def test_it_passes_and_fails_on_drift(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(PIPELINE, tmp_path / "pipeline"))
    passed = make(folder, "check")
    assert passed.returncode == 0, passed.stdout + passed.stderr
    assert "Plans are the same" in passed.stdout
    built = {path.name for path in (folder / "build").iterdir()}
    assert {"model.fp16.onnx", "model.fp16.md", "model.fp16.html"} <= built

    source = (folder / "model.py").read_text(encoding="utf-8")
    grown = "model = Classifier()\n    model.second.weight.data.mul_(1e6)\n    return model"
    assert "return Classifier()" in source
    (folder / "model.py").write_text(source.replace("return Classifier()", grown), encoding="utf-8")
    failed = make(folder, "check")
    assert failed.returncode != 0
    assert "Plans differ" in failed.stdout
    assert "beyond float16's largest number" in " ".join(failed.stdout.split())

    assert make(folder, "accept").returncode == 0
    assert make(folder, "check").returncode == 0


@pytest.mark.slow
def test_it_fails_when_parity_does(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(PIPELINE, tmp_path / "pipeline"))
    failed = make(folder, "check", "VERIFY_OPTIONS=--tolerance 1e-6")
    assert failed.returncode != 0
    assert "Parity FAILED" in failed.stdout
