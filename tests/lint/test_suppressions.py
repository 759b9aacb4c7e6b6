"""Comments that silence findings: which, where, and which of them silence nothing."""

from __future__ import annotations

import pytest

from ampconvert.findings import Finding, Location
from ampconvert.lint import engine
from ampconvert.lint.catalogue import all_rules, selected
from ampconvert.lint.rules.unused_suppression import UnusedSuppression
from ampconvert.lint.suppressions import kept, suppressions, without

UNUSED = UnusedSuppression()


def silenced(text: str, code: str = "AMP204", line: int = 1, end: int = 0) -> bool:
    where = Location("", "", "", "x.py", line, 1, end or line, 2)
    return kept(text, [Finding(code, "message", where)]) == []


def unused(text: str) -> list[Finding]:
    return engine.check(text, [UNUSED])


def mended(text: str) -> str:
    return engine.fix(text, [UNUSED]).text


@pytest.mark.parametrize(
    "comment",
    [
        "# noqa",
        "#noqa",
        "# NOQA",
        "# noqa: AMP204",
        "# noqa:AMP204",
        "# noqa : AMP204",
        "# noqa: E501, AMP204",
        "# noqa: E501 AMP204",
        "# noqa: AMP204 because the gradients are no gradients",
        "# noqa: AMP2",
        "# type: ignore  # noqa: AMP204",
        "# type: ignore # noqa",
        "# noqa: E501  # noqa: AMP204",
        "# ampconvert: ignore",
        "# ampconvert:ignore[AMP204]",
        "# ampconvert: ignore[E501, AMP204]",
        "# ampconvert: ignore[AMP204] because of that",
        "# ampconvert: noqa: AMP204",
    ],
)
def test_silences_its_line(comment: str) -> None:
    assert silenced(f"x = 1  {comment}\ny = 1\n")
    assert not silenced(f"x = 1  {comment}\ny = 1\n", line=2)


@pytest.mark.parametrize(
    "comment",
    [
        "# noqa: AMP205",
        "# noqa: E501",
        "# noqa:",
        "# noqa: because",
        "# noqa-file",
        "# noqas",
        "# noqa: AMP2045",
        "# no qa",
        "# flake8: noqa",
        "# ruff: noqa: AMP204",
        "# type: ignore",
        "# type: ignore[AMP204]",
        "# ampconvert: ignore[AMP205]",
        "# ampconvert: ignore[]",
        "# ampconvert: ignored",
        "# ampconvert: ignore[AMP204",
        "# ignore[AMP204]",
        "",
    ],
)
def test_does_not_silence_its_line(comment: str) -> None:
    assert not silenced(f"x = 1  {comment}\n")


def test_a_string_is_no_comment() -> None:
    assert not silenced('x = "# noqa"\n')
    assert not silenced('x = """\n# ampconvert: noqa\n"""\n')
    assert not silenced("x = '#' + '# noqa: AMP204'\n")
    assert silenced("x = '#' + ''  # noqa: AMP204\n")


MANY_LINES = """\
before = 0
result = call(  {first}
    first,  {middle}
    second,
)  {last}
after = 0
"""


def lines_silenced(**comments: str) -> set[int]:
    text = MANY_LINES.format(**dict.fromkeys(("first", "middle", "last"), "") | comments)
    return {line for line in range(1, 7) if silenced(text, line=line)}


def test_of_a_statement_the_first_and_last_line_stand_for_all() -> None:
    assert lines_silenced(first="# noqa: AMP204") == {2, 3, 4, 5}
    assert lines_silenced(last="# noqa") == {2, 3, 4, 5}
    assert lines_silenced(middle="# noqa: AMP204") == {3}


def test_a_finding_is_also_silenced_on_its_own_last_line() -> None:
    text = "f(\n    g(\n        1,\n    ),  # noqa: AMP204\n)\n"
    assert silenced(text, line=2, end=4)
    assert not silenced(text, line=2, end=3)
    # The last line of a body says nothing of the header's finding.
    assert not silenced("with a:\n    x = 1  # noqa\n", line=1, end=2)


