"""The page of `ampconvert diff`: what a new plan has decided otherwise than an old one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from ampconvert import __version__
from ampconvert.plan import Plan
from ampconvert.plan_diff import NodePlan, PlanDiff
from ampconvert.report import model_data
from ampconvert.report.jsonable import SCHEMA
from ampconvert.report.layout import BAD, BLANK, GOOD, STRONG, bullets, facts, indented, table
from ampconvert.report.words import figure, plural, type_name, verdict_name
from ampconvert.summary import VERDICTS

SHOWN = 20  # operators, and other differences, that the page lists; --json has all


@dataclass(frozen=True)
class Side:
    """A plan as `ampconvert diff` was given it; `errors` is each output's measured relative L2
    error by name, where the plan's file holds its report.
    """

    path: Path
    plan: Plan
    errors: Mapping[str, float | None]


def drift_page(old: Side, new: Side, found: PlanDiff) -> RenderableType:
    """What `ampconvert diff` prints."""
    said = ("Plans differ", BAD) if found.drifted else ("Plans are the same", GOOD)
    parts: list[RenderableType] = [
        Text.assemble(("ampconvert", STRONG), "  ", said),
        facts(_facts(old, new, found)),
    ]
    if found.changes:
        parts += [BLANK, _table(old, new, found)]
        rest = len(found.changes) - SHOWN
        if rest > 0:
            parts.append(Text(f"and {plural(rest, 'operator')} more, which --json lists"))
        parts += [BLANK, bullets(_reasons(found))]
    if found.other:
        parts += [BLANK, bullets(_first(found.other))]
    return Group(*parts)


def drift_data(old: Side, new: Side, found: PlanDiff) -> dict[str, Any]:
    """What `ampconvert diff --json` prints."""
    return {
        "schema": SCHEMA,
        "command": "diff",
        "version": __version__,
        "drifted": found.drifted,
        "same_graph": found.same_graph,
        "plans": {name: _side(side) for name, side in (("old", old), ("new", new))},
        "nodes": [
            {
                "node": change.node,
                "old": _node(change.old, old.plan.low),
                "new": _node(change.new, new.plan.low),
            }
            for change in found.changes
        ],
        "casts": {"old": found.casts[0], "new": found.casts[1]},
        "other": found.other,
    }


def _facts(old: Side, new: Side, found: PlanDiff) -> Iterator[tuple[str, RenderableType]]:
    yield "Old", str(old.path)
    yield "New", str(new.path)
    if not found.same_graph:
        yield "Graph", f"another one: {old.plan.fingerprint} before, {new.plan.fingerprint} now"
    if found.changes:
        retyped = sum(change.retyped for change in found.changes)
        came = sum(change.old is None for change in found.changes)
        went = sum(change.new is None for change in found.changes)
        rest = len(found.changes) - retyped - came - went
        counts = [(retyped, "in another type"), (rest, "with another verdict"), (came, "new"),
                  (went, "gone")]  # fmt: skip
        yield "Operators", ", ".join(f"{count:,} {what}" for count, what in counts if count)
    gone, made = map(len, found.casts_moved)
    if gone or made:
        yield "Casts", f"{found.casts[0]} before, {found.casts[1]} now: {made} new, {gone} gone"
    for name in old.errors.keys() & new.errors.keys():
        was, now = old.errors[name], new.errors[name]
        yield "Error", f"{name}: relative L2 {figure(was)} before, {figure(now)} now"


def _table(old: Side, new: Side, found: PlanDiff) -> RenderableType:
    rows = table("op", "before", "now", fold=(0, 1, 2))
    for change in found.changes[:SHOWN]:
        rows.add_row(
            change.node, _words(change.old, old.plan.low), _words(change.new, new.plan.low)
        )
    return indented(rows)


def _words(node: NodePlan | None, low: str) -> str:
    if node is None:
        return "absent"
    verdict = verdict_name(VERDICTS[node.decision.cls], low)
    where = f"in {type_name(node.runs_in)}, " if node.runs_in else ""
    return f"{where}{verdict} ({node.decision.rule})" if node.decision.rule else f"{where}{verdict}"


def _reasons(found: PlanDiff) -> Iterator[str]:
    """Why the operators that changed are what they are now, each reason once."""
    told: dict[str, list[str]] = {}
    for change in found.changes:
        if change.new is not None:
            told.setdefault(change.new.decision.reason, []).append(change.node)
    for reason, nodes in list(told.items())[:SHOWN]:
        more = f" and {len(nodes) - 1} more" if len(nodes) > 1 else ""
        yield f"{nodes[0]}{more}: {reason}"


def _first(sentences: tuple[str, ...]) -> list[str]:
    rest = len(sentences) - SHOWN
    return [*sentences[:SHOWN], *([f"{rest:,} more, which --json lists"] if rest > 0 else [])]


def _side(side: Side) -> dict[str, Any]:
    return {
        "path": str(side.path),
        "dtype": side.plan.low,
        "fingerprint": side.plan.fingerprint,
        "errors": side.errors,
    }


def _node(node: NodePlan | None, low: str) -> dict[str, Any] | None:
    if node is None:
        return None
    return {"runs_in": node.runs_in, **model_data.verdict(low, node.decision)}
