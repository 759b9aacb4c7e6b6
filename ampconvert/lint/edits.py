"""Changes to a source's text, and how a dotted name is spelled where it is to stand."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from ampconvert.findings import Edit
from ampconvert.lint.names import canonical

if TYPE_CHECKING:
    from ampconvert.lint.source import Source

# Expressions that mean the same with and without parentheses, wherever they stand.
_ATOMS = (ast.Name, ast.Attribute, ast.Call, ast.Subscript, ast.List)


class Edits:
    """Edits of one source; none of them changes the source itself."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def replace(self, node: ast.AST, text: str) -> Edit:
        """`text` instead of `node`."""
        return Edit(*self._source.span(node), text)

    def rewritten(self, node: ast.AST, text: str) -> Edit | None:
        """`text` instead of `node`; None where a comment inside of it would be lost."""
        lost = self._source.segment(node).count("#") > text.count("#")
        return None if lost else self.replace(node, text)

    def before(self, node: ast.AST, text: str) -> Edit:
        """`text` right before `node`."""
        start, _ = self._source.span(node)
        return Edit(start, start, text)

    def after(self, node: ast.AST, text: str) -> Edit:
        """`text` right after `node`."""
        _, end = self._source.span(node)
        return Edit(end, end, text)

    def method(self, node: ast.expr, text: str) -> Edit:
        """`text` (".float()") called on `node`, in parentheses where it needs them."""
        if isinstance(node, _ATOMS):
            return self.after(node, text)
        start, end = self._source.span(node)
        data = self._source.data
        own = data[start - 1 : start] == b"(" and data[end : end + 1] == b")"
        if own and not isinstance(self._source.parents[node], ast.Call):
            return Edit(end + 1, end + 1, text)
        return Edit(start, end, f"({self._source.segment(node)}){text}")

    def atom(self, node: ast.expr) -> str:
        """The text of `node`, in parentheses unless it binds as closely as a name."""
        text = self._source.segment(node)
        return text if isinstance(node, _ATOMS) else f"({text})"

    def indent(self, statement: ast.stmt) -> str:
        """The white space before `statement`, as it stands in the text."""
        start = self._source.line_starts[statement.lineno - 1]
        line = self._source.data[start : start + statement.col_offset].decode("utf-8", "replace")
        return line[: len(line) - len(line.lstrip())]

    @property
    def newline(self) -> str:
        """The line end that this file uses."""
        found = re.search(rb"\r\n|\r|\n", self._source.data)
        return found[0].decode() if found else "\n"

    def line_before(self, statement: ast.stmt, text: str) -> Edit | None:
        """The statement `text` as a line of its own before `statement`, indented like it.

        None where something else stands on its line: `if x: statement`.
        """
        if not self._starts_line(statement):
            return None
        first = min([statement.lineno, *(d.lineno for d in _decorators(statement))])
        start = self._source.line_starts[first - 1]
        return Edit(start, start, f"{self.indent(statement)}{text}{self.newline}")

    def line_after(self, statement: ast.stmt, text: str) -> Edit | None:
        """The statement `text` as a line of its own after `statement`; None as `line_before`."""
        if not self._starts_line(statement) or not self._ends_line(statement):
            return None
        at = self._line_end(statement.end_lineno or statement.lineno)
        return Edit(at, at, f"{self.newline}{self.indent(statement)}{text}")

    def delete(self, statement: ast.stmt) -> Edit:
        """`statement` with its line; `pass` instead, where its block would be empty."""
        start, end = self._source.span(statement)
        if len(self._source.block(statement)) == 1:
            return Edit(start, end, "pass")
        if not self._starts_line(statement) or not self._ends_line(statement):
            return Edit(start, end, "pass")
        last = statement.end_lineno or statement.lineno
        starts = self._source.line_starts
        after = starts[last] if last < len(starts) else len(self._source.data)
        return Edit(starts[statement.lineno - 1], after, "")

    def add_keyword(self, call: ast.Call, text: str) -> Edit:
        """`text` ("enabled=False") as the last argument of `call`."""
        last = max((*call.args, *(k.value for k in call.keywords)),
                   key=lambda a: self._source.span(a)[1], default=None)  # fmt: skip
        if last is None:
            _, end = self._source.span(call)
            return Edit(end - 1, end - 1, text)
        if isinstance(last, ast.GeneratorExp) and len(call.args) == 1 and not call.keywords:
            start, end = self._source.span(last)
            bare = self._source.data[start : start + 1] == b"("
            inner = self._source.segment(last)
            return Edit(start, end, f"{inner if bare else f'({inner})'}, {text}")
        at = self._past_parentheses(last, call)
        return Edit(at, at, f", {text}")

    def add_first(self, call: ast.Call, text: str) -> Edit:
        """`text` as the first argument of `call`."""
        given = self._arguments(call)
        if not given:
            return self.add_keyword(call, text)
        at = self.argument_start(call, given[0])
        return Edit(at, at, f"{text}, ")

    def argument_start(self, call: ast.Call, argument: ast.expr | ast.keyword) -> int:
        """Where `argument` of `call` begins, with the parentheses around it: `f((a))`."""
        given = self._arguments(call)
        at = given.index(argument)
        if at:
            before = given[at - 1]
            value = before.value if isinstance(before, ast.keyword) else before
            start, opening = self._past_parentheses(value, call), b","
        else:
            start, opening = self._source.span(call.func)[1], b"("
        data = self._source.data
        return _past_blanks(data, data.index(opening, start) + 1)

    def remove_argument(self, call: ast.Call, argument: ast.expr | ast.keyword) -> Edit:
        """`argument` of `call` and the comma that belongs to it."""
        everything, data = self._arguments(call), self._source.data
        at = everything.index(argument)
        value = argument.value if isinstance(argument, ast.keyword) else argument
        start, end = self.argument_start(call, argument), self._past_parentheses(value, call)
        lines = self._own_lines(start, end)
        if lines is not None:
            return lines
        comma = re.compile(rb"\s*,[ \t]*").match(data, end)
        if comma and data[comma.end() : comma.end() + 1] not in (b"#", b"\r", b"\n"):
            return Edit(start, comma.end(), "")
        before = len(data[:start].rstrip(b" \t"))
        if comma and at + 1 < len(everything):
            return Edit(before, end + len(comma[0].rstrip()), "")  # a comment stays
        if at and data[before - 1 : before] == b",":
            return Edit(before - 1, end, "")
        return Edit(start, comma.end() if comma else end, "")

    def unwrapped(self, call: ast.Call, argument: ast.expr) -> tuple[Edit, Edit]:
        """`argument` instead of `call`; what stands inside the argument may be edited as well."""
        (start, stop), (inner, end) = self._source.span(call), self._source.span(argument)
        closed = isinstance(argument, _ATOMS)
        above = self._source.parents[call]
        if isinstance(above, ast.Call | ast.keyword) or (
            isinstance(above, ast.stmt) and b"\n" not in self._source.data[inner:end]
        ):
            closed = True
        opening, closing = ("", "") if closed else ("(", ")")
        return Edit(start, inner, opening), Edit(end, stop, closing)

    def spelled(self, dotted: str, at: ast.AST) -> tuple[str, tuple[Edit, ...]]:
        """How to write `dotted` ("torch.amp.autocast") at a place in this file, and the edits that
        brings in an import where the file has none that serves.
        """
        for prefix, rest in _splits(dotted):
            for name in self._bound_to(prefix, at):
                return name + rest, ()
        top = dotted.partition(".")[0]
        if self._source.scopes.seen(top, at):  # something else is called so
            return f"_{dotted}", (self.imported(f"import {top} as _{top}"),)
        return dotted, (self.imported(f"import {top}"),)

    def imported(self, line: str) -> Edit:
        """The import `line` after the module's docstring and `__future__` imports."""
        body = self._source.tree.body
        last: ast.stmt | None = None
        for statement in body:
            text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            future = isinstance(statement, ast.ImportFrom) and statement.module == "__future__"
            if not (future or (text and last is None)):
                break
            last = statement
        if last is None:
            first = next((s for s in body), None)
            at = self._source.line_starts[first.lineno - 1] if first is not None else 0
            first_import = next(
                (s for s in body if isinstance(s, ast.Import | ast.ImportFrom)), None
            )
            if first_import is not None:
                at = self._source.line_starts[first_import.lineno - 1]
            return Edit(at, at, f"{line}{self.newline}")
        at = self._line_end(last.end_lineno or last.lineno)
        return Edit(at, at, f"{self.newline}{line}")

    def _bound_to(self, dotted: str, at: ast.AST) -> list[str]:
        """Names that imports bind to `dotted`, and nothing else to anything, as seen at `at`."""
        source = self._source
        wanted = canonical(dotted)
        bound = {
            alias.asname or alias.name.partition(".")[0]: None
            for statement in source.nodes(ast.Import, ast.ImportFrom)
            for alias in statement.names
            if statement.lineno <= getattr(at, "lineno", 0)
        }
        return [
            name for name in bound
            if (seen := source.scopes.seen(name, at))
            and all(b.how == "import" and canonical(b.target) == wanted for b in seen)
        ]  # fmt: skip

    def _arguments(self, call: ast.Call) -> list[ast.expr | ast.keyword]:
        """All arguments in the order of the text."""
        given: list[ast.expr | ast.keyword] = [*call.args, *call.keywords]
        return sorted(given, key=self._source.span)

    def _past_parentheses(self, node: ast.expr, call: ast.Call) -> int:
        """The end of an argument with the parentheses around it: `f((a))`."""
        _, end = self._source.span(node)
        _, limit = self._source.span(call)
        between = self._source.data[end : limit - 1]
        closing = re.match(rb"(?:\s*\))*", between)
        return end + (closing.end() if closing else 0)

    def _own_lines(self, start: int, end: int) -> Edit | None:
        """The removal of the lines of an argument that shares them with nothing but a comment."""
        data, starts = self._source.data, self._source.line_starts
        first = starts[self._source.position(start)[0] - 1]
        rest = re.compile(rb"[ \t]*,?[ \t]*(?:#[^\r\n]*)?(?:\r\n|\r|\n)").match(data, end)
        if rest is None or data[first:start].strip():
            return None
        return Edit(first, rest.end(), "")

    def _starts_line(self, statement: ast.stmt) -> bool:
        start = self._source.line_starts[statement.lineno - 1]
        return not self._source.data[start : start + statement.col_offset].strip()

    def _ends_line(self, statement: ast.stmt) -> bool:
        _, end = self._source.span(statement)
        rest = self._source.data[end : self._line_end(statement.end_lineno or 1)].strip()
        return not rest or rest.startswith(b"#")

    def _line_end(self, line: int) -> int:
        """Offset of the line end of `line`."""
        starts = self._source.line_starts
        if line >= len(starts):
            return len(self._source.data)
        at = starts[line]
        return at - (2 if self._source.data[at - 2 : at] == b"\r\n" else 1)


def _past_blanks(data: bytes, at: int) -> int:
    """The first offset from `at` on that is neither white space nor a comment."""
    blanks = re.compile(rb"(?:\s|\\\r?\n|#[^\r\n]*)*").match(data, at)
    return blanks.end() if blanks else at


def _splits(dotted: str) -> list[tuple[str, str]]:
    """("torch.amp.autocast", ""), ("torch.amp", ".autocast"), ("torch", ".amp.autocast")."""
    parts = dotted.split(".")
    return [
        (".".join(parts[:n]), "".join(f".{p}" for p in parts[n:])) for n in range(len(parts), 0, -1)
    ]


def _decorators(statement: ast.stmt) -> list[ast.expr]:
    return list(getattr(statement, "decorator_list", ()))
