"""Follows one page, block by block, and collects what differs from it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.cleanroom import matching
from tests.cleanroom.pages import Command, Given, Page, Step
from tests.cleanroom.room import Room, State
from tests.cleanroom.shell import Ran, Shell, run

GIVEN = Path(__file__).parent / "given"


@dataclass(frozen=True)
class Difference:
    """Where a page is wrong. `found`: the output to show instead, None where that can't mend it."""

    line: int
    what: str
    lines: tuple[str, ...]
    command: Command | None = None
    found: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Followed:
    """What came of a page."""

    page: Page
    seconds: float
    differences: tuple[Difference, ...]
    counts: dict[str, int] = field(default_factory=dict)  # of steps by kind, and "command"
    state: State | None = None

    @property
    def not_run(self) -> tuple[Step, ...]:
        return tuple(step for step in self.page.steps if step.kind == "not run")


Say = Callable[[str], None]


def follow(page: Page, room: Room, begin: State, say: Say) -> Followed:
    """Do what the page asks, in order; goes on after a difference, for one run to show them all."""
    before = room.entries()
    walk = _Walk(room, page, Shell(begin.env, begin.folder), say)
    for number, step in enumerate(page.steps):
        walk.take(step, number)
    made = tuple(sorted(room.entries() - before))
    state = State(walk.shell.env, walk.shell.folder, made)
    return Followed(page, walk.seconds, tuple(walk.differences), walk.counts, state)


class _Walk:
    """The reader's terminal, and what went wrong so far."""

    def __init__(self, room: Room, page: Page, shell: Shell, say: Say) -> None:
        self.room, self.page, self.shell, self.say = room, page, shell, say
        self.seconds = 0.0
        self.differences: list[Difference] = []
        self.counts: dict[str, int] = {}

    def take(self, step: Step, number: int) -> None:
        self._count(step.kind)
        if step.kind == "commands":
            self._commands(step, number)
        elif step.kind == "save":
            self._save(step)
        elif step.kind == "script":
            self._script(step, number)
        elif step.kind == "not run":
            self.say(f"{self._place(step.line)}  not run: {step.reason}")

    def _commands(self, step: Step, number: int) -> None:
        given, outside = step.given, self.shell
        if given and given.where == "here":
            self._bring(given, step.line)
            given = None
        prepared = self._prepared(given, step.line, str(number)) if given else None
        for at, command in enumerate(step.commands):
            if given and prepared and (at == 0 or given.where == "each"):
                folder = self.room.path / "given" / self.page.path.stem / f"{number}-{at}"
                shutil.rmtree(folder, ignore_errors=True)
                shutil.copytree(prepared, folder)
                self.shell = replace(outside, folder=str(folder))
            self._command(command)
        if given:
            self.shell = outside

    def _prepared(self, given: Given, line: int, name: str) -> Path:
        """A new folder with what the reader has."""
        folder, outside = self._folder(name), self.shell
        self.shell = replace(outside, folder=str(folder))
        self._bring(given, line)
        self.shell = outside
        return folder

    def _bring(self, given: Given, line: int) -> None:
        ran = run(self.shell, f"python '{GIVEN / given.file}' 2>&1")
        if ran.status:
            self._differ(line, f"{given.file} ended with exit code {ran.status}", ran.output)

    def _command(self, command: Command) -> None:
        self._count("command")
        ran = self._run(command.text, command.line)
        found = tuple(self.room.told(line) for line in ran.output)
        if ran.status and not command.status_told:
            what = (
                f"`{command.text}` ended with exit code {ran.status}, which the page does not show"
            )
            self._differ(command.line, what, found[-40:])
        elif command.output is not None:
            shown, found = _trimmed(command.output), _trimmed(found)
            if not matching.agrees(shown, found):
                lines = tuple(matching.difference(shown, found))
                what = f"`{command.text}` prints something else"
                self.differences.append(Difference(command.line, what, lines, command, found))
                self.say(f"{self._place(command.line)}  {what}")

    def _save(self, step: Step) -> None:
        file = Path(self.shell.folder) / step.title
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(step.text, encoding="utf-8")

    def _script(self, step: Step, number: int) -> None:
        given = (GIVEN / step.given.file).read_text(encoding="utf-8") if step.given else ""
        folder = self._folder(f"{number}") if step.given else Path(self.shell.folder)
        file = folder / f"block_{step.line}.py"
        file.write_text(f"{given}\n{step.text}", encoding="utf-8")
        outside = self.shell
        self.shell = replace(outside, folder=str(folder))
        ran = self._run(f"python {file.name}", step.line)
        self.shell = outside
        if ran.status:
            found = tuple(self.room.told(line) for line in ran.output)
            self._differ(step.line, f"the block ended with exit code {ran.status}", found[-40:])

    def _folder(self, name: str) -> Path:
        folder = self.room.path / "given" / self.page.path.stem / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def _run(self, text: str, line: int) -> Ran:
        ran = run(self.shell, text)
        self.shell = ran.shell
        self.seconds += ran.seconds
        self.say(f"{self._place(line)}  {ran.seconds:7.1f} s  {text.splitlines()[0]}")
        return ran

    def _differ(self, line: int, what: str, lines: tuple[str, ...]) -> None:
        self.differences.append(Difference(line, what, lines))
        self.say(f"{self._place(line)}  {what}")

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def _place(self, line: int) -> str:
        return f"{self.page.path}:{line}"


def _trimmed(lines: tuple[str, ...]) -> tuple[str, ...]:
    """Without blank lines at the end: pages leave one before the next command."""
    kept = list(lines)
    while kept and not kept[-1].strip():
        kept.pop()
    return tuple(kept)


def told(found: Followed) -> Iterator[str]:
    """The differences of a page, for people."""
    for difference in found.differences:
        yield f"{found.page.path}:{difference.line}: {difference.what}"
        yield from (f"    {line}" for line in difference.lines)
