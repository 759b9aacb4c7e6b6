"""`ampconvert lint` and `ampconvert rule` as they are called: exit codes, formats, stdin, fixes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ampconvert.cli import main
from ampconvert.lint.catalogue import all_rules

BAD = """\
import torch

with torch.cuda.amp.autocast(False):
    pass
"""
GOOD = """\
import torch

with torch.amp.autocast("cuda", enabled=False):
    pass
"""


@pytest.fixture
def bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one file that has one finding, which can be fixed safely."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "train.py"
    path.write_text(BAD)
    return path


def lint(*words: str) -> int:
    return main(["lint", "--no-cache", *words])


def test_a_finding_is_shown_with_its_line(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lint() == 1
    out = capsys.readouterr().out
    assert "train.py:3:6: AMP001 [*]" in out
    assert "| with torch.cuda.amp.autocast(False):" in out
    assert "|      ^^^^^^" in out
    assert "Found 1 warning." in out and "1 fixable with --fix" in out


def test_nothing_found_is_0(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad.write_text(GOOD)
    assert lint("train.py") == 0
    assert capsys.readouterr().out == "All checks passed.\n"


def test_concise_is_a_line_each(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lint("--format", "concise") == 1
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("train.py:3:6: AMP001 [*] ")


def test_fix_writes_and_diff_does_not(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lint("--diff") == 1
    out = capsys.readouterr().out
    assert '+with torch.amp.autocast("cuda", enabled=False):' in out
    assert bad.read_text() == BAD
    assert lint("--fix") == 0
    assert bad.read_text() == GOOD
    assert "Fixed 1 finding. All checks passed." in capsys.readouterr().out
    assert lint("--diff") == 0


def test_select_and_ignore(bad: Path) -> None:
    assert lint("--select", "AMP2,AMP3") == 0
    assert lint("--select", "AMP0") == 1
    assert lint("--ignore", "AMP001") == 0


def test_an_unknown_code_is_named(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lint("--select", "AMP999") == 2
    assert "AMP999" in capsys.readouterr().err


def test_statistics_count(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lint("--statistics") == 1
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("AMP001"))
    assert line.split() == ["AMP001", "deprecated-autocast", "1", "1"]


def test_exit_zero_and_quiet(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lint("--exit-zero") == 0
    capsys.readouterr()
    assert lint("-q") == 1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("words", [["--format", "json"], ["--json"]])
def test_json(bad: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert lint(*words) == 1
    found = json.loads(capsys.readouterr().out)
    assert [one["code"] for one in found] == ["AMP001"]
    assert found[0]["filename"] == "train.py"


def test_sarif_and_github(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lint("--format", "sarif") == 1
    log = json.loads(capsys.readouterr().out)
    assert log["version"] == "2.1.0" and len(log["runs"][0]["results"]) == 1
    assert lint("--format", "github") == 1
    assert capsys.readouterr().out.startswith("::warning title=AMP001 ")


def stdin(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


def test_stdin(
    bad: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stdin(monkeypatch, BAD)
    assert lint("-", "--stdin-filename", "other.py", "--format", "concise") == 1
    assert capsys.readouterr().out.startswith("other.py:3:6")
    stdin(monkeypatch, BAD)
    assert lint("-", "--fix") == 0
    assert capsys.readouterr().out == GOOD
    assert bad.read_text() == BAD


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["missing.py"], "missing.py"),
        (["-", "train.py"], "stdin"),
        (["--stdin-filename", "a.py"], "--stdin-filename"),
        (["--torch", "new"], "--torch"),
        (["--format", "xml"], "xml"),
    ],
)
def test_bad_usage_is_2(
    bad: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert lint(*words) == 2
    err = capsys.readouterr().err
    assert told in err and "Traceback" not in err


def test_a_file_that_does_not_parse_is_one_finding(
    bad: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad.write_text("import torch\nprint 'autocast'\n")
    assert lint("--format", "concise") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("train.py:2:") and "AMP901" in lines[0]


def test_it_imports_no_framework(bad: Path) -> None:
    code = (
        "import sys\nfrom ampconvert.cli import main\nmain(['lint', '--no-cache', 'train.py'])\n"
        "heavy = ('torch', 'onnx', 'onnx_ir', 'libcst', 'numpy', 'scipy')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=bad.parent,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize("rule", all_rules(), ids=lambda r: r.CODE)
def test_every_rule_has_a_page(
    rule: object, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    code = rule.CODE  # type: ignore[attr-defined]
    assert main(["rule", code.lower()]) == 0
    out = capsys.readouterr().out
    assert out.startswith(code) and "Source" in out and "Found:" in out and "Not found:" in out


def test_rules_are_listed_and_near_names_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rule"]) == 0
    out = capsys.readouterr().out
    assert all(rule.CODE in out for rule in all_rules())
    assert main(["rule", "deprecated-autocst"]) == 2
    assert "did you mean deprecated-autocast" in capsys.readouterr().err
    assert main(["rule", "AMP001", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rules"][0]["name"] == "deprecated-autocast"


def test_a_conversion_shows_the_findings_of_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    path = tmp_path / "model.py"
    path.write_text("""\
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a = torch.nn.Linear(4, 4)

    def forward(self, x):
        with torch.cuda.amp.autocast(False):
            return self.a(x)


def example_inputs():
    return (torch.randn(2, 4),)
""")
    assert main(["analyze", str(path)]) == 0
    assert "model.py:10:14: AMP001" in "".join(capsys.readouterr().out.split("\n  "))
    assert main(["analyze", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["lint"][0]["code"] == "AMP001"
