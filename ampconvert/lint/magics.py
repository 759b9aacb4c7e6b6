"""IPython's magics and shell lines in a notebook's cell, hidden behind comments and shown again."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ampconvert.lint.parsing import parses

# Cell magics whose body is Python all the same.
_PYTHON = frozenset({
    "capture", "debug", "prun", "pypy", "python", "python3", "time", "timeit",
})  # fmt: skip
_CELL = re.compile(r"[ \t\r\n]*%%(\w+)")
_START = re.compile(r"[ \t]*(?=[%!?/,;])")
_HELP = re.compile(r"[ \t]*(?=%{0,2}[\w*][\w.*\[\]()\"' ]*\?{1,2}[ \t\r]*$)")
# `files = !ls`, `took = %timeit f()`: no operator of Python begins like that after "=".
_ASSIGNED = re.compile(r"[ \t]*[\w.,\[\]\"'() \t*]+?=[ \t]*(?=%[\w%]|!(?!=))")
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_TOKEN = re.compile(
    r"""\#.* | '{3} | "{3} | "(?:[^"\\\n]|\\.)*"? | '(?:[^'\\\n]|\\.)*'? | [()\[\]{}]""",
    re.VERBOSE,
)


def hidden(cell: str, mark: str) -> str:
    """`cell` as Python that has as many lines: what IPython alone understands becomes a comment.

    `mark` begins with "#" and stands nowhere in the cell; `shown` undoes it.
    """
    if not any(char in cell for char in "%!?/,;"):
        return cell
    magic = _CELL.match(cell)
    if magic and magic[1] not in _PYTHON:
        return all_hidden(cell, mark)
    if parses(cell):
        return cell
    return "".join(_lines(cell, mark))


def all_hidden(cell: str, mark: str) -> str:
    """`cell` with every line a comment."""
    return "".join(f"{mark}{line}" for line in _LINE.findall(cell))


def shown(text: str, mark: str) -> str:
    """What `hidden` was given."""
    return text.replace(f"pass{mark}", "").replace(f"None{mark}", "").replace(mark, "")


def _lines(cell: str, mark: str) -> Iterator[str]:
    """The lines with magics hidden: those at which a statement begins, and what continues them."""
    place = _Place()
    goes_on = False
    for line in _LINE.findall(cell):
        if goes_on:
            yield mark + line
        elif place.is_open or not (found := _magic(line)):
            place.pass_by(line)
            yield line
            continue
        else:
            at, word = found
            yield f"{line[:at]}{word}{mark}{line[at:]}"
        goes_on = line.rstrip("\r\n").endswith("\\")


def _magic(line: str) -> tuple[int, str] | None:
    """Where a magic begins in a line at which a statement may begin, and what goes before it."""
    if match := _START.match(line) or _HELP.match(line):
        return match.end(), "pass"
    if match := _ASSIGNED.match(line):
        return match.end(), "None"
    return None


class _Place:
    """Whether a statement is still open after the lines passed by: a bracket, a string, a line
    that a backslash continues.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._quote = ""
        self._goes_on = False

    @property
    def is_open(self) -> bool:
        """Whether the next line goes on with a statement."""
        return bool(self._depth or self._quote or self._goes_on)

    def pass_by(self, line: str) -> None:
        """Go on to the end of `line`."""
        at = 0
        comment = False
        while True:
            if self._quote:
                end = _closing(self._quote).match(line, at)
                if end is None:
                    break
                at, self._quote = end.end(), ""
            match = _TOKEN.search(line, at)
            if match is None:
                break
            at = match.end()
            token = match[0]
            comment = token[0] == "#"
            if token in ("'''", '"""'):
                self._quote = token
            elif token in ("(", "[", "{"):
                self._depth += 1
            elif token in (")", "]", "}"):
                self._depth = max(self._depth - 1, 0)
        self._goes_on = not comment and line.rstrip("\r\n").endswith("\\")


def _closing(quote: str) -> re.Pattern[str]:
    return re.compile(rf"(?:[^\\]|\\.)*?{quote}", re.DOTALL)
