"""The corpus holds its format, and its judge counts as it says."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.lint.snippets import FOLDER, Judged, Snippet, judge, load

SNIPPETS = load()
CODE = re.compile(r"AMP\d{3}")
NAMES = [snippet.name for snippet in SNIPPETS]


def line_of(snippet: Snippet, number: int) -> str:
    return snippet.text.splitlines()[number - 1]


def test_the_corpus_is_large_enough() -> None:
    assert len(SNIPPETS) >= 60
    assert sum(not snippet.wrong for snippet in SNIPPETS) >= 10
    assert sum(bool(snippet.outside) for snippet in SNIPPETS) <= 5


def test_few_snippets_share_a_thread() -> None:
    threads = Counter(snippet.thread for snippet in SNIPPETS)
    assert max(threads.values()) <= 3
    assert len(threads) >= 0.9 * len(SNIPPETS)


def test_each_name_is_words_that_pytest_does_not_collect() -> None:
    for path in FOLDER.iterdir():
        if path.name != "__pycache__":
            assert re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)+\.py", path.name), path.name
            assert not path.name.startswith("test_")
            assert not path.stem.endswith("_test")


@pytest.mark.parametrize("snippet", SNIPPETS, ids=NAMES)
def test_a_snippet_holds_the_format(snippet: Snippet) -> None:
    first = snippet.text.splitlines()[:4]
    assert first[0] == f"# Thread: {snippet.thread}"
    assert re.fullmatch(r"https://[\w.-]+/\S+", snippet.thread)
    assert first[1] == f"# Title: {snippet.title}"
    assert snippet.title
    assert first[2].startswith("# Wrong: " if snippet.wrong else "# Right: ")
    assert first[2].endswith(".")
    assert not first[3].startswith("#")

    ast.parse(snippet.text, feature_version=(3, 11))
    assert 15 <= len(snippet.text.splitlines()) <= 64
    assert bool(snippet.wrong) == bool(snippet.expected or snippet.outside)
    if not snippet.wrong:
        assert not snippet.allowed
    for line, codes in (*snippet.expected, *snippet.allowed):
        assert codes
        assert all(CODE.fullmatch(code) for code in codes), line_of(snippet, line)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=NAMES)
def test_every_mark_was_read(snippet: Snippet) -> None:
    """A mark that is written wrongly would be passed over in silence."""
    marked = {line for line, _ in (*snippet.expected, *snippet.allowed, *snippet.outside)}
    for number, text in enumerate(snippet.text.splitlines()[3:], start=4):
        assert ("# expect" in text or "# may" in text) == (number in marked), text
        if number not in marked:
            assert not re.search(r"(?<!['\"])# ", text), "no hints beside the marks"


@pytest.mark.parametrize("snippet", SNIPPETS, ids=NAMES)
def test_what_is_expected_counts_as_found(snippet: Snippet) -> None:
    """The first line of each statement is what a user would see underlined."""
    starts = set()
    for node in ast.walk(ast.parse(snippet.text)):
        if isinstance(node, ast.stmt | ast.expr | ast.keyword | ast.alias):
            starts.add(node.lineno)
    for line, _ in (*snippet.expected, *snippet.outside):
        assert line in starts
    perfect = [(line, sorted(codes)[0]) for line, codes in snippet.expected]
    assert judge(snippet, perfect) == Judged(snippet.expected, (), ())
    assert judge(snippet, []) == Judged((), snippet.expected, ())


SAMPLE = Snippet(
    name="sample",
    path=Path("sample.py"),
    thread="https://example.org/1",
    title="A title",
    wrong="It is wrong.",
    text=(
        "a = 1\nb = f(\n    1,\n    2,\n    3,\n    4,\n)\n"
        "c = 2\nwith a:\n    c = 3\n    c = 4\n    c = 5\n"
    ),
    expected=((2, frozenset({"AMP204", "AMP214"})), (9, frozenset({"AMP107"}))),
    allowed=((12, frozenset({"AMP107"})),),
)


def test_the_judge_takes_any_line_of_the_statement_and_two_more() -> None:
    assert judge(SAMPLE, [(7, "AMP214"), (9, "AMP107")]).missed == ()
    assert judge(SAMPLE, [(8, "AMP214"), (11, "AMP107")]) == Judged(
        (SAMPLE.expected[1],), (SAMPLE.expected[0],), ((8, "AMP214"),)
    )


def test_the_judge_asks_for_the_same_code() -> None:
    judged = judge(SAMPLE, [(2, "AMP205"), (2, "AMP204"), (2, "AMP214")])
    assert judged == Judged((SAMPLE.expected[0],), (SAMPLE.expected[1],), ((2, "AMP205"),))


def test_a_finding_that_may_stand_elsewhere_counts_there() -> None:
    judged = judge(SAMPLE, [(12, "AMP107"), (12, "AMP204")])
    assert judged.hits == (SAMPLE.expected[1],)
    assert judged.extra == ((12, "AMP204"),)
