"""The reference pages that there are."""

from __future__ import annotations

from ampconvert.reference import command_line, conditions, op_rules, targets

PAGES = {
    "cli": command_line.page,
    "op-rules": op_rules.page,
    "conditions": conditions.page,
    "targets": targets.page,
}


def page(name: str) -> str:
    """docs/reference/NAME.md as Markdown. Raises KeyError for a name that PAGES does not hold."""
    return PAGES[name]()


def command(name: str) -> str:
    """What a shell runs to write that page again."""
    return f"python -m ampconvert.reference {name} > docs/reference/{name}.md"
