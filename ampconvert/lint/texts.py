"""The text of a file as findings count lines in it: its own, or that of each cell."""

from __future__ import annotations

from ampconvert.lint.files import NOTEBOOK, decoded
from ampconvert.lint.notebooks import Notebook, named


def texts(path: str, after: str | None, given: bytes | None) -> dict[str, str]:
    """The text of the file at `path`, and of its cells if it is a notebook, by their paths.

    `after` or `given` is its content where that is not to be read. Nothing, if it can't be read.
    """
    if after is None:
        try:
            data = given if given is not None else _read(path)
        except OSError:
            return {}
        after = _text(data)
    found = {path: after}
    if path.endswith(NOTEBOOK):
        try:
            cells = Notebook(after.encode("utf-8", "surrogatepass")).cells
        except (ValueError, RecursionError):
            return found
        found.update((named(path, cell.number), cell.source) for cell in cells)
    return found


def _read(path: str) -> bytes:
    with open(path, "rb") as opened:
        return opened.read()


def _text(data: bytes) -> str:
    try:
        return decoded(data)[0]
    except (SyntaxError, ValueError):
        return data.decode("utf-8", "replace")
