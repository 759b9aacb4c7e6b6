"""What is remembered of files, and when it counts no more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ampconvert.errors import UserError
from ampconvert.lint import cache as module
from ampconvert.lint import linting
from ampconvert.lint.run import Options, Report, run

OLD = "import torch\n\ntorch.cuda.amp.autocast()\n"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "src").mkdir()
    put(tmp_path / "src" / "a.py", OLD)
    put(tmp_path / "src" / "b.py", "x = 1\n")
    put(tmp_path / "src" / "ä ö.ipynb", json.dumps(
        {"cells": [{"cell_type": "code", "source": OLD}], "metadata": {}}
    ))  # fmt: skip
    return tmp_path


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the files that were checked, and not taken from the cache."""
    paths: list[str] = []
    real = linting.lint

    def lint(file, how, given=None):  # type: ignore[no-untyped-def]
        paths.append(file.path)
        return real(file, how, given)

    monkeypatch.setattr(linting, "lint", lint)
    return paths


def put(file: Path, text: str, age: int = 60) -> None:
    """Write a file as if it had been written `age` seconds ago."""
    file.write_text(text, encoding="utf-8")
    then = time.time_ns() - age * 10**9
    os.utime(file, ns=(then, then))


def lint(*paths: str, **options: object) -> Report:
    given = {"select": ("AMP001",)} | options
    return run(Options(paths=paths or (".",), **given))  # type: ignore[arg-type]


EVERY = ["src/a.py", "src/b.py", "src/ä ö.ipynb"]


def test_the_second_run_reads_nothing(project: Path, checked: list[str]) -> None:
    first = lint()
    assert sorted(checked) == EVERY and len(first.findings) == 2
    checked.clear()
    assert lint() == first and checked == []


def test_findings_come_back_whole(project: Path, checked: list[str]) -> None:
    first = lint("src/a.py", "src/ä ö.ipynb")
    again = lint("src/a.py", "src/ä ö.ipynb")
    assert again == first and len(checked) == 2
    assert all(found.fix is not None for found in again.findings)
    assert [list(file.parts()) for file in again.files] == [
        list(file.parts()) for file in first.files
    ]


def test_paths_are_as_they_are_named_now(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lint()
    assert {f.where.path for f in lint(str(project)).findings} == {
        f"{project}/src/a.py", f"{project}/src/ä ö.ipynb:cell 1",
    }  # fmt: skip


def test_a_project_that_moves_takes_its_cache_along(project: Path, checked: list[str]) -> None:
    (project / "pyproject.toml").write_text("[tool.ampconvert.lint]\n")
    lint()
    moved = project.parent / f"{project.name} moved"
    project.rename(moved)
    checked.clear()
    os.chdir(moved)
    assert len(lint().findings) == 2 and checked == []


def test_a_change_is_seen(project: Path, checked: list[str]) -> None:
    lint()
    checked.clear()
    put(project / "src" / "a.py", OLD.replace("cuda", "cpu_"), age=30)  # as long as before
    assert len(lint().findings) == 1 and checked == ["src/a.py"]


def test_a_touched_file_is_read_but_not_checked(project: Path, checked: list[str]) -> None:
    first = lint()
    checked.clear()
    os.utime(project / "src" / "a.py")
    assert lint() == first and checked == []


def test_a_change_right_after_the_run_is_seen(project: Path, checked: list[str]) -> None:
    file = project / "src" / "a.py"
    put(file, OLD, age=0)
    stat = file.stat()
    assert len(lint("src/a.py").findings) == 1
    file.write_text(OLD.replace("cuda", "cpu_"))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # the clock is coarse
    assert lint("src/a.py").findings == []


def test_each_configuration_has_its_own_findings(project: Path, checked: list[str]) -> None:
    assert len(lint().findings) == 2
    assert lint(select=("AMP2",)).findings == []
    assert lint(torch="1.9") is not None
    assert len(checked) == 9
    checked.clear()
    assert len(lint().findings) == 2 and lint(select=("AMP2",)).findings == []
    assert checked == []


def test_only_so_many_configurations_are_kept(project: Path, checked: list[str]) -> None:
    for minor in range(12):
        lint(torch=f"2.{minor}")
    lines = (project / module.FOLDER / "findings").read_bytes().splitlines()
    assert len(lines) == 9
    checked.clear()
    lint(torch="2.11")
    assert checked == []
    lint(torch="2.0")
    assert sorted(checked) == EVERY


def test_it_lies_beside_the_configuration(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "pyproject.toml").write_text("[tool.ampconvert.lint]\n")
    monkeypatch.chdir(project / "src")
    lint()
    assert sorted(os.listdir(project / module.FOLDER)) == [".gitignore", "CACHEDIR.TAG", "findings"]
    assert not (project / "src" / module.FOLDER).exists()
    assert (project / module.FOLDER / ".gitignore").read_text() == "*\n"
    tag = (project / module.FOLDER / "CACHEDIR.TAG").read_text()
    assert tag.startswith("Signature: 8a477f597d28d172789f06886806bc55")


def test_off_it_is_neither_read_nor_written(project: Path, checked: list[str]) -> None:
    lint(cache=False)
    assert not (project / module.FOLDER).exists()
    lint()
    checked.clear()
    lint(cache=False)
    assert sorted(checked) == EVERY


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"\xff" * 100,
        lambda data: data[: len(data) // 2],
        lambda data: data.replace(b"ampconvert lint ", b"ampconvert lint 0"),
        lambda data: data.split(b"\n")[0] + b"\n" + data.split()[3] + b" [1, 2]\n",
        lambda data: data.replace(b"[", b"{"),
        lambda data: data.replace(b'"AMP001"', b"1,2"),
        lambda data: data.replace(b'"src/a.py":[', b'"src/a.py":["x",'),
        lambda data: data.replace(b'"src/a.py":[', b'"src/a.py":5,"y":['),
    ],
)
def test_a_damaged_cache_is_no_cache(project: Path, damage, checked: list[str]) -> None:  # type: ignore[no-untyped-def]
    first = lint()
    file = project / module.FOLDER / "findings"
    changed = damage(file.read_bytes())
    assert changed != file.read_bytes()
    file.write_bytes(changed)
    checked.clear()
    assert lint() == first and checked != []
    checked.clear()
    assert lint() == first and checked == []


