"""What the linter finds of the mistakes in the corpus of real threads."""

from __future__ import annotations

from dataclasses import dataclass

from ampconvert.lint import engine
from ampconvert.lint.catalogue import all_rules, selected
from tests.lint.snippets import Snippet, judge, load


@dataclass(frozen=True)
class Recall:
    """Of all mistakes in the corpus: found, missed, and lines reported that are right."""

    snippets: int
    found: int
    missed: tuple[str, ...]
    false: tuple[str, ...]

    @property
    def share(self) -> float:
        """The share of mistakes that were found."""
        return self.found / max(self.found + len(self.missed), 1)


def measure(*, everything: bool) -> Recall:
    """Recall of the rules that are on by default, or of all rules."""
    rules = all_rules() if everything else selected()
    snippets = load()
    found, missed, false = 0, [], []
    for snippet in snippets:
        lines = [(f.where.line, f.code) for f in engine.check(snippet.text, rules)]
        judged = judge(snippet, lines)
        found += len(judged.hits)
        missed += [_named(snippet, line, codes) for line, codes in judged.missed]
        false += [_named(snippet, line, frozenset({code})) for line, code in judged.extra]
    return Recall(len(snippets), found, tuple(missed), tuple(false))


def _named(snippet: Snippet, line: int, codes: frozenset[str]) -> str:
    return f"{snippet.name}:{line} {' or '.join(sorted(codes))} ({snippet.thread})"
