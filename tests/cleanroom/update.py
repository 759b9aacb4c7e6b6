"""Rewrites the outputs that a page shows from those of a run."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from tests.cleanroom import matching
from tests.cleanroom.follow import Followed
from tests.cleanroom.pages import ELIDED, Command


def updated(text: str, followed: Followed) -> str:
    """The page's `text` with the outputs that differed as they were printed. The rest stays."""
    lines = text.splitlines()
    for difference in reversed(followed.differences):
        if difference.command is not None and difference.found is not None:
            _replace(lines, difference.command, difference.found)
    return "\n".join(lines) + "\n"


def _replace(lines: list[str], command: Command, found: Sequence[str]) -> None:
    assert command.output is not None
    shown = list(command.output)
    blank = []
    while shown and not shown[-1].strip():
        blank.append(shown.pop())
    new = [*elided(shown, found), *blank]
    start = command.start - 1
    lines[start : start + len(command.output)] = [
        f"{command.indent}{line}" if line else "" for line in new
    ]


def elided(shown: Sequence[str], found: Sequence[str]) -> list[str]:
    """`found` with "..." where `shown` has it: each piece keeps its place and number of lines.

    The first piece is the beginning of `found`, the last its end, one between them the lines that
    are most like it. Where too little is left to leave out, all lines are shown.
    """
    first, *others = matching.split(shown)
    if not others:
        return list(found)
    *middle, last = others
    end = len(found) - len(last)
    lines, at = list(found[: len(first)]), len(first)
    for piece in middle:
        begin = _most_alike(piece, found, at + 1, end - 1)
        if begin is None:
            continue
        lines += [ELIDED, *found[begin : begin + len(piece)]]
        at = begin + len(piece)
    if at >= end:
        return list(found)
    return [*lines, ELIDED, *found[end:]]


def _most_alike(piece: list[str], found: Sequence[str], first: int, end: int) -> int | None:
    """Where in found[first:end] the lines stand that are most like `piece`; None: nowhere."""
    places = range(first, end - len(piece) + 1)
    if not places:
        return None
    return max(places, key=lambda at: _likeness(piece, found[at : at + len(piece)]))


def _likeness(left: Sequence[str], right: Sequence[str]) -> float:
    return difflib.SequenceMatcher(None, "\n".join(left), "\n".join(right)).ratio()
