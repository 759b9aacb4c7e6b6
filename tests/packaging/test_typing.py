"""Type checkers see the types of the installed package: py.typed is there and true."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.distributions import bin_of, done, environment

pytestmark = pytest.mark.slow

# A script as users write it. Each reveal_type is to give what stands behind it.
SCRIPT = """
from pathlib import Path

import ampconvert

result = ampconvert.convert("model.onnx", dtype="float16", out=Path("out"))
reveal_type(result)  # ampconvert.conversion.Conversion
reveal_type(result.ok)  # bool
reveal_type(result.plan)  # ampconvert.plan.Plan
analysis = ampconvert.analyze("model.onnx", dtype="bfloat16")
reveal_type(analysis)  # ampconvert.conversion.Analysis
comparison = ampconvert.verify_models("model.py", "model.fp16.onnx", tolerance=1e-3)
reveal_type(comparison.ok)  # bool
rules = ampconvert.load_rules([Path("mine.toml")])
reveal_type(rules[0].reason)  # str
reveal_type(ampconvert.__version__)  # str
try:
    ampconvert.convert("model.py")
except ampconvert.UserError as error:
    reveal_type(error)  # ampconvert.errors.UserError
"""
WRONG = """
import ampconvert

ampconvert.verify_models("a.py", "b.onnx", tolerance="small")
ampconvert.no_such_name
"""


@pytest.fixture(scope="module")
def place(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and its core packages: no checker, no framework."""
    return environment(sys.executable, wheel, (), tmp_path_factory.mktemp("environments"))


def test_mypy_accepts_a_user_s_script(place: Path, tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(SCRIPT, encoding="utf-8")
    found = mypy(place, tmp_path / "user.py")
    assert found.returncode == 0, found.stdout
    revealed = [
        line.split('"')[1] for line in found.stdout.splitlines() if "Revealed type is" in line
    ]
    assert revealed == expected()


def test_mypy_refuses_what_is_wrong(place: Path, tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(WRONG, encoding="utf-8")
    found = mypy(place, tmp_path / "user.py")
    assert found.returncode == 1
    assert "[arg-type]" in found.stdout, found.stdout


def test_pyright_accepts_a_user_s_script(place: Path, tmp_path: Path) -> None:
    pyright = os.environ.get("AMPCONVERT_PYRIGHT") or shutil.which("pyright")
    if pyright is None:
        pytest.skip("pyright is not installed; AMPCONVERT_PYRIGHT may name it")
    (tmp_path / "user.py").write_text(SCRIPT, encoding="utf-8")
    found = subprocess.run(
        [pyright, "--pythonpath", str(bin_of(place, "python")), "--outputjson", "user.py"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    report = json.loads(found.stdout)["generalDiagnostics"]
    assert not [one["message"] for one in report if one["severity"] == "error"]
    revealed = [one["message"] for one in report if one["severity"] == "information"]
    assert len(revealed) == len(expected())
    for message, wanted in zip(revealed, expected(), strict=True):
        assert wanted.rpartition(".")[2].split("[")[0] in message


def test_every_public_name_has_a_type(place: Path, tmp_path: Path) -> None:
    """No public name comes as Any through the lazy loading."""
    names = done(
        [str(bin_of(place, "python")), "-c",
         "import ampconvert; print(*[n for n in ampconvert.__all__ if n != '__version__'])"]
    ).split()  # fmt: skip
    lines = ["import ampconvert", *(f"reveal_type(ampconvert.{name})" for name in names)]
    (tmp_path / "names.py").write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = mypy(place, tmp_path / "names.py")
    revealed = [line for line in found.stdout.splitlines() if "Revealed type is" in line]
    assert len(revealed) == len(names), found.stdout
    assert not [line for line in revealed if line.endswith('"Any"')]


def expected() -> list[str]:
    """What the comments of SCRIPT say."""
    return [
        line.partition("# ")[2] for line in SCRIPT.splitlines()
        if "reveal_type" in line
    ]  # fmt: skip


def mypy(place: Path, script: Path) -> subprocess.CompletedProcess[str]:
    """`mypy --strict` of this environment on a script that runs in `place`."""
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--python-executable",
         str(bin_of(place, "python")), "--config-file", os.devnull, script.name],
        capture_output=True, text=True, cwd=script.parent, check=False,
    )  # fmt: skip