def test_a_header_ends_at_its_colon() -> None:
    text = "with (\n    a,\n    b,\n):  # noqa: AMP204\n    x = 1\n"
    assert [silenced(text, line=line) for line in range(1, 6)] == [True] * 4 + [False]


def test_the_last_line_of_a_long_string() -> None:
    text = 'f("""\n# noqa\ntext\n""", 1)  # noqa: AMP204\n'
    assert silenced(text, line=1) and silenced(text, line=3)


@pytest.mark.parametrize("gap", ["", "\n", "# something else\n", "    \n"])
def test_on_its_own_line_it_stands_for_what_comes_next(gap: str) -> None:
    text = f"a = 1\n# ampconvert: ignore[AMP204]\n{gap}f(\n    1,\n)\nb = 1\n"
    first = 4 if gap else 3
    found = {line for line in range(1, 9) if silenced(text, line=line)}
    assert found == {first, first + 1, first + 2}


def test_on_its_own_line_above_decorators() -> None:
    text = "# ampconvert: ignore\n@a\n@b(\n    1)\ndef f(\n    x,\n):\n    return x\n"
    assert {line for line in range(1, 9) if silenced(text, line=line)} == {2, 3, 4, 5, 6, 7}


def test_on_its_own_line_inside_brackets() -> None:
    text = "f(\n    # ampconvert: ignore[AMP204]\n\n    # two\n    a=1,\n    b=2,\n)\n"
    assert {line for line in range(1, 8) if silenced(text, line=line, end=8)} == {5}


def test_on_its_own_line_noqa_stands_for_nothing() -> None:
    assert not silenced("# noqa: AMP204\nx = 1\n", line=2)


@pytest.mark.parametrize("before", ["", "x = 1\n\n", "if x:\n    y\n    "])
def test_the_whole_file(before: str) -> None:
    for code in ("", ": AMP204", ": E501, AMP2"):
        text = f"z = 1\n{before}# ampconvert: noqa{code}\n"
        assert silenced(text, line=1)
        assert silenced(text, "AMP301") == (code == "")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_any_line_end(end: str) -> None:
    text = "x = 1\nf(\n  1,\n)  # noqa\ny = 2  # noqa: AMP204, E501\n".replace("\n", end)
    assert [silenced(text, line=line) for line in range(1, 6)] == [False, True, True, True, True]
    assert mended(text) == text.replace("# noqa: AMP204, E501", "# noqa: E501")


@pytest.mark.parametrize(
    "text", ["x = (  # noqa\n", "x = '''\n# noqa", "\tx\n  y  # noqa\n", "x = $ # noqa\n", "# noqa"]
)
def test_what_is_no_python_is_read_as_far_as_it_goes(text: str) -> None:
    suppressions(text)


def test_a_file_that_cannot_be_read_is_silenced_too() -> None:
    broken = "# ampconvert: noqa: AMP901\nimport torch\nprint 1\n"
    assert engine.check(broken, selected(["AMP901"])) == []
    assert engine.check(broken.replace("AMP901", "AMP204"), selected(["AMP901"])) != []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("x = 1  # noqa: AMP204\n", "x = 1\n"),
        ("x = 1  # noqa: AMP204, E501\n", "x = 1  # noqa: E501\n"),
        ("x = 1  # noqa:E501,AMP204,W291 and why\n", "x = 1  # noqa:E501, W291 and why\n"),
        ("x = 1  # noqa: AMP204 and why\n", "x = 1  # and why\n"),
        ("x = 1  # noqa: AMP204  # type: ignore\n", "x = 1  # type: ignore\n"),
        ("x = 1  # type: ignore  # noqa: AMP204\n", "x = 1  # type: ignore\n"),
        ("if x:\n    # ampconvert: ignore[AMP204]\n    y\n", "if x:\n    y\n"),
        ("# ampconvert: noqa: AMP204\nx = 1\n", "x = 1\n"),
        ("# ampconvert: noqa\nx = 1\n", "x = 1\n"),
        ("x = 1  # ampconvert: ignore", "x = 1"),
        ("# ampconvert: ignore[AMP999]", ""),
        ("f(1,  # noqa: AMP204\n  2)\n", "f(1,\n  2)\n"),
        ("# ampconvert: noqa\n# two\n# coding: latin-1\n", "\n# two\n# coding: latin-1\n"),
        ("x = 'ä'  # noqa: AMP204\n", "x = 'ä'\n"),
    ],
)
def test_what_silences_nothing_is_removed(before: str, after: str) -> None:
    assert [f.code for f in unused(before)] == ["AMP900"]
    assert mended(before) == after
    assert unused(after) == []


