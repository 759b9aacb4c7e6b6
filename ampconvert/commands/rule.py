"""`ampconvert rule`: the table of lint rules, or the page of one."""

from __future__ import annotations

import difflib
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from ampconvert.commands.outcome import DONE, Outcome
from ampconvert.errors import UserError
from ampconvert.lint.catalogue import all_rules
from ampconvert.lint.page import headline, page
from ampconvert.lint.rule import Rule
from ampconvert.report.progress import StageLine


def run(options: Namespace, progress: StageLine) -> Outcome:
    """Show all lint rules, or one by its code or name."""
    from ampconvert.report import lint as pages

    rules = all_rules()
    if options.name is None:
        return Outcome(DONE, lambda: pages.rule_table(rules), lambda: _data(rules))
    found = _named(rules, options.name)
    return Outcome(DONE, lambda: pages.rule_page(found), lambda: _data([found]))


def _named(rules: Sequence[Rule], name: str) -> Rule:
    """The rule with that code or name; UserError with near ones."""
    for rule in rules:
        if name.upper() == rule.CODE or name.lower() == rule.NAME:
            return rule
    known = [word for rule in rules for word in (rule.CODE, rule.NAME)]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    hint = f"did you mean {', '.join(near)}?" if near else "`ampconvert rule` lists them all"
    raise UserError(f"no lint rule is called {name!r}; {hint}")


def _data(rules: Sequence[Rule]) -> dict[str, Any]:
    return {
        "rules": [
            {
                "code": rule.CODE,
                "name": rule.NAME,
                "severity": rule.SEVERITY,
                "default": rule.DEFAULT,
                "fix": rule.FIX,
                "headline": headline(rule),
                "page": page(rule),
            }
            for rule in rules
        ]
    }
