"""Statements that are moved out of a block, or into a new one, in texts of any layout."""

from __future__ import annotations

import ast

import pytest

from ampconvert.findings import Fix
from ampconvert.lint import engine
from ampconvert.lint.blocks import moved_out, wrapped
from ampconvert.lint.source import Source


def changed(text: str, move: str) -> str | None:
    """`text` with the statement `b()` moved out of its block, or into one."""
    source = Source(text)
    call = next(c for c in source.nodes(ast.Call) if ast.unparse(c.func) == "b")
    statement = source.statement(call)
    if move == "out":
        block = source.parents[statement]
        assert isinstance(block, ast.With)
        edits = moved_out(source, block, statement)
    else:
        edits = wrapped(source, statement, "with w:")
    if edits is None:
        return None
    result, _ = engine.apply(text, [Fix("", tuple(edits), safe=False)])
    ast.parse(result)
    return result


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("with w:\n    a()\n    b()\n", "with w:\n    a()\nb()\n"),
        ("with w:\n\ta()\n\tb()\n", "with w:\n\ta()\nb()\n"),
        ("with w:\r\n  a()\r\n  b()\r\n", "with w:\r\n  a()\r\nb()\r\n"),
        (
            "if c:\n    with w:\n        a()\n\n        # why\n        b(\n  1,\n            2)\n",
            "if c:\n    with w:\n        a()\n\n    # why\n    b(\n  1,\n        2)\n",
        ),
        (
            "with w:\n    a()\n    b()\n    if c:\n        d()",
            "with w:\n    a()\nb()\nif c:\n    d()",
        ),
        ("with w:\n    b()\n", None),
        ("with w: a(); b()\n", None),
        ("with w:\n    a(); b()\n", None),
        ("with w:\n    a()\n    b(); c()\n", None),
        ("with w:\n    a()\n    b('''\n    text''')\n", None),
    ],
)
def test_moved_out(text: str, expected: str | None) -> None:
    assert changed(text, "out") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = b()\n", "with w:\n    x = b()\n"),
        ("if c:\n\tx = b(\n\n\t\t1)\n", "if c:\n\twith w:\n\t\tx = b(\n\n\t\t\t1)\n"),
        ("if c:\r\n  return_ = b()\r\n", "if c:\r\n  with w:\r\n      return_ = b()\r\n"),
        ("x = b()  # é", "with w:\n    x = b()  # é"),
        ("if c: x = b()\n", None),
        ('x = b(f"""{1}\n""")\n', None),
    ],
)
def test_wrapped(text: str, expected: str | None) -> None:
    assert changed(text, "in") == expected
