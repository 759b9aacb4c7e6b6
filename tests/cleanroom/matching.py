"""Whether an output is the one that a page shows.

All that may differ between two runs stands in RULES: a figure that a rule names is compared by
that rule, everything else word by word. Columns of tables move with the width of their figures, so
blanks count as one, and a paragraph may break at another word. Pages elide lines with "...".
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.cleanroom.pages import ELIDED


@dataclass(frozen=True)
class Rule:
    """A kind of figure: what it looks like, and when two of them are the same."""

    name: str
    pattern: str
    agree: Callable[[str, str], bool]
    why: str


def _whatever(shown: str, found: str) -> bool:
    return True


def _within(factor: float) -> Callable[[str, str], bool]:
    def agree(shown: str, found: str) -> bool:
        a, b = _number(shown), _number(found)
        return a == b or (a > 0 and b > 0 and max(a, b) <= factor * min(a, b))

    return agree


def _apart(most: float) -> Callable[[str, str], bool]:
    def agree(shown: str, found: str) -> bool:
        return abs(_number(shown) - _number(found)) <= most + 1e-9

    return agree


def _number(text: str) -> float:
    found = re.search(r"\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?", text)
    assert found is not None
    return float(found[0].replace(",", ""))


_TIME = r"\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)? (?:s|ms|µs|us|min)\b"

# The first rule that fits at a place counts.
RULES = (
    Rule("stages", rf"\bTook {_TIME}(?: {_TIME})?(?: \((?:[a-z][a-z ]*? {_TIME}(?:, )?)+\))?",
         _whatever, "which stages took longest and how long; none is named that took no time"),
    Rule("time", _TIME, _whatever, "depends on the machine"),
    Rule("date", r"\b\d{4}-\d\d-\d\d(?:[ T]\d\d:\d\d(?::\d\d)?)?", _whatever, "the day of the run"),
    Rule("version", r"\b\d+\.\d+\.\d+(?:\.\d+)*(?:\+\w+)?", _whatever, "of what is installed"),
    Rule("id", r"\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{7,64}\b", _whatever, "hashes"),
    Rule("size", r"\b\d[\d,]*(?:\.\d+)? (?:B|kB|MB|GB|KiB|MiB|GiB)\b", _within(1.03),
         "files hold versions and paths, whose length differs"),
    Rule("decibels", r"\b\d+(?:\.\d+)? dB\b", _apart(3), "an error's logarithm"),
    Rule("percent", r"\b\d+(?:\.\d+)? ?%", _apart(1.5), "shares of errors, rounded"),
    Rule("error", r"\b\d+(?:\.\d+)?e-\d+\b|\b0\.0\d+\b", _within(2.5),
         "sums are added in another order on another processor; the smallest are noise"),
    Rule("decimal", r"\b\d[\d,]*\.\d+(?:e\+?\d+)?\b|\b\de\+?\d+\b", _within(1.15), "the same"),
)  # fmt: skip

_ANY = re.compile("|".join(f"(?P<r{number}>{rule.pattern})" for number, rule in enumerate(RULES)))


@dataclass(frozen=True)
class _Figure:
    rule: Rule
    text: str


_Word = str | _Figure


def agrees(shown: Sequence[str], found: Sequence[str]) -> bool:
    """Whether the lines `found` are what the page shows as the lines `shown`."""
    pieces = split(shown)
    if len(pieces) == 1:
        return _same_lines(pieces[0], found) or _same(
            _words(_joined(shown)), _words(_joined(found))
        )
    return _elided(pieces, list(found))


def split(shown: Sequence[str]) -> list[list[str]]:
    """The pieces between the lines "..."; n such lines make n + 1 pieces, which may be empty."""
    pieces: list[list[str]] = [[]]
    for line in shown:
        if line.strip() == ELIDED:
            pieces.append([])
        else:
            pieces[-1].append(line)
    return pieces


def same_line(shown: str, found: str) -> bool:
    """Whether one line is the other, figures by their rules."""
    return _same(_words(shown), _words(found))


def difference(shown: Sequence[str], found: Sequence[str]) -> list[str]:
    """A diff for people: "-" is shown and not printed, "+" is printed and not shown."""
    keys = [_key(line) for line in shown], [_key(line) for line in found]
    lines: list[str] = []
    matcher = difflib.SequenceMatcher(a=keys[0], b=keys[1], autojunk=False)
    for tag, i, j, m, n in matcher.get_opcodes():
        if tag == "equal":
            for left, right in zip(shown[i:j], found[m:n], strict=True):
                same = same_line(left, right)
                lines += [f"  {left}"] if same else [f"- {left}", f"+ {right}{_why(left, right)}"]
        else:
            lines += [f"- {line}" for line in shown[i:j]] + [f"+ {line}" for line in found[m:n]]
    return lines


def _same_lines(shown: Sequence[str], found: Sequence[str]) -> bool:
    return len(shown) == len(found) and all(map(same_line, shown, found))


def _elided(pieces: list[list[str]], found: list[str]) -> bool:
    """Whether the pieces stand in `found` in their order, each "..." for one line or more."""
    first, *middle, last = pieces
    if not _same_lines(first, found[: len(first)]):
        return False
    at = len(first) + 1
    for piece in middle:
        while not _same_lines(piece, found[at : at + len(piece)]):
            at += 1
            if at + len(piece) > len(found):
                return False
        at += len(piece) + 1
    return len(found) - len(last) >= at and _same_lines(last, found[len(found) - len(last) :])


def _same(shown: list[_Word], found: list[_Word]) -> bool:
    if shown and shown[-1] == ELIDED:
        shown = shown[:-1]
        if len(found) <= len(shown):
            return False
        found = found[: len(shown)]
    return len(shown) == len(found) and all(map(_same_word, shown, found))


def _same_word(shown: _Word, found: _Word) -> bool:
    if isinstance(shown, _Figure) and isinstance(found, _Figure):
        return shown.rule == found.rule and shown.rule.agree(shown.text, found.text)
    return shown == found


def _words(line: str) -> list[_Word]:
    words: list[_Word] = []
    at = 0
    for match in _ANY.finditer(line):
        words += line[at : match.start()].split()
        assert match.lastgroup is not None
        words.append(_Figure(RULES[int(match.lastgroup[1:])], match[0]))
        at = match.end()
    return words + line[at:].split()


def _joined(lines: Sequence[str]) -> str:
    return " ".join(line.strip() for line in lines)


def _key(line: str) -> tuple[str, ...]:
    return tuple(word if isinstance(word, str) else word.rule.name for word in _words(line))


def _why(shown: str, found: str) -> str:
    for left, right in zip(_words(shown), _words(found), strict=False):
        if not _same_word(left, right) and isinstance(left, _Figure):
            return f"    [{left.rule.name}: {left.text} against {getattr(right, 'text', right)}]"
    return ""
