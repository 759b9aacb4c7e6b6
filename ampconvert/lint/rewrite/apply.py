"""Makes decided changes with libcst, so that formatting and comments stay.

Nodes of `ast` are found again by their place: both trees give an expression the same first and
last character, and a statement the same first one.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import libcst as cst
from libcst.metadata import CodeRange, MetadataWrapper, PositionProvider

from ampconvert.lint.rewrite.changes import (
    Argument,
    Change,
    Decorate,
    Entry,
    Insert,
    Parameter,
    Remove,
    Replace,
    Wrap,
)
from ampconvert.lint.rewrite.pieces import (
    appended,
    as_block,
    expression,
    lines,
    parameter,
    split,
    within,
    without_parentheses,
)

Place = tuple[int, int]
Span = tuple[int, int, int, int]
_Line = cst.BaseStatement | cst.SimpleStatementLine


def apply(text: str, changes: Sequence[Change]) -> str:
    """`text` with all changes made."""
    wrapper = MetadataWrapper(cst.parse_module(text))
    places = wrapper.resolve(PositionProvider)
    made = wrapper.module.visit(_Changer(text, changes, dict(places)))
    return made.code


class _Changer(cst.CSTTransformer):
    """Makes changes from the leaves up, blocks last."""

    def __init__(
        self, text: str, changes: Sequence[Change], places: dict[cst.CSTNode, CodeRange]
    ) -> None:
        super().__init__()
        self._places = places
        self._lines = re.split(rb"\r\n|\r|\n", text.encode("utf-8", "surrogatepass"))
        self._replaced: dict[Span, list[Replace]] = defaultdict(list)
        self._arguments: dict[Span, list[Argument]] = defaultdict(list)
        self._entries: dict[Span, list[Entry]] = defaultdict(list)
        self._parameters: dict[Place, list[Parameter]] = defaultdict(list)
        self._decorators: dict[Place, list[Decorate]] = defaultdict(list)
        self._removed: set[Place] = set()
        self._before: dict[Place, list[Insert]] = defaultdict(list)
        self._after: dict[Place, list[Insert]] = defaultdict(list)
        self._wraps: dict[Place, list[Wrap]] = defaultdict(list)
        self._extracted: dict[Span, cst.BaseExpression] = {}
        self._names: dict[Span, str] = {}
        for change in changes:
            self._note(change)

    def _note(self, change: Change) -> None:
        """Put a change where its node will be met."""
        if isinstance(change, Replace):
            self._replaced[self._span(change.node)].append(change)
        elif isinstance(change, Argument):
            self._arguments[self._span(change.call)].append(change)
        elif isinstance(change, Entry):
            self._entries[self._span(change.node)].append(change)
        elif isinstance(change, Parameter):
            self._parameters[self._place(change.function)].append(change)
        elif isinstance(change, Decorate):
            self._decorators[self._place(change.function)].append(change)
        elif isinstance(change, Remove):
            self._removed.add(self._place(change.statement))
        elif isinstance(change, Insert):
            (self._after if change.after else self._before)[self._place(change.at)].append(change)
        else:
            self._wraps[self._place(change.first)].append(change)
            if change.extracted is not None:
                self._names[self._span(change.extracted[0])] = change.extracted[1]

    def on_leave(self, original_node: Any, updated_node: Any) -> Any:
        """Make what is to be done to this one node."""
        updated: Any = super().on_leave(original_node, updated_node)
        if isinstance(original_node, cst.BaseExpression):
            return self._expression(original_node, updated)
        if isinstance(original_node, cst.FunctionDef):
            return self._function(original_node, updated)
        if isinstance(original_node, cst.Module | cst.IndentedBlock):
            body = self._block(original_node.body, updated.body)
            return updated if body is None else updated.with_changes(body=body)
        if isinstance(original_node, cst.SimpleStatementSuite):
            return self._suite(original_node, updated)
        return updated

    def _expression(
        self, original: cst.BaseExpression, updated: cst.BaseExpression
    ) -> cst.BaseExpression:
        span = self._cst_span(original)
        if span is None:
            return updated
        if isinstance(updated, cst.Call):
            for argument in self._arguments.get(span, ()):
                given = cst.Arg(
                    expression(argument.value), keyword=cst.Name(argument.name),
                    equal=cst.AssignEqual(cst.SimpleWhitespace(""), cst.SimpleWhitespace("")),
                )  # fmt: skip
                updated = updated.with_changes(
                    args=appended(updated.args, given, updated.whitespace_before_args)
                )
        if isinstance(updated, cst.Dict):
            for entry in self._entries.get(span, ()):
                new = cst.DictElement(expression(entry.key), expression(entry.value))
                updated = updated.with_changes(
                    elements=appended(updated.elements, new, updated.lbrace.whitespace_after)
                )
        name = self._names.get(span)
        if name is not None:
            self._extracted[span] = without_parentheses(updated)
            updated = cst.Name(name)
        for replaced in self._replaced.get(span, ()):
            updated = within(replaced.text, updated)
        return updated

    def _function(self, original: cst.FunctionDef, updated: cst.FunctionDef) -> cst.FunctionDef:
        """Parameters and decorators."""
        place = self._cst_place(original)
        for new in self._parameters.get(place, ()):
            updated = updated.with_changes(
                params=parameter(updated.params, new.name, new.annotation)
            )
        for decorator in self._decorators.get(place, ()):
            made = cst.Decorator(expression(decorator.text))
            updated = updated.with_changes(decorators=[*updated.decorators, made])
        return updated

    def _suite(
        self, original: cst.SimpleStatementSuite, updated: cst.SimpleStatementSuite
    ) -> cst.BaseSuite:
        """`if x: a; b` becomes a block of its own lines, if one of them is changed."""
        places = [self._cst_place(s) for s in original.body]
        if not any(self._concerns(place) for place in places):
            return updated
        old, new = as_block(original), as_block(updated)
        body = self._block(old.body, new.body, places)
        return new if body is None else new.with_changes(body=body)

    def _block(
        self,
        original: Sequence[_Line],
        updated: Sequence[_Line],
        places: Sequence[Place] | None = None,
    ) -> list[_Line] | None:
        """The statements of a block with changes; None where it has none."""
        flat: list[tuple[Place, _Line]] = []
        concerned = False
        for i, (old, new) in enumerate(zip(original, updated, strict=True)):
            if places is not None:
                at = [places[i]]
            elif isinstance(old, cst.SimpleStatementLine):
                at = [self._cst_place(small) for small in old.body]
            else:
                at = [self._cst_place(old)]
            mine = any(self._concerns(place) for place in at)
            concerned |= mine
            if len(at) > 1 and mine and isinstance(new, cst.SimpleStatementLine):
                flat += zip(at, split(new), strict=True)
            else:
                flat.append((at[0], new))
        return self._rebuilt(flat) if concerned else None

    def _rebuilt(self, flat: list[tuple[Place, _Line]]) -> list[_Line]:
        done: list[_Line] = []
        at = 0
        while at < len(flat):
            place, statement = flat[at]
            new, used = self._statement(place, statement, flat[at:])
            done += new
            at += used
        return done or [cst.SimpleStatementLine([cst.Pass()])]

    def _statement(
        self, place: Place, statement: _Line, rest: list[tuple[Place, _Line]]
    ) -> tuple[list[_Line], int]:
        """One statement, or a run of them that is wrapped, with what comes before and after, and
        how many of `rest` that were.
        """
        wraps = self._wraps.get(place, [])
        before = [line for insert in self._before.get(place, ()) for line in lines(insert.text)]
        used = 1
        inner: list[_Line] = []
        extracted = next((w for w in wraps if w.bare), None)
        whole = next((w for w in wraps if not w.bare), None)
        if extracted is not None:
            before = [*before, self._wrapped(extracted, [])]
        if whole is not None:
            last = self._place(whole.last)
            used = next(i for i, (at, _) in enumerate(rest) if at == last) + 1
            for i, (at, one) in enumerate(rest[:used]):
                if i:
                    inner += [s for w in self._before.get(at, ()) for s in lines(w.text)]
                inner += self._kept(at, one)
                if i + 1 < used:
                    inner += [s for w in self._after.get(at, ()) for s in lines(w.text)]
            body: list[_Line] = [self._wrapped(whole, inner)]
        else:
            body = self._kept(place, statement)
        end = rest[used - 1][0]
        after = [line for insert in self._after.get(end, ()) for line in lines(insert.text)]
        return _led([*before, *body, *after], statement), used

    def _kept(self, place: Place, statement: _Line) -> list[_Line]:
        return [] if place in self._removed else [statement]

    def _wrapped(self, wrap: Wrap, inner: list[_Line]) -> cst.BaseStatement:
        if wrap.extracted is not None:
            node, name = wrap.extracted
            value = self._extracted[self._span(node)]
            target = cst.AssignTarget(cst.Name(name))
            inner = [*inner, cst.SimpleStatementLine([cst.Assign([target], value)])]
        if inner and hasattr(inner[0], "leading_lines"):
            inner = [inner[0].with_changes(leading_lines=[]), *inner[1:]]
        made = cst.parse_statement(f"{wrap.header}\n    pass\n")
        assert isinstance(made, cst.With | cst.If)
        return made.with_changes(body=cst.IndentedBlock(inner))

    def _concerns(self, place: Place) -> bool:
        return (
            place in self._removed
            or place in self._before
            or place in self._after
            or place in self._wraps
            or any(self._place(w.last) == place for ws in self._wraps.values() for w in ws)
        )

    # Places: (line from 1, column in characters from 0), as libcst counts.

    def _place(self, node: ast.stmt) -> Place:
        return node.lineno, self._column(node.lineno, node.col_offset)

    def _span(self, node: ast.expr) -> Span:
        end_line = node.end_lineno or node.lineno
        end = self._column(end_line, node.end_col_offset or 0)
        return node.lineno, self._column(node.lineno, node.col_offset), end_line, end

    def _column(self, line: int, offset: int) -> int:
        return len(self._lines[line - 1][:offset].decode("utf-8", "replace"))

    def _cst_place(self, node: cst.CSTNode) -> Place:
        start = self._places[node].start
        return start.line, start.column

    def _cst_span(self, node: cst.CSTNode) -> Span | None:
        found = self._places.get(node)
        if found is None:
            return None
        return found.start.line, found.start.column, found.end.line, found.end.column


def _led(statements: list[_Line], was: _Line) -> list[_Line]:
    """`statements` with the comments and blank lines that stood before `was` before the first."""
    leading = getattr(was, "leading_lines", ())
    if not statements or statements[0] is was or not leading:
        return statements
    done = [s.with_changes(leading_lines=[]) if s is was else s for s in statements]
    return [done[0].with_changes(leading_lines=leading), *done[1:]]
