"""Runs rules over one source, and makes their fixes until nothing changes."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ampconvert.findings import Edit, Finding, Fix
from ampconvert.lint.rule import Rule
from ampconvert.lint.settings import Settings
from ampconvert.lint.source import Source

_MOST_ROUNDS = 100  # of fixes; ruff's limit too


@dataclass(frozen=True)
class Fixed:
    """A text after fixes: how many were made, by code, and what is left."""

    text: str
    made: tuple[Finding, ...]
    left: tuple[Finding, ...]


def check(
    text: str, rules: Iterable[Rule], path: str = "<stdin>", settings: Settings | None = None
) -> list[Finding]:
    """The findings of `rules` in `text`, in the order of the text.

    Raises SyntaxError, ValueError, RecursionError or MemoryError where `text` can't be parsed.
    """
    data = text.encode("utf-8", "surrogatepass")
    concerned = [rule for rule in rules if rule.may_concern(data)]
    if not concerned:
        return []
    source = Source(text, path, settings)
    found = [finding for rule in concerned for finding in rule.check(source)]
    return sorted(
        dict.fromkeys(found), key=lambda f: (f.where.line, f.where.column, f.code, f.message)
    )


def fix(
    text: str,
    rules: Sequence[Rule],
    path: str = "<stdin>",
    settings: Settings | None = None,
    *,
    unsafe: bool = False,
) -> Fixed:
    """`text` after all safe fixes, and the unsafe ones if asked for, were made to a fixed point.

    A round whose result doesn't parse is not kept: its fixes are tried one by one then.
    """
    made: list[Finding] = []
    for _ in range(_MOST_ROUNDS):
        left = check(text, rules, path, settings)
        wanted = [f for f in left if f.fix is not None and (unsafe or f.fix.safe)]
        changed, taken = _apply_most(text, wanted)
        if not taken or changed == text:
            break
        text = changed
        made += taken
    return Fixed(text, tuple(made), tuple(check(text, rules, path, settings)))


def apply(text: str, fixes: Sequence[Fix]) -> tuple[str, list[Fix]]:
    """`text` with those of `fixes` made that don't overlap one before them, and which those are.

    Equal insertions at one place (an import that two fixes need) are made once.
    """
    data = text.encode("utf-8", "surrogatepass")
    edits: list[Edit] = []
    taken = []
    for one in fixes:
        new = [edit for edit in one.edits if edit not in edits]
        if not any(_clash(a, b) for a in new for b in edits):
            edits += new
            taken.append(one)
    for edit in sorted(edits, key=lambda e: (e.start, e.end), reverse=True):
        data = data[: edit.start] + edit.text.encode("utf-8", "surrogatepass") + data[edit.end :]
    return data.decode("utf-8", "surrogatepass"), taken


def parses(text: str) -> bool:
    """Whether `text` is a Python module."""
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _apply_most(text: str, findings: Sequence[Finding]) -> tuple[str, list[Finding]]:
    by_fix = {id(f.fix): f for f in findings}
    fixes = [f.fix for f in findings if f.fix is not None]
    changed, taken = apply(text, fixes)
    if parses(changed):
        return changed, [by_fix[id(one)] for one in taken]
    kept: list[Finding] = []
    good: list[Fix] = []
    for one in fixes:
        changed, taken = apply(text, [*good, one])
        if len(taken) == len(good) + 1 and parses(changed):
            good.append(one)
            kept.append(by_fix[id(one)])
    return apply(text, good)[0], kept


def _clash(a: Edit, b: Edit) -> bool:
    """Whether two edits touch the same bytes, or insert at one place."""
    if a.start == a.end and b.start == b.end:
        return a.start == b.start
    return a.start < b.end and b.start < a.end
