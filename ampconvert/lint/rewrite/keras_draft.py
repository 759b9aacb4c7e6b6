"""Changes to a Keras script: edits of its text, each with the step that explains it."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable

from ampconvert.findings import Edit
from ampconvert.lint.imports import Statement, is_exported, is_guarded, readers, without
from ampconvert.lint.rewrite.result import Rewritten, Step
from ampconvert.lint.source import Source

Span = tuple[int, int]
# What may stand behind the last argument of a call on its line: a comma and a comment.
_LINE_REST = re.compile(rb"[ \t]*(,?)[ \t]*(?:#[^\r\n]*)?(?:\r\n|\r|\n)")
_BLANK_LINE = re.compile(rb"[ \t]*(?:\r\n|\r|\n)")


class Draft:
    """Collects edits and steps for one source, and makes them in the end.

    All changes are local (arguments, values, whole lines), so that edits of the text keep
    formatting and comments by themselves.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._edits: list[Edit] = []
        self._lines: list[Edit] = []
        self._removed: dict[ast.stmt, None] = {}
        self._gone: list[Span] = []
        self._steps: dict[Step, None] = {}
        self._notes: dict[str, None] = {}
        self._kept: set[str] = set()
        self._dropped: dict[ast.Call, list[ast.expr | ast.keyword]] = {}

    def step(self, at: ast.AST, what: str, why: str) -> None:
        """Tell of a change at the line of `at`."""
        self._steps[Step(getattr(at, "lineno", 1), what, why)] = None

    def note(self, text: str) -> None:
        """Tell the reader something, once."""
        self._notes[text] = None

    def keep(self, name: str) -> None:
        """New text reads `name`, so its import stays."""
        self._kept.add(name)

    def edit(self, *edits: Edit) -> None:
        """Change the text; the same edit twice counts once."""
        self._edits += [edit for edit in edits if edit not in self._edits]

    def replace(self, node: ast.AST, text: str) -> None:
        """`text` instead of `node`: what it read before is read no more."""
        self._gone.append(self._source.span(node))
        self.edit(self._source.edits.replace(node, text))

    def wrap(self, node: ast.expr, template: str) -> None:
        """`template` around `node`, whose place in it is `{}`."""
        before, after = template.split("{}")
        self.edit(self._source.edits.before(node, before), self._source.edits.after(node, after))

    def unwrap(self, call: ast.Call, kept: ast.expr) -> None:
        """`kept`, an argument of `call`, instead of it."""
        start, end = self._source.span(call)
        first, last = self._source.span(kept)
        if isinstance(kept, ast.GeneratorExp):
            first, last = first - 1, last + 1
        self._gone += [(start, first), (last, end)]
        self.edit(Edit(start, first, ""), Edit(last, end, ""))

    def argument(self, call: ast.Call, name: str, value: str) -> None:
        """The argument `name=value` for `call`, in the place of one that goes if there is one."""
        dropped = self._dropped.get(call)
        if dropped:
            self.edit(self._source.edits.replace(dropped.pop(), f"{name}={value}"))
        else:
            self.edit(*self._added(call, f"{name}={value}"))

    def _added(self, call: ast.Call, text: str) -> list[Edit]:
        """An argument at the end of a call, on its own line where the one before it is."""
        source = self._source
        given = [*call.args, *call.keywords]
        last = max(given, key=lambda one: source.span(one)[1], default=None)
        if last is not None:
            start, end = source.span(last)
            line = source.line_starts[source.position(start)[0] - 1]
            before = source.data[line:start]
            rest = _LINE_REST.match(source.data, end)
            if rest is not None and not before.strip() and before:
                own = f"{before.decode()}{text}"
                newline = source.edits.newline
                if rest[1]:
                    return [Edit(rest.end(), rest.end(), f"{own},{newline}")]
                return [Edit(end, end, ","), Edit(rest.end(), rest.end(), own + newline)]
        return [source.edits.add_keyword(call, text)]

    def without_argument(self, call: ast.Call, argument: ast.expr | ast.keyword) -> None:
        """`call` without an argument."""
        self._gone.append(self._source.span(argument))
        self._dropped.setdefault(call, []).append(argument)

    def insert_after(self, statement: ast.stmt, lines: Iterable[str]) -> bool:
        """Lines of their own after `statement`, indented like it; False where it has no line of
        its own.
        """
        return self._insert(statement, self._source.edits.line_after, lines)

    def insert_before(self, statement: ast.stmt, lines: Iterable[str]) -> bool:
        """Lines of their own before `statement`, indented like it; False as above."""
        return self._insert(statement, self._source.edits.line_before, lines)

    def remove(self, statement: ast.stmt) -> None:
        """`statement` goes, with what only it imported."""
        self._removed[statement] = None
        self._gone.append(self._source.span(statement))

    def is_removed(self, node: ast.AST) -> bool:
        """Whether `node` stands in a statement that goes."""
        start, end = self._source.span(node)
        spans = [self._source.span(statement) for statement in self._removed]
        return any(first <= start and end <= last for first, last in spans)

    def is_gone(self, node: ast.AST) -> bool:
        """Whether the text of `node` goes or is replaced."""
        start, end = self._source.span(node)
        return any(first <= start and end <= last for first, last in self._gone)

    def made(self) -> Rewritten:
        """The text with all changes, the steps in the order of the text, and the notes."""
        self._drop_imports()
        for call, arguments in self._dropped.items():
            self.edit(*(self._source.edits.remove_argument(call, a) for a in arguments))
        deleted = self._deletions()
        lines = [self._moved(edit, deleted) for edit in self._lines]
        edits = [*(e for e in self._edits if not self._is_inside_removed(e)), *lines, *deleted]
        data = self._source.data
        order = sorted(enumerate(edits), key=lambda pair: (pair[1].start, pair[1].end, pair[0]))
        for _, edit in reversed(order):
            new = edit.text.encode("utf-8", "surrogatepass")
            data = data[: edit.start] + new + data[edit.end :]
        steps = sorted(self._steps, key=lambda step: step.line)
        return Rewritten(data.decode("utf-8", "surrogatepass"), tuple(steps), tuple(self._notes))

    def _insert(
        self,
        statement: ast.stmt,
        make: Callable[[ast.stmt, str], Edit | None],
        lines: Iterable[str],
    ) -> bool:
        indent, newline = self._source.edits.indent(statement), self._source.edits.newline
        edit = make(statement, _indented(lines, indent, newline))
        if edit is not None:
            self._lines.append(edit)
        return edit is not None

    def _deletions(self) -> list[Edit]:
        """Each removed statement with its line; `pass` where a block would be left empty."""
        source = self._source
        found = []
        for statement in self._removed:
            block = source.block(statement)
            emptied = all(s in self._removed for s in block)
            if not emptied or source.parents[statement] is source.tree:
                edit = source.edits.delete(statement)
                found.append(self._paragraph(edit) if not edit.text else edit)
            elif block[-1] is statement:
                found.append(source.edits.replace(statement, "pass"))
            else:
                found.append(source.edits.delete(statement))
        return found

    def _paragraph(self, edit: Edit) -> Edit:
        """A deleted line with the comment above it and a blank line, where it stands alone."""
        data, starts = self._source.data, self._source.line_starts
        first = self._source.position(edit.start)[0] - 1
        above = first
        while above and data[starts[above - 1] : starts[above]].lstrip().startswith(b"#"):
            above -= 1
        blank_above = not above or not data[starts[above - 1] : starts[above]].strip()
        below = _BLANK_LINE.match(data, edit.end)
        if blank_above and (below is not None or edit.end == len(data)) and above:
            return Edit(starts[above], below.end() if below is not None else edit.end, "")
        return edit

    def _is_inside_removed(self, edit: Edit) -> bool:
        spans = [self._source.span(statement) for statement in self._removed]
        return any(start <= edit.start and edit.end <= end for start, end in spans)

    def _moved(self, edit: Edit, deleted: list[Edit]) -> Edit:
        """A line that was to follow one that goes: after the line before that."""
        newline = self._source.edits.newline
        for gone in sorted(deleted, key=lambda e: e.start, reverse=True):
            if edit.start == edit.end and gone.start < edit.start < gone.end:
                at = gone.start - len(newline)
                if at < 0:
                    return Edit(0, 0, edit.text.removeprefix(newline) + newline)
                edit = Edit(at, at, edit.text)
        return edit

    def _drop_imports(self) -> None:
        """Take out imports that only what is gone has read."""
        source = self._source
        for statement in source.nodes(ast.Import, ast.ImportFrom):
            unread = [a for a in statement.names if self._is_unread(statement, a)]
            if len(unread) == len(statement.names):
                self._removed[statement] = None
            elif unread:
                self._edits += self._shortened(statement, unread)

    def _is_unread(self, statement: Statement, alias: ast.alias) -> bool:
        used = readers(self._source, alias)
        if (alias.asname or alias.name.partition(".")[0]) in self._kept:
            return False
        if not used or is_exported(self._source, alias) or is_guarded(self._source, alias):
            return False
        return all(self.is_gone(name) for name in used)

    def _shortened(self, statement: Statement, unread: list[ast.alias]) -> list[Edit]:
        if len(unread) == 1:
            return without(self._source, statement, unread[0])
        kept = ", ".join(
            self._source.segment(alias) for alias in statement.names if alias not in unread
        )
        start, _ = self._source.span(statement.names[0])
        _, end = self._source.span(statement.names[-1])
        return [Edit(start, end, kept)]


def _indented(lines: Iterable[str], indent: str, newline: str) -> str:
    """Lines for a place after `indent`; empty ones stay empty."""
    first, *rest = lines
    return newline.join([first, *(f"{indent}{line}" if line else "" for line in rest)])
