"""GitHub-flavoured Markdown from text of unknown content: names, prose, tables that stay in bounds.

What comes from a model or a file is either a name, shown as code, or prose. Neither can end a table
cell, start a block, make a link, a mention or an HTML tag; both stay legible as plain text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

NAME = 100  # characters of a name that are shown; its end says most, so the start is cut
PROSE = 700  # characters of a sentence from a rule, a finding or a note
SECTION = 9000  # bytes of one table or list

_JOINER = "\u2060"  # invisible: keeps "@", "#" and ":" from becoming a mention, a link or an emoji
_TURNS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # reverse what follows
_PLAIN_IN_CODE = re.compile(r"[^`|\\]+")
_PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~]")
_MEANT = re.compile(
    r"""(?P<escape>[\\`*\[~]|(?<![^\W_])_|_(?![^\W_]))
    |(?P<entity><|\||\$|&(?=[\#\w]))
    |(?P<join>@(?=\w)|\#(?=\d)|:(?=[\w+-]+:))""",
    re.VERBOSE,
)
_STARTS_BLOCK = re.compile(r"^(?:(>|#(?=[#\s]|$)|[+-](?=[-\s]|$))|(\d+)([.)](?=\s|$)))")


def code(name: object, limit: int = NAME) -> str:
    """A name, an operator or a command as code, inside a table or outside; "-" for none."""
    text = one_line(name)
    if not text:
        return "-"
    if len(text) > limit:
        text = f"…{text[len(text) - limit + 1 :]}"
    if _PLAIN_IN_CODE.fullmatch(text):
        return f"`{text}`"
    # Backticks, bars and backslashes mean one thing in a table and another outside: as entities
    # they mean nothing in either.
    return f"<code>{_PUNCTUATION.sub(_entity, text)}</code>"


def prose(text: object, limit: int = PROSE) -> str:
    """A sentence from elsewhere as it reads, with nothing in it that Markdown would act on."""
    line = one_line(text)
    if len(line) > limit:
        line = f"{line[: limit - 1]}…"
    return _STARTS_BLOCK.sub(_as_text, _MEANT.sub(_quoted, line))


def one_line(text: object) -> str:
    """`text` with single spaces, and without characters that print nothing or turn the line."""
    words = " ".join(str(text).split())
    return "".join("\ufffd" if _unprintable(c) else c for c in words)


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()
) -> tuple[str, int]:
    """A table of the first rows that fit into SECTION bytes, and how many rows it has.

    Cells are Markdown already; the columns numbered in `right` stand to the right.
    """
    aligned = set(right)
    rule = ["---:" if i in aligned else "---" for i in range(len(columns))]
    lines = [_row(columns), _row(rule)]
    room = SECTION
    for row in rows:
        line = _row(row)
        room -= size_of(line)
        if room < 0:
            break
        lines.append(line)
    return "\n".join(lines), len(lines) - 2


def bullets(items: Iterable[str]) -> tuple[str, int]:
    """A list of the first items that fit into SECTION bytes, and how many it has."""
    lines: list[str] = []
    room = SECTION
    for item in items:
        room -= size_of(item)
        if room < 0:
            break
        lines.append(f"- {item}")
    return "\n".join(lines), len(lines)


def folded(summary: str, body: str) -> str:
    """`body` behind a line that opens it. The empty lines make its Markdown count."""
    return f"<details><summary>{summary}</summary>\n\n{body}\n\n</details>"


def size_of(text: str) -> int:
    """Bytes in UTF-8, with the end of the line."""
    return len(text.encode("utf-8", "replace")) + 1


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _entity(found: re.Match[str]) -> str:
    return "&lt;" if found[0] == "<" else f"&#{ord(found[0])};"


def _quoted(found: re.Match[str]) -> str:
    if found["escape"]:
        return f"\\{found[0]}"
    return _entity(found) if found["entity"] else f"{found[0]}{_JOINER}"


def _as_text(found: re.Match[str]) -> str:
    return f"\\{found[1]}" if found[1] else f"{found[2]}\\{found[3]}"


def _unprintable(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs") or character in _TURNS