def test_what_cannot_be_written_is_not_cached(project: Path) -> None:
    (project / module.FOLDER).write_text("a file")
    assert len(lint().findings) == 2 and len(lint().findings) == 2
    assert (project / module.FOLDER).read_text() == "a file"


def test_files_that_are_gone_are_forgotten(project: Path) -> None:
    lint()
    (project / "src" / "b.py").unlink()
    put(project / "src" / "c.py", "y = 1\n")
    lint()
    text = (project / module.FOLDER / "findings").read_text()
    assert "src/c.py" in text and "src/b.py" not in text


def test_the_rules_are_part_of_it(project: Path, monkeypatch: pytest.MonkeyPatch,
                                  checked: list[str]) -> None:  # fmt: skip
    lint()
    checked.clear()
    monkeypatch.setattr(module, "_header", lambda: b"ampconvert lint of tomorrow")
    lint()
    assert sorted(checked) == EVERY


def test_after_fixes_what_is_left_is_remembered(project: Path, checked: list[str]) -> None:
    lint()
    checked.clear()
    assert lint(fix=True, write=False).findings == [] and "torch.cuda" in Path(EVERY[0]).read_text()
    assert len(lint().findings) == 2 and sorted(checked) == [EVERY[0], EVERY[2]]
    checked.clear()
    assert len(lint(fix=True).made) == 2 and sorted(checked) == [EVERY[0], EVERY[2]]
    checked.clear()
    assert lint().findings == [] and lint(fix=True).files == () and checked == []


def test_a_wrong_code_is_told_whether_the_cache_knows_files_or_not(project: Path) -> None:
    lint()
    for _ in range(2):
        with pytest.raises(UserError, match=r"AMP9999"):
            lint(select=("AMP9999",))


def test_a_warm_run_imports_no_rules(project: Path) -> None:
    code = (
        "import sys\n"
        "from ampconvert.lint.run import Options, run\n"
        "print(len(run(Options(select=('AMP001',))).findings))\n"
        "print([m for m in ('ampconvert.lint.rule', 'ampconvert.lint.source', 'tomllib', 'rich',"
        " 'multiprocessing', 'importlib.resources', 'pathlib') if m in sys.modules])\n"
    )
    for expected in ("ampconvert.lint.rule", "[]"):
        ran = subprocess.run(
            [sys.executable, "-S", "-c", code], capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.startswith("2\n") and expected in ran.stdout
