"""Imports of one file: who reads them, who else may, and how a name is taken out or moved."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from ampconvert.findings import Edit
from ampconvert.lint.names import canonical

if TYPE_CHECKING:
    from ampconvert.lint.source import Source

Statement = ast.Import | ast.ImportFrom


def dotted(statement: ast.AST, alias: ast.alias) -> str:
    """The canonical dotted name that an import brings in."""
    if isinstance(statement, ast.ImportFrom):
        return canonical("." * statement.level + f"{statement.module or ''}.{alias.name}")
    return canonical(alias.name)


def readers(source: Source, alias: ast.alias) -> list[ast.Name]:
    """The names of the file that may be read through this import."""
    bound = alias.asname or alias.name.partition(".")[0]
    return [
        name for name in source.nodes(ast.Name)
        if name.id == bound and isinstance(name.ctx, ast.Load)
        and any(binding.node is alias for binding in source.scopes.bindings(name))
    ]  # fmt: skip


def is_exported(source: Source, alias: ast.alias) -> bool:
    """Whether other files are meant to import the name from this one."""
    bound = alias.asname or alias.name
    if source.path.endswith("__init__.py") or alias.asname == alias.name:
        return True
    return any(
        isinstance(part, ast.Constant) and part.value == bound
        for binding in source.scopes.all_of(source.tree, "__all__")
        for part in ast.walk(source.statement(binding.node))
    )


def is_guarded(source: Source, alias: ast.alias) -> bool:
    """Whether the import may fail without harm."""
    return source.inside(alias, ast.Try) is not None


def earlier(source: Source, statement: ast.ImportFrom, module: str) -> ast.ImportFrom | None:
    """An import from `module` before `statement` in the same block, that takes more names."""
    block = source.block(statement)
    for other in block[: block.index(statement)]:
        if isinstance(other, ast.ImportFrom) and (other.module, other.level) == (module, 0):
            return None if other.names[0].name == "*" else other
    return None


def without(source: Source, statement: Statement, alias: ast.alias) -> list[Edit]:
    """Edits that take one name out of an import."""
    if len(statement.names) == 1:
        return [source.edits.delete(statement)]
    at = statement.names.index(alias)
    start, end = source.span(alias)
    if at + 1 < len(statement.names):
        return [Edit(start, source.span(statement.names[at + 1])[0], "")]
    return [Edit(source.span(statement.names[at - 1])[1], end, "")]


def from_module(source: Source, statement: ast.ImportFrom, module: str) -> list[Edit] | None:
    """Edits that import the same names from another module."""
    start, _ = source.span(statement)
    head = re.match(rb"from\b[\s\\]*(\.*[\s\\]*[\w.\s\\]*?)[\s\\]*\bimport\b", source.data[start:])
    if head is None:
        return None
    return [Edit(start + head.start(1), start + head.end(1), module)]
