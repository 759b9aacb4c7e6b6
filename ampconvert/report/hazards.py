"""The hazards of a model on a page and as data: open ones first, equal ones together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import RenderableType
from rich.text import Text

from ampconvert.dtypes import Low
from ampconvert.findings import SEVERITIES, Finding, Severity
from ampconvert.report.layout import BAD, BLANK, QUIET, STRONG, WARN, heading, indented, table
from ampconvert.report.words import plural, type_name

STYLES: dict[Severity, str] = {"error": BAD, "warning": WARN, "info": ""}


@dataclass(frozen=True)
class Group:
    """Findings of one hazard that are alike in severity and in how they were handled; the first of
    them stands for all.
    """

    first: Finding
    count: int


def section(findings: Sequence[Finding], low: Low) -> Iterator[RenderableType]:
    """The hazards of running a model in `low`; nothing where there are none."""
    if not findings:
        return
    groups = grouped(findings)
    todo = [group for group in groups if group.first.is_open]
    done = [group for group in groups if not group.first.is_open]
    yield BLANK
    yield heading("Hazards", _counts(findings, low))
    rows = table("", "", fold=(1,))
    rows.show_header = False
    for group in todo:
        rows.add_row(Text(group.first.code, style=STYLES[group.first.severity]), _told(group))
    for group in done:
        rows.add_row(Text(group.first.code, style=QUIET), _settled(group))
    yield indented(rows)


def grouped(findings: Sequence[Finding]) -> list[Group]:
    """Findings of one hazard, severity and way of being handled together: the open ones before
    the others, the worst first.
    """
    together: dict[tuple[str, Severity, str], list[Finding]] = {}
    for found in findings:
        together.setdefault((found.code, found.severity, found.handled), []).append(found)
    groups = [Group(members[0], len(members)) for members in together.values()]
    return sorted(groups, key=_rank)


def _rank(group: Group) -> tuple[bool, int, str]:
    first = group.first
    return not first.is_open, SEVERITIES.index(first.severity), first.code


def _counts(findings: Sequence[Finding], low: Low) -> str:
    todo = sum(found.is_open for found in findings)
    told = f"{todo:,} open in {type_name(low)}"
    handled = len(findings) - todo
    return f"{told}, {handled:,} handled by the plan" if handled else told


def _told(group: Group) -> Text:
    """What is wrong, where, how often, and what to do."""
    first = group.first
    return Text.assemble(
        (first.name, STRONG), f"  {_place(group)}\n", f"{first.message}\n", (first.advice, QUIET)
    )


def _settled(group: Group) -> Text:
    first = group.first
    return Text(f"{first.name}  {_place(group)}: {first.handled}", style=QUIET)


def _place(group: Group) -> str:
    if group.count == 1:
        return str(group.first.where)
    return f"{plural(group.count, 'place')}, first {group.first.where}"
