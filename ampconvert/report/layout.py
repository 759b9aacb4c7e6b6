"""The pieces that every page is made of: facts, headings, notes and tables without frames."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import IO

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from ampconvert.report.words import printable

LABEL_WIDTH = 11
LEAST_WIDTH = 20  # columns
BLANK = Text("")
GOOD, BAD, WARN, QUIET, STRONG = "green", "bold red", "yellow", "dim", "bold"


class Line:
    """One line that is never broken: a path or a command that has to be copied whole."""

    def __init__(self, text: Text | str, indent: int = 0) -> None:
        self.text = Text.assemble(" " * indent, text)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # The terminal may wrap it on screen; the text itself stays one line. Inside a Padding or a
        # table it would be cut to their width, so it brings its own indentation.
        yield from console.render(self.text, options.update(no_wrap=True, overflow="ignore"))


def show(page: RenderableType, width: int | None = None) -> None:
    """Print a page on stdout; into a pipe or file without colours and without trailing blanks."""
    out = console(sys.stdout, width=width)
    if out.is_terminal:
        out.print(page, crop=False)
        return
    with out.capture() as captured:
        out.print(page, crop=False)
    text = captured.get().splitlines()
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in text))


def console(file: IO[str] | None = None, *, width: int | None = None) -> Console:
    """A console that prints names from models as they are: no markup, no emoji.

    Colours only on a terminal and not under NO_COLOR; 80 columns where there is no terminal, and
    never fewer than `LEAST_WIDTH`: COLUMNS=0 means that nobody knows, and rich prints nothing.
    """
    made = _Console(
        file=file,
        width=width,
        markup=False,
        emoji=False,
        highlight=False,
        legacy_windows=False,
    )
    if width is None:
        made.width = max(made.width, LEAST_WIDTH)
    return made


class _Console(Console):
    """A console that shows control characters of names as pictures."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Every piece of a page comes through here, those inside of others too."""
        if isinstance(renderable, str):
            renderable = printable(renderable)
        elif isinstance(renderable, Text) and printable(renderable.plain) != renderable.plain:
            renderable = renderable.copy()
            renderable.plain = printable(renderable.plain)
        return super().render(renderable, options)


def facts(rows: Iterable[tuple[str, RenderableType]]) -> Table:
    """Labels on the left, what they stand for on the right."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=LABEL_WIDTH, no_wrap=True, style=STRONG)
    grid.add_column(overflow="fold")
    for label, value in rows:
        grid.add_row(label, value)
    return grid


def table(*columns: str, right: Sequence[int] = (), fold: Sequence[int] = (0,)) -> Table:
    """A table without frames; columns in `right` are flush right, those in `fold` may break."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=QUIET)
    for number, heading in enumerate(columns):
        made.add_column(
            heading,
            justify="right" if number in right else "left",
            no_wrap=number not in fold,
            overflow="fold" if number in fold else "ellipsis",
        )
    return made


def indented(what: RenderableType, by: int = 2) -> Padding:
    """`what`, moved right."""
    return Padding(what, (0, 0, 0, by))


def heading(text: str, rest: str = "", style: str = STRONG) -> Text:
    """A heading, and quieter words after it."""
    return Text.assemble((text, style), (f"  {rest}" if rest else "", QUIET))


def bullets(lines: Iterable[str], mark: str = "-", style: str = "") -> Table:
    """Paragraphs with a mark in front and their further lines indented."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True, style=style)
    grid.add_column(overflow="fold")
    for line in lines:
        grid.add_row(mark, Text(line, style=style))
    return grid
