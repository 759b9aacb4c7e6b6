"""Jupyter notebooks: the Python of all code cells as one text, and back into the cells."""

from __future__ import annotations

import json
import re
import textwrap
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from ampconvert.findings import Edit, Finding, Fix
from ampconvert.lint import magics
from ampconvert.lint.parsing import failure

_BLANK = re.compile(r"[ \t\r\n]*")
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_PLACE = re.compile(r"(.*\.ipynb):cell (\d+)")


class NotebookError(ValueError):
    """A JSON file that has no cells where a notebook has them."""


class Cell(NamedTuple):
    """A code cell: its number among all cells, from 1, its source, and where that stands in the
    file's text.
    """

    number: int
    source: str
    start: int
    end: int


class Notebook:
    """A notebook, read. `text` is the Python of its cells, each after a comment with its number;
    a notebook of another language has none.

    Raises NotebookError, json.JSONDecodeError or UnicodeDecodeError.
    """

    def __init__(self, data: bytes) -> None:
        self._file = data.decode("utf-8-sig")
        self._bom = data.startswith(b"\xef\xbb\xbf")
        self.cells = list(_cells(self._file))
        number = 0
        while f"#ampconvert{number}-" in self._file:
            number += 1
        self._mark = f"#ampconvert{number}-hidden:"
        self._head = f"#ampconvert{number}-cell:"
        self._texts = [magics.hidden(cell.source, self._mark) for cell in self.cells]
        self._join()

    def broken(self, path: str) -> list[tuple[Exception, str, str]]:
        """Hide the cells that can't be parsed; gives why not, the path and the source of each.

        A cell that is indented as a whole is hidden too, but not given: IPython runs it.
        """
        found: list[tuple[Exception, str, str]] = []
        for at, (cell, text) in enumerate(zip(self.cells, self._texts, strict=True)):
            error = failure(text)
            if error is None:
                continue
            if failure(textwrap.dedent(text)) is not None:
                found.append((error, named(path, cell.number), cell.source))
            self._texts[at] = magics.all_hidden(cell.source, self._mark)
        self._join()
        return found

    def located(self, path: str, findings: Iterable[Finding]) -> list[Finding]:
        """Findings in `text` with their places in the cells, as `named` calls them.

        A fix keeps its edits, in bytes of the cell's source, if they are all in the finding's cell;
        else it has none.
        """
        return [self._located(path, found) for found in findings]

    def sources(self, text: str) -> dict[int, str] | None:
        """The sources of the cells, by number, when `text` has come to stand for them; None if
        where one ends and the next begins is lost.
        """
        parts = re.split(rf"^{self._head}(\d+)\n", text, flags=re.MULTILINE)
        if parts[0] or [int(part) for part in parts[1::2]] != [c.number for c in self.cells]:
            return None
        made = {}
        for cell, part in zip(self.cells, parts[2::2], strict=True):
            source = magics.shown(part, self._mark)
            added = not cell.source.endswith("\n")  # by _join
            made[cell.number] = source.removesuffix("\n") if added else source
        return made

    def rewritten(self, sources: dict[int, str]) -> bytes:
        """The file with these sources in its cells, and every other byte as it was."""
        file = self._file
        for cell in reversed(self.cells):
            if sources[cell.number] != cell.source:
                spelled = _spelled(file[cell.start : cell.end], sources[cell.number])
                file = file[: cell.start] + spelled + file[cell.end :]
        return file.encode("utf-8-sig" if self._bom else "utf-8", "surrogatepass")

    def _join(self) -> None:
        # Of each cell's source in `text`: the number of its first line, and its offset in bytes.
        self._starts = []
        self._offsets = []
        lines = offset = 0
        parts = []
        for cell, source in zip(self.cells, self._texts, strict=True):
            part = f"{self._head}{cell.number}\n"
            self._starts.append(lines + 2)
            self._offsets.append(offset + len(part))
            part += source if source.endswith("\n") or not source else f"{source}\n"
            lines += len(re.findall(r"\r\n|\r|\n", part))
            offset += len(part.encode("utf-8", "surrogatepass"))
            parts.append(part)
        self.text = "".join(parts)
        self._data = self.text.encode("utf-8", "surrogatepass")

    def _located(self, path: str, found: Finding) -> Finding:
        where = found.where
        at = max(bisect_right(self._starts, where.line) - 1, 0)
        if not self.cells:
            return found
        above = self._starts[at] - 1
        last = self.cells[at].source.count("\n") + 1
        return replace(
            found,
            where=replace(
                where,
                path=named(path, self.cells[at].number),
                line=max(where.line - above, 1),
                end_line=min(max(where.end_line - above, 1), last) if where.end_line else 0,
            ),
            fix=None if found.fix is None else self._moved(found.fix, at),
        )

    def _moved(self, fix: Fix, at: int) -> Fix:
        start = self._offsets[at]
        end = self._offsets[at + 1] if at + 1 < len(self._offsets) else len(self._data) + 1
        if not all(start <= edit.start and edit.end < end for edit in fix.edits):
            return replace(fix, edits=())
        return replace(
            fix,
            edits=tuple(
                Edit(self._inside(at, e.start), self._inside(at, e.end), e.text) for e in fix.edits
            ),
        )

    def _inside(self, at: int, offset: int) -> int:
        """The offset in the source of a cell, for one in `text`."""
        before = self._data[self._offsets[at] : offset].decode("utf-8", "surrogatepass")
        length = len(magics.shown(before, self._mark).encode("utf-8", "surrogatepass"))
        return min(length, len(self.cells[at].source.encode("utf-8", "surrogatepass")))


