"""The rules that there are, and which of them run."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from functools import cache
from importlib import import_module

from ampconvert.lint import rules
from ampconvert.lint.rule import Rule


@cache
def all_rules() -> tuple[Rule, ...]:
    """One object of every rule in ampconvert/lint/rules, by code."""
    found = []
    for module in pkgutil.iter_modules(rules.__path__):
        loaded = import_module(f"{rules.__name__}.{module.name}")
        classes = [one for one in vars(loaded).values() if isinstance(one, type)]
        found += [
            one()
            for one in classes
            if issubclass(one, Rule) and one.__module__ == loaded.__name__ and "CODE" in vars(one)
        ]
    return tuple(sorted(found, key=lambda rule: rule.CODE))


def selected(
    select: Iterable[str] | None = None, ignore: Iterable[str] = (), extend: Iterable[str] = ()
) -> tuple[Rule, ...]:
    """The rules whose codes begin with one of `select`, without those of `ignore`.

    `select` None: those that are on by default, and those that `extend` names. As in ruff, the
    longer of two that fit decides: select AMP2, ignore AMP20, select AMP204 keeps AMP204.
    """
    wanted = None if select is None else list(select)
    unwanted, more = list(ignore), list(extend)

    def longest(code: str, given: list[str]) -> int:
        return max((len(one) for one in given if one == "ALL" or code.startswith(one)), default=-1)

    kept = []
    for rule in all_rules():
        on = longest(rule.CODE, wanted) if wanted is not None else (0 if rule.DEFAULT else -1)
        on = max(on, longest(rule.CODE, more))
        off = longest(rule.CODE, unwanted)
        if on > off or (on == off and on >= 0 and not unwanted):
            kept.append(rule)
    return tuple(kept)
