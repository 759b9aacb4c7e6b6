"""What a rewrite gives: the new text, what was decided and why."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One decided change. `line` counts from 1 in the script as it was."""

    line: int
    what: str
    why: str


@dataclass(frozen=True)
class Rewritten:
    """A script after its rewrite. `steps` are in the order of the text; with none of them `text`
    is what was given, and `notes` say why. `notes` also name what is left to the reader.
    """

    text: str
    steps: tuple[Step, ...] = ()
    notes: tuple[str, ...] = ()