def named(path: str, cell: int) -> str:
    """How a cell is called in the path of a location: "x.ipynb:cell 3"."""
    return f"{path}:cell {cell}"


def place(path: str) -> tuple[str, int]:
    """The file and the number of the cell in a location's path; 0 where it names no cell."""
    match = _PLACE.fullmatch(path)
    return (match[1], int(match[2])) if match else (path, 0)


def _cells(file: str) -> Iterator[Cell]:
    """The code cells of a notebook in Python, of format 3 or 4; none in another language."""
    start = _past_blank(file, 0)
    whole, end = _value(file, start)
    rest = _past_blank(file, end)
    if rest != len(file):
        raise json.JSONDecodeError("Extra data", file, rest)
    if not isinstance(whole, dict) or not isinstance(whole.get("metadata", {}), dict):
        raise NotebookError("the notebook is no JSON object")
    if not _is_python(whole.get("metadata", {})):
        return
    number = 0
    for at in _cell_starts(file, start, whole):
        number += 1
        members = dict(_members(file, at))
        values = {key: _value(file, place)[0] for key, place in members.items()}
        name = "source" if "source" in values else "input"  # format 3
        source = values.get(name)
        if isinstance(source, list) and all(isinstance(part, str) for part in source):
            source = "".join(source)
        if not isinstance(source, str):
            if values.get("cell_type") == "code":
                raise NotebookError(f"cell {number} of the notebook has no source")
            continue
        if values.get("cell_type") == "code" and _is_python_cell(values):
            _, end = _value(file, members[name])
            yield Cell(number, source, members[name], end)


def _cell_starts(file: str, start: int, whole: dict[str, Any]) -> Iterator[int]:
    """Where each cell's object begins."""
    for key, at in _members(file, start):
        if key == "cells" and isinstance(whole["cells"], list):
            yield from _objects(file, at)
        elif key == "worksheets" and isinstance(whole["worksheets"], list):
            for sheet in _objects(file, at):
                for name, inside in _members(file, sheet):
                    if name == "cells" and file[inside] == "[":
                        yield from _objects(file, inside)
    if not ("cells" in whole or "worksheets" in whole):
        raise NotebookError("the notebook has no cells")


def _is_python(metadata: dict[str, Any]) -> bool:
    """Whether a notebook's kernel runs Python; without a word of it, it does."""
    for name, key in (("kernelspec", "language"), ("language_info", "name")):
        about = metadata.get(name)
        language = about.get(key) if isinstance(about, dict) else None
        if isinstance(language, str):
            return _is_python_name(language)
    return True


def _is_python_cell(cell: dict[str, Any]) -> bool:
    metadata = cell.get("metadata")
    vscode = metadata.get("vscode") if isinstance(metadata, dict) else None
    language = vscode.get("languageId") if isinstance(vscode, dict) else cell.get("language")
    return not isinstance(language, str) or _is_python_name(language)


def _is_python_name(language: str) -> bool:
    return language.lower() in ("python", "python3", "ipython", "ipython3")


# JSON with the places of its values. The decoder has checked the whole file before.


def _value(file: str, at: int) -> tuple[Any, int]:
    """The value at `at`, and the offset after it."""
    return _DECODER.raw_decode(file, at)


_DECODER = json.JSONDecoder(strict=False)


def _members(file: str, at: int) -> Iterator[tuple[str, int]]:
    """The keys of the object at `at`, each with the offset of its value."""
    at = _past_blank(file, at + 1)
    while file[at] != "}":
        key, at = _value(file, at)
        at = _past_blank(file, _past_blank(file, at) + 1)
        yield key, at
        at = _next(file, at)


def _objects(file: str, at: int) -> Iterator[int]:
    """The offsets of the objects in the array at `at`."""
    at = _past_blank(file, at + 1)
    while file[at] != "]":
        if file[at] == "{":
            yield at
        at = _next(file, at)


def _next(file: str, at: int) -> int:
    """The offset of what comes after the value at `at` and the comma behind it."""
    at = _past_blank(file, _value(file, at)[1])
    return _past_blank(file, at + 1) if file[at] == "," else at


def _past_blank(file: str, at: int) -> int:
    match = _BLANK.match(file, at)
    return match.end() if match else at


def _spelled(old: str, source: str) -> str:
    """`source` as the JSON text `old` has its value: one string, or a list of lines laid out
    alike. A line that was there before is spelled as before.
    """
    raw = not old.isascii() or "\\u" not in old
    if not old.startswith("["):
        return json.dumps(source, ensure_ascii=not raw)
    known: dict[str, str] = {}
    gaps = []
    at = past = 1
    while old[start := _past_blank(old, at)] != "]":
        gaps.append(old[at:start])
        value, past = _value(old, start)
        known[value] = old[start:past]
        at = _past_blank(old, past)
        at += old[at] == ","
    opening = gaps[0] if gaps else ""
    between = gaps[1] if len(gaps) > 1 else opening or " "
    lines = [
        known.get(line) or json.dumps(line, ensure_ascii=not raw) for line in _LINE.findall(source)
    ]
    return f"[{opening}{f',{between}'.join(lines)}{old[past:]}" if lines else "[]"
