"""Files that can't be read, and rules that fail: each is told of, and the rest goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ampconvert.lint import linting
from ampconvert.lint.catalogue import all_rules
from ampconvert.lint.run import Report
from ampconvert.lint.source import Source
from tests.lint.linted import NEW, OLD, lint, notebook, put, told


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


DEEP = "-" * 100_000 + "1"
UNREADABLE = {
    "python 2": (b"import torch.cuda.amp.autocast\nprint 1\n", 2, "print"),
    "null byte": (OLD.encode() + b"x = '\0'\n", 5, "null byte"),
    "no utf-8": (OLD.encode() + b"# \xe4\n", 5, "0xe4"),
    "no encoding": (b"# coding: nothing\n" + OLD.encode(), 1, "nothing"),
    "other encoding": (b"# coding: ascii\n# \xe4\n" + OLD.encode(), 2, "ASCII"),
    "parser": ((OLD + DEEP).encode(), 1, "nested too deeply"),
    "parentheses": ((OLD + "(" * 300 + ")" * 300).encode(), 5, "nested"),
    "tree": ((OLD + "x = " + "+".join("1" * 20_000)).encode(), 1, "nested too deeply"),
    "open": (OLD.encode() + b"x = '''", 5, "string"),
    "indent": (OLD.encode() + b"  x = 1\n", 5, "indent"),
    "large": (OLD.encode() + b"#" * 2_000_000, 1, "max-file-size"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_one_finding(name: str) -> None:
    data, line, word = UNREADABLE[name]
    put("a.py", data)
    put("b.py", OLD)
    report = lint(fix=True)
    (found,) = [f for f in report.findings if f.where.path == "a.py"]
    assert (found.code, found.severity) == ("AMP901", "error")
    assert found.where.line == line and word in found.message
    assert Path("b.py").read_text() == NEW and Path("a.py").read_bytes() == data
    assert list(report.files[0].parts())
    assert lint(ignore=("AMP901",)).findings == []


def test_a_file_that_concerns_no_rule_is_not_read() -> None:
    put("a.py", b"print 1 \xff\n")
    put("x.ipynb", b"{")
    assert lint() == Report((), 2)
    assert [f.code for f in lint(select=("AMP901",)).findings] == ["AMP901"] * 2


def test_a_notebook_that_is_none() -> None:
    put("x.ipynb", '{"cells": ["torch.cuda.amp.autocast"')
    (found,) = lint().findings
    assert (found.code, found.where.path) == ("AMP901", "x.ipynb") and "JSON" in found.message


def test_a_file_that_cannot_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    put("a.py", OLD)
    put("b.py", OLD)
    real = linting._read

    def read(file: Any) -> bytes:
        if file.path == "a.py":
            raise PermissionError(13, "Permission denied")
        return real(file)

    monkeypatch.setattr(linting, "_read", read)
    assert told(lint()) == [("a.py", 1, "AMP901"), ("b.py", 3, "AMP001")]


def test_what_python_warns_of_is_no_mistake_of_syntax(recwarn: pytest.WarningsRecorder) -> None:
    put("a.py", OLD + r"x = '\d'" + "\n")
    put("x.ipynb", notebook(OLD, "!ls\n" + r"x = '\d'"))
    assert [code for _, _, code in told(lint(fix=True))] == [] and not recwarn.list


def test_a_larger_size_can_be_allowed() -> None:
    put("pyproject.toml", "[tool.ampconvert.lint]\nmax-file-size = 3_000_000\n")
    put("a.py", OLD + "#" * 2_000_000)
    assert told(lint()) == [("a.py", 3, "AMP001")]


def walks_too_deep(source: Source) -> Iterator[Any]:
    def down(depth: int) -> int:
        return down(depth + 1)

    yield down(0)


def test_rules_that_walk_too_deep(monkeypatch: pytest.MonkeyPatch) -> None:
    put("a.py", OLD)
    rule = next(r for r in all_rules() if r.CODE == "AMP002")
    monkeypatch.setattr(type(rule), "check", lambda self, source: walks_too_deep(source))
    monkeypatch.setattr(type(rule), "WORDS", ((b"torch",),))
    report = lint(select=("AMP00", "AMP9"))
    assert told(report) == [("a.py", 1, "AMP901"), ("a.py", 3, "AMP001")] and report.bugs == []


@pytest.mark.parametrize("text", [OLD, OLD + "x = 1  # noqa: AMP002\n"])
def test_a_rule_that_fails_is_a_bug_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    put("a.py", text)
    put("b.py", "import torch\nx = torch.cuda.amp.autocast\n")
    put("x.ipynb", notebook(text))
    rule = next(r for r in all_rules() if r.CODE == "AMP002")

    def check(self: object, source: Source) -> Iterator[Any]:
        if "pass" in source.text:
            raise ZeroDivisionError("by zero")
        yield from ()

    monkeypatch.setattr(type(rule), "check", check)
    monkeypatch.setattr(type(rule), "WORDS", ((b"torch",),))
    report = lint(select=("AMP001", "AMP002", "AMP9"))
    assert [(path, code) for path, _, code in told(report)] == [
        ("a.py", "AMP001"), ("b.py", "AMP001"), ("x.ipynb:cell 1", "AMP001"),
    ]  # fmt: skip
    assert [bug.partition(" (test_unreadable.py:")[0] for bug in report.bugs] == [
        f"AMP002 failed on {path}: ZeroDivisionError: by zero" for path in ("a.py", "x.ipynb")
    ]


def test_any_other_failure_is_a_bug_of_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    put("a.py", OLD)
    put("x.ipynb", notebook(OLD))

    def fails(data: bytes) -> None:
        raise KeyError("cells")

    monkeypatch.setattr(linting, "Notebook", fails)
    report = lint()
    assert told(report) == [("a.py", 3, "AMP001")]
    assert report.bugs[0].startswith("checking x.ipynb failed: KeyError")
