"""A Python file as rules see it: its tree, and what is asked of it, worked out once when asked."""

from __future__ import annotations

import ast
import re
from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from typing import Any, TypeVar, cast, overload

from ampconvert.lint.autocasts import Autocasts
from ampconvert.lint.edits import Edits
from ampconvert.lint.kinds import Kinds
from ampconvert.lint.modes import Modes
from ampconvert.lint.names import Names
from ampconvert.lint.parsing import parse
from ampconvert.lint.patterns import Operations
from ampconvert.lint.running import Running
from ampconvert.lint.scopes import SCOPES, Scopes
from ampconvert.lint.settings import Settings
from ampconvert.lint.steps import Steps
from ampconvert.lint.tensors import Tensors
from ampconvert.lint.values import Values

Node = TypeVar("Node", bound=ast.AST)
Other = TypeVar("Other", bound=ast.AST)
# Python's own line ends: a form feed or U+2028 is none of them.
_LINE_END = re.compile(rb"\r\n|\r|\n")


class Source:
    """One parsed file. `text` is what `ast` parsed; offsets count bytes of its UTF-8 form.

    The parts answer questions: `scopes` who binds a name, `names` what dotted name an expression
    is, `values` which expressions it may stand for, `kinds` whether that is an optimizer, a module
    and so on, `autocasts` which regions there are, `modes` how low types come into the file,
    `tensors` what type a tensor has, `operations` which operator a call is, `running` in which type
    it runs in a mode, `steps` in which order training steps scale, clip and step, `edits` how to
    change the text.
    """

    def __init__(self, text: str, path: str = "<stdin>", settings: Settings | None = None) -> None:
        """Parse `text`. Raises SyntaxError or ValueError as `ast.parse` does."""
        self.path = path
        self.text = text
        self.settings = settings or Settings()
        self.data = text.encode("utf-8", "surrogatepass")
        self.tree = parse(text)
        self.parents: dict[ast.AST, ast.AST] = {}
        self._by_type: dict[type[ast.AST], list[ast.AST]] = {}
        self._index()

    # The parts, each made when first asked for.

    @cached_property
    def scopes(self) -> Scopes:
        """Who binds which name."""
        return Scopes(self)

    @cached_property
    def names(self) -> Names:
        """Dotted names of expressions, through imports and aliases."""
        return Names(self)

    @cached_property
    def values(self) -> Values:
        """What an expression may stand for."""
        return Values(self)

    @cached_property
    def kinds(self) -> Kinds:
        """Optimizers, modules, scalers."""
        return Kinds(self)

    @cached_property
    def autocasts(self) -> Autocasts:
        """Regions under autocast."""
        return Autocasts(self)

    @cached_property
    def modes(self) -> Modes:
        """How low types come into this file."""
        return Modes(self)

    @cached_property
    def tensors(self) -> Tensors:
        """Element types of tensors."""
        return Tensors(self)

    @cached_property
    def operations(self) -> Operations:
        """Uses of operators: functions, methods, modules and signs alike."""
        return Operations(self)

    @cached_property
    def running(self) -> Running:
        """The type in which a tensor is computed under a mode."""
        return Running(self)

    @cached_property
    def steps(self) -> Steps:
        """Training steps with a gradient scaler: what follows what."""
        return Steps(self)

    @cached_property
    def edits(self) -> Edits:
        """Changes to the text."""
        return Edits(self)

    # The tree.

    @overload
    def nodes(self, one: type[Node], /) -> list[Node]: ...
    @overload
    def nodes(self, one: type[Node], other: type[Other], /) -> list[Node | Other]: ...
    def nodes(self, *kinds: type[ast.AST]) -> list[Any]:
        """All nodes of just these types; of two types, first all of the one, in text order."""
        return [node for kind in kinds for node in self._by_type.get(kind, ())]

    def ancestors(self, node: ast.AST) -> Iterator[ast.AST]:
        """Parent, grandparent and so on, the module last."""
        above = self.parents.get(node)
        while above is not None:
            yield above
            above = self.parents.get(above)

    @overload
    def inside(self, node: ast.AST, one: type[Node], /) -> Node | None: ...
    @overload
    def inside(
        self, node: ast.AST, one: type[Node], other: type[Other], /
    ) -> Node | Other | None: ...
    def inside(self, node: ast.AST, *kinds: type[ast.AST]) -> Any:
        """The nearest ancestor of one of these types, or None."""
        return next((above for above in self.ancestors(node) if isinstance(above, kinds)), None)

    def function(self, node: ast.AST) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
        """The function whose body holds `node`; a lambda is none."""
        return self.inside(node, ast.FunctionDef, ast.AsyncFunctionDef)

    def scope(self, node: ast.AST) -> ast.AST:
        """The nearest function, lambda, class or module around `node`."""
        return next((a for a in self.ancestors(node) if isinstance(a, SCOPES)), self.tree)

    def class_of(self, node: ast.AST) -> ast.ClassDef | None:
        """The class whose method, or whose method's inner function, holds `node`."""
        return self.inside(node, ast.ClassDef)

    def statement(self, node: ast.AST) -> ast.stmt:
        """The statement that holds `node`, or is it."""
        while not isinstance(node, ast.stmt):
            node = self.parents[node]
        return node

    def block(self, statement: ast.stmt) -> list[ast.stmt]:
        """The list of statements in which `statement` stands."""
        above = self.parents[statement]
        for name in ("body", "orelse", "finalbody"):
            block = getattr(above, name, None)
            if isinstance(block, list) and statement in block:
                return block
        return [statement]

    def walk(self, node: ast.AST, *, functions: bool = False) -> Iterator[ast.AST]:
        """All below `node` in the order of the text, without inner functions unless asked for."""
        stack = list(reversed(list(ast.iter_child_nodes(node))))
        while stack:
            one = stack.pop()
            yield one
            if functions or not isinstance(one, SCOPES):
                stack.extend(reversed(list(ast.iter_child_nodes(one))))

    # Positions.

    @cached_property
    def line_starts(self) -> list[int]:
        """Offset of the first byte of each line."""
        return [0, *(match.end() for match in _LINE_END.finditer(self.data))]

    def offset(self, line: int, column: int) -> int:
        """Offset of a position as ast gives it: line from 1, column in bytes from 0."""
        return self.line_starts[line - 1] + column

    def span(self, node: ast.AST) -> tuple[int, int]:
        """Offsets of the first byte of `node` and of the first after it; decorators excluded."""
        assert hasattr(node, "lineno"), f"{type(node).__name__} has no place of its own"
        at = cast("ast.expr", node)  # any node with a position will do
        end_line, end_column = at.end_lineno or at.lineno, at.end_col_offset or at.col_offset
        return self.offset(at.lineno, at.col_offset), self.offset(end_line, end_column)

    def segment(self, node: ast.AST) -> str:
        """The text of `node`."""
        start, end = self.span(node)
        return self.data[start:end].decode("utf-8", "surrogatepass")

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column of an offset, both from 1, the column in characters."""
        line = bisect_right(self.line_starts, offset)
        before = self.data[self.line_starts[line - 1] : offset]
        return line, len(before.decode("utf-8", "replace")) + 1

    def release(self) -> None:
        """Let go of the tree and all that was found out. The parts and the source hold each other:
        without this a large tree stays until the garbage collector has walked it.
        """
        vars(self).clear()

    def _index(self) -> None:
        """Note each node's parent, and all nodes of each type in the order of the text."""
        by_type, parents = self._by_type, self.parents
        stack: list[ast.AST] = [self.tree]
        while stack:
            node = stack.pop()
            kind = type(node)
            same = by_type.get(kind)
            if same is None:
                same = by_type[kind] = []
            same.append(node)
            below: list[ast.AST] = []
            fields = _FIELDS.get(kind)
            if fields is None:
                fields = _FIELDS[kind] = _with_nodes(kind)
            for name in fields:
                value = getattr(node, name, None)
                if type(value) is list:
                    below += [item for item in value if isinstance(item, ast.AST)]
                elif isinstance(value, ast.AST):
                    below.append(value)
            if below:
                parents.update(dict.fromkeys(below, node))
                below.reverse()
                stack += below


# Fields with no node, or with Load(), Add() and the like: single objects that all nodes share, so
# that they have no one parent.
_LEAVES = frozenset({
    "arg", "asname", "attr", "conversion", "ctx", "id", "is_async", "kind", "level", "module", "op",
    "ops", "simple", "type_comment",
})  # fmt: skip


# The others, by type, as they were asked for.
_FIELDS: dict[type[ast.AST], tuple[str, ...]] = {}


def _with_nodes(kind: type[ast.AST]) -> tuple[str, ...]:
    """The fields of this type that may hold nodes of their own."""
    if kind is ast.Constant:
        return ()
    return tuple(name for name in kind._fields if name not in _LEAVES)
