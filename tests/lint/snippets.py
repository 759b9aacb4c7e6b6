"""The corpus that measures the linter's recall: mistakes people really made, and their repairs.

Each file of the folder `corpus` next to this module re-writes one public thread as a short piece
of code. It begins with the thread's address and title and one sentence that says what is wrong
(`# Wrong:`) or what the answers recommend (`# Right:`). At the end of a line may stand:

* `# expect: AMP204`: the linter has to report AMP204 here. Several codes, separated by spaces,
  are several findings; codes joined by `|` are one finding that any of them describes;
* `# may: AMP204`: the same finding may as well be reported here. It then counts for an
  expectation of that code that was met nowhere else, and it is never one too many;
* `# expect: none (...)`: a real mistake that no rule covers, with the reason.

The files are never imported and never run.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

FOLDER = Path(__file__).parent / "corpus"

# How far from the expected line a report of the same code still counts.
NEAR = 2

_HEADER = re.compile(r"# (Thread|Title|Wrong|Right): (.+)")
_EXPECT = re.compile(r"# expect: (?P<codes>AMP\S+(?: AMP\S+)*)$")
_OUTSIDE = re.compile(r"# expect: none \((?P<reason>[^()]+)\)$")
_MAY = re.compile(r"# may: (?P<codes>AMP\S+(?: AMP\S+)*)$")


@dataclass(frozen=True)
class Snippet:
    """One file of the corpus.

    Attributes:
        name: The file's name without its ending.
        path: Where it lies.
        thread: The address of the thread it was made from.
        title: That thread's title.
        wrong: What goes wrong and how it shows; empty where the code is right.
        text: The whole file.
        expected: The findings it asks for: the line, and the codes any of which will do.
        allowed: Where else the same finding may be reported: the line and the codes.
        outside: Mistakes no rule covers: the line and the reason.
    """

    name: str
    path: Path
    thread: str
    title: str
    wrong: str
    text: str
    expected: tuple[tuple[int, frozenset[str]], ...]
    allowed: tuple[tuple[int, frozenset[str]], ...] = ()
    outside: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class Judged:
    """What a linter's reports on one snippet are worth.

    Attributes:
        hits: The expectations that were met.
        missed: Those that were not.
        extra: Reports that no expectation covers: the line and the code.
    """

    hits: tuple[tuple[int, frozenset[str]], ...] = ()
    missed: tuple[tuple[int, frozenset[str]], ...] = ()
    extra: tuple[tuple[int, str], ...] = field(default=())


def read(path: Path) -> Snippet:
    """Read one file of the corpus."""
    text = path.read_text(encoding="utf-8")
    header: dict[str, str] = {}
    expected: list[tuple[int, frozenset[str]]] = []
    allowed: list[tuple[int, frozenset[str]]] = []
    outside: list[tuple[int, str]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if found := _HEADER.fullmatch(line):
            header.setdefault(found[1], found[2])
        elif found := _EXPECT.search(line):
            expected += [(number, frozenset(one.split("|"))) for one in found["codes"].split()]
        elif found := _MAY.search(line):
            allowed.append((number, frozenset(found["codes"].split())))
        elif found := _OUTSIDE.search(line):
            outside.append((number, found["reason"]))
    return Snippet(
        name=path.stem,
        path=path,
        thread=header.get("Thread", ""),
        title=header.get("Title", ""),
        wrong=header.get("Wrong", ""),
        text=text,
        expected=tuple(expected),
        allowed=tuple(allowed),
        outside=tuple(outside),
    )


def load() -> list[Snippet]:
    """Read the whole corpus, in the order of the names."""
    return [read(path) for path in sorted(FOLDER.glob("*.py"))]


@lru_cache(maxsize=256)
def _spans(text: str) -> tuple[tuple[int, int], ...]:
    """The first and last line of each simple statement, and of each compound statement's header."""
    spans = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.stmt | ast.ExceptHandler | ast.match_case):
            continue
        if isinstance(node, ast.match_case):
            first, last = node.pattern.lineno, node.pattern.end_lineno or node.pattern.lineno
        else:
            first, last = node.lineno, node.end_lineno or node.lineno
            for decorator in getattr(node, "decorator_list", ()):
                first = min(first, decorator.lineno)
            if body := getattr(node, "body", None):
                last = max(node.lineno, _start(body[0]) - 1)
        spans.append((first, last))
    return tuple(sorted(spans))


def _start(statement: ast.stmt) -> int:
    """The line a statement begins on, its decorators included."""
    decorators: list[ast.expr] = getattr(statement, "decorator_list", [])
    return min([statement.lineno, *(decorator.lineno for decorator in decorators)])


def _span(text: str, line: int) -> tuple[int, int]:
    """The smallest statement or header a line belongs to; the line alone where there is none."""
    around = [(first, last) for first, last in _spans(text) if first <= line <= last]
    return min(around, key=lambda span: span[1] - span[0], default=(line, line))


def judge(snippet: Snippet, found: Iterable[tuple[int, str]]) -> Judged:
    """Compare a linter's reports with what a snippet expects.

    An expectation is met if one of its codes is reported within the same statement or at most two
    lines away from it; where the same finding may stand elsewhere, a report there does as well.

    Args:
        snippet: The snippet that was linted.
        found: The reports: line and code.
    """
    reports = set(found)
    hits: list[tuple[int, frozenset[str]]] = []
    missed: list[tuple[int, frozenset[str]]] = []
    covered: set[tuple[int, str]] = set()
    for line, codes in snippet.allowed:
        first, last = _span(snippet.text, line)
        covered |= {(at, code) for at, code in reports if code in codes and first <= at <= last}
    elsewhere = {code for _, code in covered}
    for line, codes in snippet.expected:
        first, last = _span(snippet.text, line)
        here = {
            (at, code)
            for at, code in reports
            if code in codes and (first <= at <= last or abs(at - line) <= NEAR)
        }
        covered |= here
        (hits if here or codes & elsewhere else missed).append((line, codes))
    return Judged(tuple(hits), tuple(missed), tuple(sorted(reports - covered)))
