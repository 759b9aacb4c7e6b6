"""Names that the rewrite brings in, spelled so that they hide nothing of the script's own."""

from __future__ import annotations

import ast
from functools import cached_property

from ampconvert.lint.source import Source


class Fresh:
    """Names that are free in the whole of a file, and the imports that they need. Those in `taken`
    are not given again.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self.imports: list[str] = []
        self.taken: set[str] = set()

    def name(self, *wanted: str) -> str:
        """The first of `wanted` that the file doesn't use."""
        for name in wanted:
            if name not in self._used | self.taken:
                return name
        used = self._used | self.taken
        number = next(n for n in range(2, 1000) if f"{wanted[-1]}_{n}" not in used)
        return f"{wanted[-1]}_{number}"

    @cached_property
    def torch(self) -> str:
        """What this file calls torch; `import torch` is noted where it has no name for it."""
        return self.module("torch")

    def module(self, name: str) -> str:
        """What this file calls a module at its top level, before anything is defined."""
        source = self._source
        for statement in header(source):
            if isinstance(statement, ast.Import):
                for alias in statement.names:
                    if alias.name == name and not self._rebound(alias.asname or name):
                        return alias.asname or name
        line = f"import {name}"
        if line not in self.imports:
            self.imports.append(line)
        return name

    @cached_property
    def switch(self) -> str:
        """The constant that turns mixed precision on."""
        return self.name("AMP_ENABLED", "MIXED_PRECISION_ENABLED")

    @cached_property
    def dtype(self) -> str:
        """The constant that holds the low type."""
        return self.name("AMP_DTYPE", "MIXED_PRECISION_DTYPE")

    @cached_property
    def scaler(self) -> str:
        """The gradient scaler: one name everywhere."""
        return self.name("scaler", "grad_scaler", "amp_scaler")

    @cached_property
    def scale_before(self) -> str:
        """The scale before an update."""
        return self.name("scale_before", "loss_scale_before")

    def _rebound(self, name: str) -> bool:
        bindings = self._source.scopes.all_of(self._source.tree, name)
        return any(b.how != "import" for b in bindings)

    @cached_property
    def _used(self) -> set[str]:
        source = self._source
        found = {n.id for n in source.nodes(ast.Name)} | {a.arg for a in source.nodes(ast.arg)}
        found |= {n.attr for n in source.nodes(ast.Attribute)}
        for statement in source.nodes(ast.Import, ast.ImportFrom):
            found |= {(a.asname or a.name).partition(".")[0] for a in statement.names}
        found |= {f.name for f in source.nodes(ast.FunctionDef, ast.ClassDef)}
        return found


def header(source: Source) -> list[ast.stmt]:
    """The statements of a module up to its last import before anything is defined or trained."""
    body: list[ast.stmt] = []
    kept = 0
    for statement in source.tree.body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.For):
            break
        body.append(statement)
        imports = isinstance(statement, ast.Import | ast.ImportFrom) or (
            isinstance(statement, ast.Try)
            and any(isinstance(s, ast.Import | ast.ImportFrom) for s in statement.body)
        )
        future = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        if imports or (future and kept == len(body) - 1):
            kept = len(body)
    return body[:kept]
