"""Edits that move whole statements: out of a block, or into a new one."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from ampconvert.findings import Edit

if TYPE_CHECKING:
    from ampconvert.lint.source import Source

Block = ast.With | ast.AsyncWith


def moved_out(source: Source, block: Block, first: ast.stmt) -> list[Edit] | None:
    """Edits that end `block` before `first`, one of its statements: this and all after it stand
    behind the block then. None where that leaves it empty, or where the text is laid out so that
    lines can't be moved.
    """
    body: list[ast.stmt] = block.body
    at = body.index(first)
    outer, inner = source.edits.indent(block), source.edits.indent(first)
    if at == 0 or not inner.startswith(outer) or inner == outer:
        return None
    if not all(_is_on_its_own(source, statement) for statement in body[at:]):
        return None
    start = (body[at - 1].end_lineno or 0) + 1  # comments before `first` go with it
    return [
        Edit(begin + len(outer.encode()), begin + len(inner.encode()), "")
        for begin in _lines(source, start, body[-1].end_lineno or 0)
        if source.data[begin:].startswith(inner.encode())
    ]


def wrapped(source: Source, statement: ast.stmt, header: str) -> list[Edit] | None:
    """Edits that put `statement` into a block that begins with `header`; None where the text is
    laid out so that lines can't be moved.
    """
    if not _is_on_its_own(source, statement):
        return None
    indent = source.edits.indent(statement)
    step = "\t" if "\t" in indent else "    "
    first, *rest = _lines(source, statement.lineno, statement.end_lineno or statement.lineno)
    edits = [Edit(first, first, f"{indent}{header}{source.edits.newline}{step}")]
    edits += [Edit(at, at, step) for at in rest if source.data[at : at + 1] not in b"\r\n"]
    return edits


def _is_on_its_own(source: Source, statement: ast.stmt) -> bool:
    """Whether no other statement shares its lines, and no text within it spans several."""
    for node in (statement, *source.walk(statement, functions=True)):
        is_text = isinstance(node, ast.JoinedStr) or (
            isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
        )
        if is_text and node.end_lineno != node.lineno:  # type: ignore[attr-defined]
            return False
    start = source.line_starts[statement.lineno - 1]
    if source.data[start : start + statement.col_offset].strip():
        return False
    _, end = source.span(statement)
    rest = source.data[end:].splitlines()[:1]
    return not rest or rest[0].lstrip().startswith(b"#") or not rest[0].strip()


def _lines(source: Source, first: int, last: int) -> list[int]:
    """Where the lines from `first` to `last` begin."""
    return source.line_starts[first - 1 : last]
