"""`ampconvert rewrite`: what it prints, writes and gives as exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ampconvert.cli import main

SCRIPTS = Path(__file__).parent / "scripts"


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A copy of a script, executable, with Windows line ends and in Latin-1."""
    text = (SCRIPTS / "plain_loop.py").read_text()
    path = tmp_path / "train.py"
    path.write_bytes(
        f"# -*- coding: latin-1 -*-\n# é\n{text}".replace("\n", "\r\n").encode("latin-1")
    )
    path.chmod(0o751)
    return path


def test_shows_and_writes_nothing(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = script.read_bytes()
    assert main(["rewrite", str(script)]) == 0
    told = capsys.readouterr().out
    assert script.read_bytes() == before
    assert "make one scaler after the optimizer" in told
    assert "+        scaler.scale(loss).backward()" in told
    assert "-        loss.backward()" in told
    assert "nothing is written without --write" in told


def test_writes_in_place(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rewrite", str(script), "--write", "--dtype", "bf16"]) == 0
    assert "is rewritten" in capsys.readouterr().out
    data = script.read_bytes()
    assert b"# \xe9\r\n" in data and data.count(b"\n") == data.count(b"\r\n")
    assert b"AMP_DTYPE = torch.bfloat16" in data
    assert script.stat().st_mode & 0o777 == 0o751
    assert [p.name for p in script.parent.iterdir()] == ["train.py"]

    assert main(["rewrite", str(script), "--write"]) == 0
    told = capsys.readouterr().out
    assert "uses mixed precision already" in told and "Nothing to do." in told
    assert script.read_bytes() == data


def test_as_data(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rewrite", str(script), "--json", "--style", "ampconvert"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["changed"] and not told["written"]
    assert [s["line"] for s in told["steps"]] == sorted(s["line"] for s in told["steps"])
    assert "ampconvert.prepare_training(model" in told["text"]
    assert told["diff"].startswith("--- ")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.py", "import torch\n", "a.py: no training loop"),
        ("b.py", "from accelerate import Accelerator\n", "b.py:1: Accelerate"),
        ("c.py", "def f(:\n", "c.py:1: this is no Python"),
        ("d.ipynb", "{}", "notebooks are not rewritten"),
        ("e.py", "# coding: klingon\n", "klingon"),
    ],
)
def test_refuses_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, message: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert main(["rewrite", str(path), "--write"]) == 2
    assert message in capsys.readouterr().err
    assert path.read_text() == text


def test_no_such_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rewrite", str(tmp_path / "none.py")]) == 2
    assert "none.py" in capsys.readouterr().err
    assert main(["rewrite", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err
