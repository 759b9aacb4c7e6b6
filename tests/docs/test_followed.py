"""Pages that show commands with their outputs, followed literally."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.cleanroom.follow import follow, told
from tests.cleanroom.pages import read
from tests.cleanroom.room import Room, State

ROOT = Path(__file__).parents[2]
PAGES = [
    pytest.param("contributing/lint-rule.md"),
    pytest.param("contributing/op-rule.md", marks=pytest.mark.slow),
    pytest.param("faq.md", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("name", PAGES)
def test_page_shows_what_happens(name: str, tmp_path: Path) -> None:
    page = read(ROOT / "docs" / name)
    found = follow(page, *_begin(tmp_path), print)
    assert not found.differences, "\n".join(told(found))
    assert found.counts.get("save", 0) >= 1 and sum(found.counts.values()) > 2


def test_a_wrong_page_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("```console\n$ echo right\nwrong\n```\n", encoding="utf-8")
    found = follow(read(path), *_begin(tmp_path), print)
    assert [difference.line for difference in found.differences] == [2]


def _begin(folder: Path) -> tuple[Room, State]:
    """An empty folder; `python` and `ampconvert` are this interpreter's and this checkout's."""
    room = Room(folder)
    (room.home / "work").mkdir(parents=True)
    programs = folder / "bin"
    programs.mkdir()
    for name, arguments in {"python": "", "ampconvert": "-m ampconvert"}.items():
        script = f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n'
        (programs / name).write_text(script, encoding="utf-8")
        (programs / name).chmod(0o755)
    env = {
        **os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "80",
        "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "TERM": "dumb",
    }  # fmt: skip
    return room, State(env, str(room.home / "work"))
