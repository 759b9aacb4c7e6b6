"""Report files: which page a name asks for, refused before the work and written after it."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ampconvert.commands.outcome import Outcome
from ampconvert.errors import UserError
from ampconvert.report import pages


def refuse(paths: Sequence[Path], overwrite: bool, made: Path | None = None) -> None:
    """Raise UserError, before any work, for a report that could not be written; `made` is a folder
    that the command makes.
    """
    for path in paths:
        if path.exists() and not overwrite:
            raise UserError(
                f"{path} exists already: use --force to overwrite it, or name another file"
            )
        folder = path.parent
        if made is not None and folder == made and not folder.exists():
            continue
        if not folder.is_dir():
            raise UserError(f"{path}: there is no folder {folder}")
        if path.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(f"{path}: a report can't be written there; name another file")


def with_reports(outcome: Outcome, options: Namespace) -> Outcome:
    """`outcome`, with its report written to each file of `--report`, and the page saying so."""
    from rich.console import Group

    from ampconvert.report.jsonable import plain

    data = plain(outcome.data())
    written = pages.write(data, options.report)
    return replace(
        outcome, page=lambda: Group(outcome.page(), *written_lines(written)), data=lambda: data
    )


KINDS: dict[pages.Format, str] = {
    "html": "the report; opens in a browser",
    "markdown": "a summary",
    "json": "all of it",
}


def written_lines(paths: Iterable[Path], kind: str = "") -> list[Any]:
    """A line of the terminal's page for each file; `kind` says what they are, by default what their
    names tell.
    """
    from rich.text import Text

    from ampconvert.report.layout import GOOD, QUIET, Line
    from ampconvert.report.words import size

    return [
        Line(
            Text.assemble(
                ("Wrote ", GOOD),
                f"{size(path.stat().st_size):>9}  {path}",
                (f"  {kind or KINDS[pages.format_of(path)]}", QUIET),
            )
        )
        for path in paths
    ]
