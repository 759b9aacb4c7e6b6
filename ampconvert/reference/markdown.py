"""Pieces of Markdown that the reference pages share."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """The lines of a table, cells made safe for it; nothing where there are no rows."""
    lines = [f"| {' | '.join(_cell(text) for text in row)} |" for row in rows]
    if lines:
        yield f"| {' | '.join(columns)} |"
        yield f"|{'|'.join('---' for _ in columns)}|"
        yield from lines
        yield ""


def code(text: str) -> str:
    """`text` as code within a line or a table's cell, whatever it holds."""
    if "|" in text:  # a code host wants it escaped in a table, the site shows the backslash then
        return f"<code>{html.escape(text, quote=False).replace('|', '&#124;')}</code>"
    return f"`{text}`" if "`" not in text else f"`` {text} ``"


def codes(names: Iterable[str]) -> str:
    """Names as code, separated by commas."""
    return ", ".join(code(name) for name in names)


def block(text: str, language: str) -> Iterator[str]:
    """The lines of a fenced block."""
    yield f"```{language}"
    yield from text.strip("\n").splitlines()
    yield "```"
    yield ""


def sentence(text: str) -> str:
    """`text` with a full stop, and a capital letter unless it begins with a name."""
    text = " ".join(text.split())
    ended = text if text.endswith((".", ":", "!", "?")) else f"{text}."
    first = ended.partition(" ")[0]
    is_word = first.rstrip(".,:;").isalpha() and first.islower()
    return ended[:1].upper() + ended[1:] if is_word else ended


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
