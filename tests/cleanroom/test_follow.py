"""Pages are followed with bash, here in a room without a checkout and without packages."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.cleanroom.follow import Followed, follow, told
from tests.cleanroom.pages import parse
from tests.cleanroom.room import Room, State
from tests.cleanroom.shell import Shell, run
from tests.cleanroom.update import elided, updated


@pytest.fixture
def room(tmp_path: Path) -> Room:
    made = Room(tmp_path)
    made.home.mkdir()
    return made


def followed(room: Room, text: str) -> Followed:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    begin = State({"PATH": path, "HOME": str(room.home)}, str(room.home))
    return follow(parse(Path("page.md"), text), room, begin, lambda line: None)


def console(*lines: str) -> str:
    return "\n".join(["```console", *lines, "```", ""])


def test_a_page_that_is_right_has_no_difference(room: Room) -> None:
    text = "Save this as `say.py`:\n\n" + '```python title="say.py"\nprint("said in 3 s")\n```\n\n'
    text += console(
        "$ mkdir work", "$ cd work", "$ cp ../say.py .", "$ python say.py", "said in 5 s"
    )
    text += console("$ pwd", "/home/you/work", "$ false", "$ echo $?", "1")
    found = followed(room, text)
    assert not found.differences
    assert found.counts == {"save": 1, "commands": 2, "command": 7}
    assert found.state is not None
    assert found.state.folder == str(room.home / "work")
    assert found.state.made == ("say.py", "work")


def test_a_wrong_output_fails_with_page_and_line(room: Room) -> None:
    found = followed(room, "# T\n\n" + console("$ echo one", "one", "$ echo two", "three"))
    lines = list(told(found))
    assert lines[0] == "page.md:6: `echo two` prints something else"
    assert "    - three" in lines and "    + two" in lines


def test_a_command_that_fails_unseen_is_a_difference(room: Room) -> None:
    [difference] = followed(room, console("$ sh -c 'echo why; exit 3'", "why")).differences
    assert "exit code 3" in difference.what
    assert difference.lines == ("why",)
    assert difference.found is None


def test_a_script_that_fails_is_a_difference(room: Room) -> None:
    [difference] = followed(room, "\n```python\nassert 1 == 2\n```\n").differences
    assert difference.line == 2
    assert "AssertionError" in difference.lines[-1] or "assert 1 == 2" in "".join(difference.lines)


def test_blocks_that_are_not_run_are_counted(room: Room) -> None:
    found = followed(room, "*Not run for this page: needs a GPU.*\n\n" + console("$ exit 1"))
    assert not found.differences
    assert [step.reason for step in found.not_run] == ["needs a GPU"]


def test_what_the_reader_has_is_made_where_it_is_asked_for(
    room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = tmp_path / "files"
    given.mkdir()
    (given / "has.py").write_text("open('has.txt', 'w').write('it')\n")
    monkeypatch.setattr("tests.cleanroom.follow.GIVEN", given)
    lines = ("$ ls", "has.txt", "$ touch more", "$ ls")
    note = "<!-- cleanroom: given has.py{} -->\n"
    assert not followed(room, note.format("") + console(*lines, "has.txt", "more")).differences
    assert not followed(room, note.format(", each") + console(*lines, "has.txt")).differences
    assert not list(room.home.iterdir())
    assert not followed(
        room, note.format(", here") + console(*lines, "has.txt", "more")
    ).differences
    assert (room.home / "has.txt").exists()
    assert not followed(
        room, note.format("") + "```python\nassert open('has.txt')\n```\n"
    ).differences


def test_an_update_makes_a_page_right(room: Room) -> None:
    text = "# T\n\n" + console(
        "$ printf 'a\\nb\\nc\\nd\\n'", "a", "...", "x", "", "$ echo kept in 1 s", "kept in 9 s"
    )
    new = updated(text, followed(room, text))
    assert new == text.replace("x\n", "d\n")
    assert not followed(room, new).differences


def test_an_update_keeps_elisions() -> None:
    found = ["head", "b", "c", "middle 2", "e", "f", "end"]
    assert elided(["head", "...", "end"], found) == ["head", "...", "end"]
    assert elided(["other", "...", "middle 1", "...", "end"], found) == [
        "head", "...", "middle 2", "...", "end",
    ]  # fmt: skip
    assert elided(["x", "y"], found) == found
    assert elided(["a", "...", "b"], ["a", "b"]) == ["a", "b"]
    assert elided(["...", "end"], found) == ["...", "end"]
    assert elided(["head", "..."], found) == ["head", "..."]


def test_a_shell_keeps_folder_variables_and_status(tmp_path: Path) -> None:
    shell = Shell({"PATH": os.environ["PATH"]}, str(tmp_path))
    shell = run(shell, "export WORD='two words'; mkdir here; cd here").shell
    ran = run(shell, 'echo "$WORD"; echo bad >&2; (exit 4)')
    assert ran.output == ("two words", "bad")
    assert ran.status == 4
    assert run(ran.shell, "echo $?; pwd").output == ("4", str(tmp_path / "here"))


def test_a_command_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    shell = Shell({"PATH": os.environ["PATH"]}, str(tmp_path))
    ran = run(shell, "echo begun; sleep 60", limit=0.5)
    assert ran.status == 124
    assert ran.output[0] == "begun"


def test_a_page_can_be_followed_again(room: Room) -> None:
    text = console("$ mkdir made", "$ ls", "made")
    for _ in range(2):
        found = followed(room, text)
        assert not found.differences
        assert found.state is not None
        room.keep("page.md", found.state)
        assert room.state("page.md") == found.state
        room.forget("page.md")
    assert room.state("page.md") is None
