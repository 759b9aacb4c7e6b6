"""Every lint rule's own examples: found where they say, fixed as they say, and stable after."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from ampconvert.findings import SEVERITIES
from ampconvert.lint import engine, page
from ampconvert.lint.catalogue import all_rules
from ampconvert.lint.rule import Case, Rule
from benchmarks.lint import precision

RULES = all_rules()


def examples(kind: str) -> list[object]:
    return [
        pytest.param(rule, case, id=f"{rule.CODE}-{number}")
        for rule in RULES
        for number, case in enumerate(getattr(rule, kind))
    ]


def marked(rule: Rule, text: str) -> list[int]:
    """The lines that end with `# AMPnnn`."""
    return [
        number
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(rf"#.*\b{rule.CODE}\b", line)
    ]


@pytest.mark.parametrize(("rule", "case"), examples("INVALID"))
def test_found_at_the_marked_lines(rule: Rule, case: Case) -> None:
    found = engine.check(case.text, [rule], settings=case.settings)
    assert sorted({f.where.line for f in found}) == marked(rule, case.text) != []
    assert {f.code for f in found} == {rule.CODE}


@pytest.mark.parametrize(("rule", "case"), examples("VALID"))
def test_not_found(rule: Rule, case: Case) -> None:
    ast.parse(case.text)
    assert engine.check(case.text, [rule], settings=case.settings) == []


@pytest.mark.parametrize(("rule", "case"), examples("INVALID"))
def test_fixed_as_it_says(rule: Rule, case: Case) -> None:
    fixed = engine.fix(case.text, [rule], settings=case.settings, unsafe=True)
    assert fixed.text == (case.text if case.fixed is None else case.fixed)
    assert engine.parses(fixed.text) == engine.parses(case.text)
    again = engine.fix(fixed.text, [rule], settings=case.settings, unsafe=True)
    assert again.text == fixed.text


@pytest.mark.parametrize(("rule", "case"), examples("INVALID"))
def test_safe_fixes_are_declared(rule: Rule, case: Case) -> None:
    fixes = [f.fix for f in engine.check(case.text, [rule], settings=case.settings) if f.fix]
    assert not fixes or rule.FIX != "none"
    if rule.FIX in ("safe", "unsafe"):
        assert all(fix.safe == (rule.FIX == "safe") for fix in fixes)


@pytest.mark.parametrize(("rule", "case"), examples("INVALID") + examples("VALID"))
def test_the_words_let_every_example_through(rule: Rule, case: Case) -> None:
    if case in rule.INVALID:
        assert rule.may_concern(case.text.encode(), case.settings)


def test_no_code_or_name_stands_twice() -> None:
    assert len({r.CODE for r in RULES}) == len({r.NAME for r in RULES}) == len(RULES)


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.CODE)
def test_has_a_page(rule: Rule) -> None:
    text = type(rule).__doc__ or ""
    assert re.fullmatch(r"AMP[0-59]\d\d", rule.CODE) and re.fullmatch(r"[a-z0-9-]+", rule.NAME)
    assert re.search(r"Sources?: (https://\S+\s*,?\s*(and )?)+$", text.strip())
    assert text.split("\n\n")[0].endswith(".")
    assert rule.SEVERITY in SEVERITIES and rule.ADVICE.endswith(".")
    assert (rule.FIX == "none") == (rule.FIX_SAFETY == "")
    assert len(rule.VALID) >= 2 and len(rule.INVALID) >= 1
    has_fix = any(case.fixed is not None for case in rule.INVALID)
    assert has_fix == (rule.FIX != "none"), "an example shows the fix"


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.CODE)
def test_the_share_of_true_findings_is_that_of_the_judgments(rule: Rule) -> None:
    found = precision.shares().get(rule.CODE)
    assert (None if rule.JUDGED is None else (rule.JUDGED.true, rule.JUDGED.read)) == found
    if rule.DEFAULT and rule.JUDGED is not None:
        assert rule.JUDGED.true >= 0.9 * rule.JUDGED.read


def test_the_page_of_all_rules_is_fresh() -> None:
    held = (Path(__file__).parents[2] / "docs/lint-rules.md").read_text(encoding="utf-8")
    assert held == page.pages(), "python -m ampconvert.lint > docs/lint-rules.md"
