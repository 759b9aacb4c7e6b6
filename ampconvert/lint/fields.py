"""Fields of objects whose class this file defines: `config.eps`, `self.config.eps`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ampconvert.lint.source import Source


def fields(
    source: Source, expression: ast.Attribute, path: tuple[int, ...]
) -> Iterator[tuple[ast.expr | None, tuple[int, ...]]]:
    """What `expression`, unpacked by `path`, may stand for, with what is left of the path: what its
    object was given by keyword when it was made, or what the class says. None for what is unknown.

    The class shows by the making of the object, or by a parameter's annotation.
    """
    for value in source.values.of(expression.value):
        made = value if isinstance(value, ast.Call) else None
        owner = source.values.definition(
            made.func if made is not None else _annotation(source, value)
        )
        if not isinstance(owner, ast.ClassDef):
            yield None, path
            continue
        keywords = made.keywords if made is not None else []
        given = [keyword.value for keyword in keywords if keyword.arg == expression.attr]
        if given:
            yield given[0], path
        else:
            for one, inner in source.values.attributes(owner, expression.attr):
                yield one, inner + path
                if made is None and is_default(source, one):
                    yield None, path


def is_default(source: Source, value: ast.expr) -> bool:
    """Whether this is the default of a dataclass's field, from which instances may differ."""
    holder = source.parents[value]
    return isinstance(holder, ast.AnnAssign) and isinstance(source.parents[holder], ast.ClassDef)


def _annotation(source: Source, value: ast.expr) -> ast.expr:
    """The annotation of the parameter that `value` is; `value` where it has none."""
    bindings = source.scopes.bindings(value) if isinstance(value, ast.Name) else []
    argument = bindings[0].node if len(bindings) == 1 else None
    annotation = argument.annotation if isinstance(argument, ast.arg) else None
    return annotation or value
