"""What the rules find of the mistakes in the corpus: not less than when it was measured."""

from __future__ import annotations

from benchmarks.lint import recall


def test_rules_that_are_on_find_most_and_nothing_else() -> None:
    found = recall.measure(everything=False)
    assert found.share >= 0.72, found.missed
    assert found.false == ()
    assert found.snippets >= 130
