"""Changes to a script that are decided but not made: they name nodes of `ast`, not text."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

from ampconvert.lint.rewrite.result import Step

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, eq=False)
class Wrap:
    """The statements from `first` to `last` of one block go into `header` ("with a:", "if b:").

    `extracted` are an expression of the statement after `last` and the name that it gets: the
    assignment `name = expression` becomes the last line of the new block. With `bare` nothing but
    this assignment is in it, and the block stands before `first`.
    """

    first: ast.stmt
    last: ast.stmt
    header: str
    extracted: tuple[ast.expr, str] | None = None
    bare: bool = False


@dataclass(frozen=True, eq=False)
class Insert:
    """The lines `text` before `at`, or after it. Several at one place keep their order."""

    at: ast.stmt
    text: str
    after: bool = False


@dataclass(frozen=True, eq=False)
class Replace:
    """`text` instead of `node`; a `{}` in it stands for what `node` was, with changes inside."""

    node: ast.expr
    text: str


@dataclass(frozen=True, eq=False)
class Argument:
    """The keyword argument `name=value` for a call."""

    call: ast.Call
    name: str
    value: str


@dataclass(frozen=True, eq=False)
class Parameter:
    """A parameter that a function gets, after those without a default."""

    function: Function
    name: str
    annotation: str


@dataclass(frozen=True, eq=False)
class Entry:
    """One more entry of a dict display."""

    node: ast.Dict
    key: str
    value: str


@dataclass(frozen=True, eq=False)
class Decorate:
    """One more decorator, the innermost."""

    function: Function
    text: str


@dataclass(frozen=True, eq=False)
class Remove:
    """A statement that goes."""

    statement: ast.stmt


Change = Wrap | Insert | Replace | Argument | Parameter | Entry | Decorate | Remove


@dataclass
class Plan:
    """Collects what is decided. Each change comes with the step that explains it, or without one
    where another step has told of it.
    """

    changes: list[Change] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, change: Change, line: int = 0, what: str = "", why: str = "") -> None:
        """One more change, and the step that tells of it."""
        self.changes.append(change)
        if what:
            self.tell(line, what, why)

    def tell(self, line: int, what: str, why: str) -> None:
        """One more step."""
        step = Step(line, what, why)
        if step not in self.steps:
            self.steps.append(step)

    def note(self, text: str) -> None:
        """Something for the reader to know, once."""
        if text not in self.notes:
            self.notes.append(text)
