"""docs/reference/conditions.md, written from the words that a rule's `when` may hold."""

from __future__ import annotations

from collections.abc import Iterator

from ampconvert.conditions import CONDITIONS, Condition
from ampconvert.reference.markdown import code, table
from ampconvert.report.rules import plain
from ampconvert.rules import load

INTRODUCTION = """\
# Conditions of op rules

The words that the `when` table of [an op rule](op-rules.md) may hold. All words of a rule have to
hold. What cannot be known, such as a size that is dynamic, is answered in the cautious direction,
as each word says.

This page is made from their docstrings:
`python -m ampconvert.reference conditions > docs/reference/conditions.md`.
"""


def page() -> str:
    """The whole page as Markdown."""
    return "\n".join(_lines()).rstrip() + "\n"


def _lines() -> Iterator[str]:
    yield INTRODUCTION
    rows = ((f"[{c.word}](#{c.word})", c.complaint(None)) for c in CONDITIONS.values())
    yield from table(("word", "its value"), rows)
    for condition in CONDITIONS.values():
        yield f"## {condition.word}"
        yield ""
        yield condition.doc
        yield ""
        yield from _uses(condition)


def _uses(condition: Condition) -> Iterator[str]:
    used = [rule for rule in load() if condition.word in rule.when]
    if used:
        yield "Used by " + ", ".join(
            f"[{rule.name}](op-rules.md#{rule.name}) "
            f"({code(f'{condition.word} = {plain(rule.when[condition.word])}')})"
            for rule in used
        ) + "."  # fmt: skip
    else:
        yield "No rule that comes with ampconvert uses it."
    yield ""
