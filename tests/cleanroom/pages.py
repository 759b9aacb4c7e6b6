"""What a page asks its reader to do: commands, files to save, scripts to run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

PROMPT = "$ "
SHELLS = ("sh", "bash")
ELIDED = "..."


class PageError(Exception):
    """A page that can't be followed: "page:line: why"."""


@dataclass(frozen=True)
class Command:
    """One command with what the page shows as its output.

    `line` is the command's line in the page, counted from 1; `output` stands in lines
    `start` to `start + len(output) - 1`, with `indent` before each. `output` is None where the page
    shows none (```sh). `status_told`: the next command is `echo $?`.
    """

    line: int
    text: str
    output: tuple[str, ...] | None
    start: int
    indent: str = ""
    status_told: bool = False


@dataclass(frozen=True)
class Step:
    """One block of a page: what is done with it.

    kind: "commands", "save" (text to the file `title`), "script" (text in Python), "read" (nothing
    to do) or "not run" (`reason` says why).
    """

    kind: str
    line: int
    language: str
    title: str = ""
    text: str = ""
    commands: tuple[Command, ...] = ()
    reason: str = ""
    given: Given | None = None


@dataclass(frozen=True)
class Given:
    """What the reader has before a block: `file` makes it. where: "new", "here" or "each"."""

    file: str
    where: str = "new"


@dataclass(frozen=True)
class Page:
    """A page's blocks in order; `after` is the page whose environment it goes on in, or ""."""

    path: Path
    steps: tuple[Step, ...]
    after: str = ""


def read(path: Path) -> Page:
    """The page at `path`. PageError where the clean room's conventions are broken."""
    return parse(path, path.read_text(encoding="utf-8"))


def parse(path: Path, text: str) -> Page:
    """The page `text`; `path` names it in errors."""
    lines = text.splitlines()
    steps: list[Step] = []
    after, given, above = "", None, ""
    for token in _blocks(MarkdownIt("commonmark").parse(text)):
        line = token.map[0] + 1 if token.map else 0
        if token.type == "html_block":
            for note in _NOTE.findall(token.content):
                word, _, rest = note.partition(" ")
                if word == "after":
                    after = rest.strip()
                elif word == "given":
                    given = _given(rest, path, line)
                else:
                    raise PageError(f"{path}:{line}: 'cleanroom: {note}' means nothing")
        elif token.type == "inline":
            above = token.content
        else:
            steps.append(_step(token, lines, given, above, path))
            given, above = None, ""
    return Page(path, tuple(steps), after)


_NOTE = re.compile(r"<!--\s*cleanroom:\s*(.+?)\s*-->", re.S)
_REASON = re.compile(r"\*Not run for this page: (.+?)\.\*\s*\Z", re.S)
_TITLE = re.compile(r'\btitle="([^"]+)"')


def _blocks(tokens: list[Token]) -> Iterator[Token]:
    """The tokens that matter: comments, paragraphs' texts and fenced blocks."""
    for token in tokens:
        if token.type in ("html_block", "inline", "fence"):
            yield token


def _given(rest: str, path: Path, line: int) -> Given:
    file, _, where = (word.strip() for word in rest.partition(","))
    if where not in ("", "here", "each"):
        raise PageError(f"{path}:{line}: 'given {file}, {where}' is neither 'here' nor 'each'")
    return Given(file, where or "new")


def _step(token: Token, lines: list[str], given: Given | None, above: str, path: Path) -> Step:
    assert token.map is not None
    line = token.map[0] + 1
    language, _, options = token.info.strip().partition(" ")
    titled = _TITLE.search(options)
    title = titled[1] if titled else ""
    refused = _REASON.search(above)
    if refused:
        reason = " ".join(refused[1].split())
        return Step("not run", line, language, title, token.content, reason=reason)
    if title:
        if f"`{title}`" not in above:
            raise PageError(f"{path}:{line}: the text above the block does not name `{title}`")
        return Step("save", line, language, title, token.content)
    if language == "python":
        return Step("script", line, language, text=token.content, given=given)
    if language == "console":
        commands = tuple(_with_status(_console(token, lines, path)))
    elif language in SHELLS:
        commands = tuple(_script(token))
    elif given:
        raise PageError(f"{path}:{line}: 'given' stands above a block that is not run")
    else:
        return Step("read", line, language, text=token.content)
    return Step("commands", line, language, commands=commands, given=given)


def _console(token: Token, lines: list[str], path: Path) -> Iterator[Command]:
    assert token.map is not None
    fence = lines[token.map[0]]
    indent = fence[: len(fence) - len(fence.lstrip())]
    content = token.content.splitlines()
    first = token.map[0] + 2  # the line after the fence, counted from 1
    if not content or not content[0].startswith(PROMPT):
        raise PageError(f"{path}:{first}: a console block begins with '$ COMMAND'")
    at = 0
    while at < len(content):
        began = at
        text = content[at].removeprefix(PROMPT)
        while text.endswith("\\") and at + 1 < len(content):
            at += 1
            text += "\n" + content[at]
        at += 1
        start = at
        while at < len(content) and not content[at].startswith(PROMPT):
            at += 1
        yield Command(first + began, text, tuple(content[start:at]), first + start, indent)


def _with_status(commands: Iterator[Command]) -> Iterator[Command]:
    every = list(commands)
    for command, following in zip(every, [*every[1:], None], strict=True):
        told = following is not None and following.text.strip() == "echo $?"
        yield Command(
            command.line, command.text, command.output, command.start, command.indent, told
        )  # fmt: skip


def _script(token: Token) -> Iterator[Command]:
    assert token.map is not None
    first = token.map[0] + 2
    text, began = "", 0
    for number, line in enumerate(token.content.splitlines()):
        if not text:
            began = number
        text += line
        if text.endswith("\\"):
            text += "\n"
        elif text.strip() and not text.lstrip().startswith("#"):
            yield Command(first + began, text, None, first + number + 1)
            text = ""
        else:
            text = ""