@pytest.mark.parametrize(
    "text",
    [
        "x = 1  # noqa\n",
        "x = 1  # noqa: E501\n",
        "x = 1  # noqa: AMP900\n",
        "x = 1  # noqa: AMP901\n",
        "x = 1  # noqa: AMP204, AMP900\n",
        "x = 1  # noqa: AMPLE1\n",
        "x = '# noqa: AMP204'\n",
        "# ampconvert: noqa: AMP900\nx = 1  # noqa: AMP204\n",
    ],
)
def test_what_is_left_alone(text: str) -> None:
    assert unused(text) == []


def test_only_its_own_code_silences_the_rule_on_unused_comments() -> None:
    text = "x = 1  # ampconvert: ignore\n"
    assert len(unused(text)) == 1
    assert len(unused("x = 1  # noqa  # noqa: AMP204\n")) == 1


def test_a_rule_that_is_not_selected_is_asked_whether_its_comment_is_used() -> None:
    text = "import torch\n\ntorch.cuda.amp.autocast()  # noqa: AMP001\n"
    assert unused(text) == []
    assert len(unused(text.replace("cuda.", ""))) == 1


def test_a_code_can_be_taken_out_of_a_comment() -> None:
    text = "x = 1  # noqa: AMP204, AMP301\n"
    (comment,) = suppressions(text)
    edit = without(text, comment, ["AMP204"])
    assert text[: edit.start] + edit.text + text[edit.end :] == "x = 1  # noqa: AMP301\n"


CASES = [
    pytest.param(rule, case, id=f"{rule.CODE}-{number}")
    for rule in all_rules()
    for number, case in enumerate(rule.INVALID)
    if rule.CODE not in ("AMP900", "AMP901")
]


@pytest.mark.parametrize(("rule", "case"), CASES)
def test_noqa_at_a_finding_silences_it_and_no_other(rule, case) -> None:  # type: ignore[no-untyped-def]
    found = engine.check(case.text, [rule], settings=case.settings)
    lines = case.text.splitlines()
    for one in found:
        changed = list(lines)
        changed[one.where.line - 1] += f"  # noqa: {rule.CODE}"
        left = engine.check("\n".join(changed), [rule], settings=case.settings)
        # Others on that line, or in that statement if the line is its first or last, go with it.
        assert one.where.line not in {f.where.line for f in left}
        assert {(f.where, f.message) for f in left} < {(f.where, f.message) for f in found}
        other = "\n".join(changed).replace(f"# noqa: {rule.CODE}", "# noqa: E501")
        assert len(engine.check(other, [rule], settings=case.settings)) == len(found)


@pytest.mark.parametrize(("rule", "case"), CASES)
def test_noqa_everywhere_is_used_where_something_is_found(rule, case) -> None:  # type: ignore[no-untyped-def]
    found = engine.check(case.text, [rule], settings=case.settings)
    wanted = {f.where.line for f in found}
    lines = [
        f"{line}  # noqa: {rule.CODE}" if number in wanted else line
        for number, line in enumerate(case.text.splitlines(), 1)
    ]
    text = "\n".join(lines)
    assert engine.check(text, [rule, UNUSED], settings=case.settings) == []
    assert engine.fix(text, [rule, UNUSED], settings=case.settings, unsafe=True).text == text
