"""Linting files and folders from end to end."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import pytest

from ampconvert.errors import UserError
from ampconvert.lint import engine, linting, workers
from ampconvert.lint import run as module
from ampconvert.lint.catalogue import all_rules
from ampconvert.lint.results import Change
from ampconvert.lint.run import Options, Report, run
from tests.lint.linted import NEW, OLD, lint, notebook, put, told


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_findings_come_by_file_and_line() -> None:
    put("b.py", OLD + OLD)
    put("a/c.py", OLD)
    put("clean.py", "x = 1\n")
    report = lint()
    assert told(report) == [("a/c.py", 3, "AMP001"), ("b.py", 3, "AMP001"), ("b.py", 7, "AMP001")]
    assert report.checked == 3 and [file.path for file in report.files] == ["a/c.py", "b.py"]
    assert [part[:2] for file in report.files for part in file.parts()] == [
        ("a/c.py", OLD), ("b.py", OLD + OLD),
    ]  # fmt: skip


def test_nothing_to_lint() -> None:
    assert lint() == Report((), 0)


def test_fixes_are_written() -> None:
    file = put("a.py", OLD + "x = torch.cuda.amp.autocast\n")
    report = lint(fix=True)
    assert file.read_text() == NEW + "x = torch.cuda.amp.autocast\n"
    (one,) = report.files
    assert [f.code for f in one.made] == ["AMP001"]
    assert one.changes == (Change("a.py", OLD + one.after[len(NEW) :], one.after),)  # type: ignore[index]
    assert told(lint()) == told(report) == [("a.py", 5, "AMP001")]
    assert lint(fix=True).made == [] and os.listdir() == ["a.py"]


def test_fixes_are_told_and_not_written() -> None:
    file = put("a.py", OLD)
    (one,) = lint(fix=True, write=False).files
    assert (one.after, one.changes) == (NEW, (Change("a.py", OLD, NEW),))
    assert file.read_text() == OLD


def test_places_after_fixes_count_in_the_new_text() -> None:
    put("a.py", "import torch\n# ampconvert: ignore[AMP002]\nx = torch.cuda.amp.autocast\n")
    (one,) = lint(fix=True, write=False).files
    assert [(text, [f.where.line for f in found]) for _, text, found in one.parts()] == [
        ("import torch\nx = torch.cuda.amp.autocast\n", [2])
    ]


def test_unsafe_fixes_only_if_asked_for() -> None:
    (tmp := Path("pyproject.toml")).write_text('[tool.ampconvert.lint]\nunfixable = ["AMP001"]\n')
    put("a.py", OLD)
    assert lint(fix=True).made == []
    rule = next(r for r in all_rules() if r.FIX == "unsafe" and r.INVALID[0].fixed)
    tmp.write_text("[tool.ampconvert.lint]\n")
    file = put("b.py", rule.INVALID[0].text)
    options: dict[str, Any] = {"select": (rule.CODE,), "assume": None, "fix": True}
    assert lint("b.py", **options).made == []
    assert lint("b.py", **options, unsafe=True).made != []
    assert file.read_text() == rule.INVALID[0].fixed
    file.write_text(rule.INVALID[0].text)
    tmp.write_text(f'[tool.ampconvert.lint]\nextend-safe-fixes = ["{rule.CODE}"]\n')
    assert lint("b.py", **options).made != []


@pytest.mark.parametrize("end", ["\r\n", "\r", "\n"])
@pytest.mark.parametrize("coding", ["", "utf-8-sig", "latin-1", "cp1252"])
def test_line_ends_and_encodings_stay(end: str, coding: str) -> None:
    head = f"# -*- coding: {coding} -*-\nname = 'ä'\n" if coding[:3] not in ("", "utf") else ""
    old, new = ((head + text).replace("\n", end).encode(coding or "utf-8") for text in (OLD, NEW))
    file = put("a.py", old)
    assert len(lint(fix=True).made) == 1
    assert file.read_bytes() == new


def test_an_encoding_that_would_spell_the_rest_anew_is_not_fixed() -> None:
    data = b"# coding: utf-7\nname = '+AGE-'\n" + OLD.encode()
    file = put("a.py", data)
    report = lint(fix=True)
    assert file.read_bytes() == data and len(report.findings) == 1 and report.made == []


def test_a_file_that_changed_meanwhile_is_not_overwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    file = put("a.py", OLD)
    real = engine.fix

    def fix(*args: Any, **options: Any) -> engine.Fixed:
        file.write_text("newer\n")
        return real(*args, **options)

    monkeypatch.setattr(engine, "fix", fix)
    report = lint(fix=True)
    assert file.read_text() == "newer\n"
    assert report.unwritten == ["a.py: changed while it was checked; run again to fix it"]


def test_a_file_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    put("a.py", OLD)

    def write(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(linting, "write", write)
    assert lint(fix=True).unwritten == ["a.py: could not be written: Permission denied"]


def test_comments_are_respected_by_fixes() -> None:
    text = OLD.replace("():", "():  # noqa: AMP001")
    file = put("a.py", text)
    assert lint(fix=True) == Report((), 1) and file.read_text() == text


def test_codes_ignored_in_some_files() -> None:
    put("pyproject.toml", '[tool.ampconvert.lint.per-file-ignores]\n"tests/*" = ["AMP0"]\n')
    put("tests/a.py", OLD)
    put("a.py", OLD)
    assert told(lint()) == [("a.py", 3, "AMP001")]


def test_stdin() -> None:
    report = lint(stdin=OLD.encode(), fix=True)
    (one,) = report.files
    assert one.after == NEW and one.path == "<stdin>" and os.listdir() == []
    put("pyproject.toml", '[tool.ampconvert.lint.per-file-ignores]\n"tests/*" = ["AMP0"]\n')
    assert lint(stdin=OLD.encode(), stdin_filename="tests/x.py") == Report((), 1)
    (one,) = lint(stdin=OLD.encode(), stdin_filename="src/x.py").files
    assert [(path, text) for path, text, _ in one.parts()] == [("src/x.py", OLD)]
    assert lint(stdin=b"x = 1\n") == Report((), 1)
    excluded = {"stdin": OLD.encode(), "stdin_filename": "build/x.py"}
    assert len(lint(**excluded).findings) == 1
    assert lint(**excluded, force_exclude=True) == Report((), 0)


def test_notebooks() -> None:
    file = put("x.ipynb", notebook("!ls\nimport torch", "# text", OLD.partition("\n\n")[2]))
    report = lint()
    assert told(report) == [("x.ipynb:cell 3", 1, "AMP001")]
    (one,) = report.files
    assert [part[:2] for part in one.parts()] == [("x.ipynb:cell 3", OLD.partition("\n\n")[2])]
    fixed = lint(fix=True)
    assert fixed.findings == [] and told(lint()) == []
    (one,) = fixed.files
    new = NEW.partition("\n\n")[2]
    assert one.changes == (Change("x.ipynb:cell 3", OLD.partition("\n\n")[2], new),)
    assert one.after == file.read_text() == notebook("!ls\nimport torch", "# text", new)


def test_a_notebook_from_stdin() -> None:
    (one,) = lint(stdin=notebook(OLD).encode(), stdin_filename="x.ipynb", fix=True).files
    assert one.after == notebook(NEW)


def test_cells_that_are_no_python() -> None:
    put("x.ipynb", notebook("import torch", "print 1", OLD))
    assert told(lint()) == [("x.ipynb:cell 2", 1, "AMP901"), ("x.ipynb:cell 3", 3, "AMP001")]
    assert told(lint(fix=True)) == [("x.ipynb:cell 2", 1, "AMP901")]
    assert Path("x.ipynb").read_text() == notebook("import torch", "print 1", NEW)


def test_unknown_codes_and_paths_are_the_user_s_to_mend() -> None:
    put("a.py", OLD)
    with pytest.raises(UserError, match=r"^--select: .*'AMP9999'"):
        lint(select=("AMP9999",))
    with pytest.raises(UserError, match=r"nowhere"):
        lint("nowhere")
    put("sub/pyproject.toml", '[tool.ampconvert.lint]\nignore = ["AMP77"]\n')
    with pytest.raises(UserError, match=r"sub/pyproject\.toml: .*ignore: .*'AMP77'"):
        lint(select=None)
    with pytest.raises(UserError, match=r"sub/pyproject\.toml: .*ignore: .*'AMP77'"):
        lint(select=None, stdin=b"", stdin_filename="sub/x.py")


def test_progress_is_told() -> None:
    for number in range(3):
        put(f"{number}.py", OLD)
    seen: list[tuple[int, int]] = []
    run(Options(cache=False), lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_the_garbage_collector_is_as_it_was() -> None:
    put("a.py", OLD)
    lint()
    assert gc.isenabled()
    gc.disable()
    try:
        lint()
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files enough for several processes, in small pieces."""
    monkeypatch.setattr(module, "_MOST_IN_ONE_PROCESS", 3)
    monkeypatch.setattr(workers, "_FILES_AT_ONCE", 3)
    for number in range(20):
        put(f"{number:02}.py", OLD * (number % 3))
    put("x.ipynb", notebook(OLD))


@pytest.mark.usefixtures("many")
def test_several_processes_find_the_same() -> None:
    one, two = lint(jobs=1), lint(jobs=2)
    assert one == two and len(one.findings) == 20 and one.checked == 21
    assert lint(jobs=2, cache=True) == one == lint(jobs=2, cache=True)
    fixed = lint(jobs=2, fix=True)
    assert len(fixed.made) == 20 and lint(jobs=2).findings == []


@pytest.mark.usefixtures("many")
def test_a_process_that_dies_takes_one_file_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = linting.lint

    def lint_or_die(file: Any, how: Any, given: bytes | None = None) -> Any:
        if file.path == "07.py":
            os._exit(1)
        return real(file, how, given)

    monkeypatch.setattr(linting, "lint", lint_or_die)
    report = lint(jobs=2)
    assert report.bugs == ["the process that checked 07.py died"]
    assert len(report.findings) == 19 and report.checked == 21


@pytest.mark.usefixtures("many")
def test_an_interrupt_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    for jobs in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            run(Options(jobs=jobs, cache=True), stop)
    assert len(lint(cache=True).findings) == 20
