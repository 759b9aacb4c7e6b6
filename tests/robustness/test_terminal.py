"""Streams and terminals of every kind: right exit codes, no traceback, nothing raw from names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import onnx
import pytest
from rich.table import Table
from rich.text import Text

from ampconvert.report.layout import console
from ampconvert.report.words import printable
from tests.robustness.command import CONTROL, ended
from tests.robustness.targets import MODEL, SOURCE, parsed

ROOT = Path(__file__).parents[2]
HOSTILE = [
    "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "[red]markup[/red]", "a\nb", "a\rb", "tab\tbed",
    "\x9b2J", "\u202eright to left", "<script>alert(1)</script>", "| pipe | `tick` |", "-dash",
    "C:\\x\\y.bin", "with space", "'quotes\"", "$(touch x)", "ünï😀", "%s%n", "{0}", "x" * 300,
    "a::b", "../up", "*",
]  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.onnx").write_bytes(parsed(MODEL).SerializeToString())


def renamed(name: str) -> onnx.ModelProto:
    """The model with a hostile name for everything that has one."""
    model = parsed(MODEL)
    names: dict[str, str] = {}
    for node in model.graph.node:
        node.name = f"{node.name}{name}"
        for values in (node.input, node.output):
            for i, value in enumerate(values):
                values[i] = names.setdefault(value, value + name)
    for holder in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        holder.name = names.setdefault(holder.name, holder.name + name)
    model.graph.name = name
    model.producer_name = name
    return model


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_converted_and_shown(name: str) -> None:
    Path("m.onnx").write_bytes(renamed(name).SerializeToString())
    for words in (["analyze"], ["explain"], ["convert", "-o", "out.onnx", "--force"]):
        assert ended([words[0], "m.onnx", *words[1:]]).code == 0
    made = onnx.load("out.onnx")
    assert [v.name for v in made.graph.output] == [f"y{name}", f"z{name}"]
    done = ended(["explain", "m.onnx", "--json"])
    assert done.code == 0
    assert {node["node"] for node in json.loads(done.out)["nodes"]} >= {f"n1{name}"}
    assert ended(["convert", "m.onnx", "--plan", "out.plan.json", "-o", "b.onnx"]).code == 0
    assert onnx.load("b.onnx") == made
    assert ended(["verify", "m.onnx", "out.onnx"]).code == 0


@pytest.mark.parametrize("name", [n for n in HOSTILE if "/" not in n and len(n) < 200])
def test_hostile_file_names(name: str) -> None:
    os.rename("m.onnx", f"./{name}.onnx")
    assert ended(["analyze", f"./{name}.onnx"]).code == 0
    assert ended(["convert", "-o", "out", "--no-verify", f"./{name}.onnx"]).code == 0
    assert Path("out", f"{name}.fp16.onnx").exists()
    Path(f"{name}.py").write_bytes(SOURCE)
    for form in ("text", "concise", "json", "sarif", "github"):
        assert ended(["lint", "--no-cache", "--format", form, f"./{name}.py"]).code == 1
    assert ended(["lint", "--no-cache", "--diff", f"./{name}.py"]).code == 1


def test_sources_with_escapes_are_shown_as_pictures() -> None:
    Path("a.py").write_bytes(SOURCE.replace(b"autocast():", b'autocast("\x1b[31m\x07"):'))
    done = ended(["lint", "--no-cache", "a.py"])
    assert "\u241b[31m" in done.out


def test_messages_show_escapes_as_pictures() -> None:
    done = ended(["analyze", "\x1b[31m.onnx"])
    assert done.message.startswith("\u241b[31m.onnx: ")
    assert "\u241b" in ended(["analyze", "m.onnx", "\x1b[31m"]).err


def test_printable_keeps_length_and_plain_text() -> None:
    plain = "words, ünï😀, [red], tab\t and\nlines"
    assert printable(plain) == plain
    assert printable("\x1b\x9b\u202e\r\x7f") == "\u241b\ufffd\ufffd\u240d\u2421"


def test_pieces_inside_of_pieces_are_made_printable(capsys: pytest.CaptureFixture[str]) -> None:
    rows = Table.grid()
    rows.add_row("\x1b[31mtext", Text("\x1b[32mstyled", style="bold"))
    console(sys.stdout, width=60).print(rows)
    assert not CONTROL.search(capsys.readouterr().out)


LINT = ["lint", "--no-cache", "a.py"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("words", [["rules"], LINT, [*LINT, "--format", "json"]])
def test_stdout_that_is_full(words: list[str]) -> None:
    Path("a.py").write_bytes(SOURCE)
    code, err = _shell(words, "> /dev/full")
    assert (code, err) == (2, "ampconvert: error: stdout can't be written: No space left on device")


@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell")
@pytest.mark.parametrize(
    ("words", "streams", "code"),
    [
        (["rules"], ">&-", 0),
        (LINT, ">&-", 1),
        (LINT, ">&- 2>&-", 1),
        (["lint", "-"], "<&-", 2),
        (["analyze", "nothing.onnx"], "2>&-", 2),
        (["rules"], "| true", 0),
        (LINT, "| head -1 > /dev/null; exit ${PIPESTATUS[0]}", 1),
    ],
)
def test_closed_streams_and_readers_that_leave(words: list[str], streams: str, code: int) -> None:
    Path("a.py").write_bytes(SOURCE)
    got, err = _shell(words, streams)
    assert got == code
    assert "Traceback" not in err and "Error" not in err.replace("error:", "")


@pytest.mark.parametrize(
    "settings",
    [
        {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"COLUMNS": "20"}, {"COLUMNS": "5"}, {"COLUMNS": "0"}, {"COLUMNS": "words"},
        {"TERM": "dumb", "FORCE_COLOR": ""}, {"NO_COLOR": "1"}, {"HOME": "/nonexistent"},
    ],
    ids=str,
)  # fmt: skip
def test_surroundings(settings: dict[str, str], tmp_path: Path) -> None:
    Path("ü.py").write_bytes(SOURCE)
    run = subprocess.run(
        [sys.executable, "-m", "ampconvert", "lint", "."], capture_output=True,
        env=_environment() | settings,
    )  # fmt: skip
    assert run.returncode == 1, run.stderr
    assert run.stderr == b""
    assert b"AMP001" in run.stdout and b"\x1b" not in run.stdout


def test_narrow_pages_keep_their_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    out = "".join(ended(["analyze", "m.onnx", "--no-verify"]).out.split())
    assert "nothingwaswritten" in out and "FP16" in out


def _shell(words: Sequence[str], streams: str) -> tuple[int, str]:
    command = " ".join([sys.executable, "-m", "ampconvert", *words, streams])
    run = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=_environment(), timeout=60
    )
    return run.returncode, run.stderr.strip()


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}
