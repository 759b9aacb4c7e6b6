"""Runs rules over one source, and makes their fixes until nothing changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ampconvert.findings import Edit, Finding, Fix
from ampconvert.lint.parsing import UNREADABLE as UNREADABLE
from ampconvert.lint.parsing import parses as parses
from ampconvert.lint.rule import Rule
from ampconvert.lint.settings import Settings
from ampconvert.lint.source import Source
from ampconvert.lint.suppressions import kept

_MOST_ROUNDS = 100  # of fixes; ruff's limit too


class RuleError(Exception):
    """A rule raised, which none should: `code` is its code, the cause what it raised."""

    def __init__(self, code: str, path: str) -> None:
        super().__init__(f"{code} failed on {path}")
        self.code = code


@dataclass(frozen=True)
class Fixed:
    """A text after fixes: how many were made, by code, and what is left."""

    text: str
    made: tuple[Finding, ...]
    left: tuple[Finding, ...]


def check(
    text: str, rules: Iterable[Rule], path: str = "<stdin>", settings: Settings | None = None
) -> list[Finding]:
    """The findings of `rules` in `text` that no comment there silences, in the order of the text.

    Where `text` can't be parsed they are what the rules say of that. Raises RuleError.
    """
    asked = concerned(rules, text.encode("utf-8", "surrogatepass"), settings)
    if not asked:
        return []
    try:
        source = Source(text, path, settings)
    except UNREADABLE as error:
        return in_order(kept(text, unread(asked, path, text, error)))
    found: list[Finding] = []
    try:
        for rule in asked:
            try:
                found += findings(rule, source)
            except RecursionError as error:
                found += unread(asked, path, text, error)
    finally:
        source.release()
    return in_order(kept(text, found))


def concerned(rules: Iterable[Rule], data: bytes, settings: Settings | None = None) -> list[Rule]:
    """The rules that may find something in a file with these bytes.

    A rule without words looks at the files that others look at, and at all where there is no other.
    """
    given = list(rules)
    words = _Words(data)
    always = [rule for rule in given if not rule.WORDS]
    asked = [rule for rule in given if rule.WORDS and rule.may_concern(words, settings)]
    return asked + always if asked or len(always) == len(given) else []


class _Words:
    """The words in some bytes: many rules look for the same."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._known: dict[bytes, bool] = {}

    def __contains__(self, word: bytes, /) -> bool:
        found = self._known.get(word)
        if found is None:
            found = self._known[word] = word in self._data
        return found


def findings(rule: Rule, source: Source) -> list[Finding]:
    """What one rule finds, silenced or not. Raises RecursionError, and RuleError for all else."""
    try:
        return list(rule.check(source))
    except (RecursionError, RuleError):
        raise
    except Exception as error:
        raise RuleError(rule.CODE, source.path) from error


def unread(rules: Iterable[Rule], path: str, text: str, error: Exception) -> list[Finding]:
    """What `rules` say of a file that can't be read for `error`; `text` is as much as is known."""
    return [found for rule in rules for found in rule.unread(path, text, error)]


def in_order(found: Iterable[Finding]) -> list[Finding]:
    """Findings in the order of the text, each once."""
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
    allowed: Callable[[Finding], Finding] = lambda found: found,
) -> Fixed:
    """`text` after all safe fixes, and the unsafe ones if asked for, were made to a fixed point.

    `allowed` may take a finding's fix away or call it safe, as the project's configuration says. A
    round whose result doesn't parse is not kept: its fixes are tried one by one then.
    """
    made: list[Finding] = []
    for _ in range(_MOST_ROUNDS):
        left = [allowed(found) for found in check(text, rules, path, settings)]
        wanted = [f for f in left if f.fix is not None and (unsafe or f.fix.safe)]
        changed, taken = _apply_most(text, wanted)
        if not taken or changed == text:
            return Fixed(text, tuple(made), tuple(left))
        text = changed
        made += taken
    return Fixed(text, tuple(made), tuple(map(allowed, check(text, rules, path, settings))))


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
