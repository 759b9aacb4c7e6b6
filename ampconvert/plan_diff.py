"""What is different between two plans: operators that changed their type or verdict, and the rest.

Reasons and their figures may differ between machines and versions of libraries without anything
else: they are shown beside a change, and are none by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ampconvert.classify import Decision
from ampconvert.plan import Cast, Plan


@dataclass(frozen=True)
class NodePlan:
    """One operator in one plan: the type it runs in (None: it touches no float32), and why."""

    runs_in: str | None
    decision: Decision

    @property
    def choice(self) -> tuple[str | None, str, str, tuple[int, ...]]:
        """What counts when plans are compared."""
        return (self.runs_in, self.decision.cls, self.decision.rule, self.decision.keep)


@dataclass(frozen=True)
class Change:
    """An operator that is not the same in both plans; None in the one that does not have it."""

    node: str
    old: NodePlan | None
    new: NodePlan | None

    @property
    def retyped(self) -> bool:
        """Whether it is in both plans and runs in another type."""
        if self.old is None or self.new is None:
            return False
        return self.old.runs_in != self.new.runs_in


@dataclass(frozen=True)
class PlanDiff:
    """From `old` to `new`. `casts` and `weights` say how many were there before, and are now;
    `other` has a sentence for each difference that is neither of an operator nor of a cast.
    """

    changes: tuple[Change, ...]
    casts: tuple[int, int]
    casts_moved: tuple[tuple[Cast, ...], tuple[Cast, ...]]  # those only in old, those only in new
    other: tuple[str, ...]
    same_graph: bool

    @property
    def drifted(self) -> bool:
        """Whether the two plans make different models."""
        return bool(self.changes or self.other or any(self.casts_moved)) or not self.same_graph


def diff(old: Plan, new: Plan) -> PlanDiff:
    """Everything in which `new` differs from `old`; operators in the order of the plans."""
    names = dict.fromkeys([*old.decisions, *new.decisions])
    before, after = dict.fromkeys(old.casts), dict.fromkeys(new.casts)
    return PlanDiff(
        changes=tuple(change for name in names if (change := _change(name, old, new))),
        casts=(len(old.casts), len(new.casts)),
        casts_moved=(
            tuple(c for c in before if c not in after),
            tuple(c for c in after if c not in before),
        ),
        other=tuple(_others(old, new)),
        same_graph=old.fingerprint == new.fingerprint,
    )


def _change(name: str, old: Plan, new: Plan) -> Change | None:
    before, after = _node(name, old), _node(name, new)
    if before is not None and after is not None and before.choice == after.choice:
        return None
    return Change(name, before, after)


def _node(name: str, plan: Plan) -> NodePlan | None:
    decision = plan.decisions.get(name)
    return None if decision is None else NodePlan(plan.compute.get(name), decision)


def _others(old: Plan, new: Plan) -> Iterator[str]:
    if old.low != new.low:
        yield f"the type is {new.low}, and was {old.low}"
    stored: dict[tuple[str, str], list[str]] = {}
    for name in dict.fromkeys([*old.weights, *new.weights]):
        stored.setdefault((_stored(old, name), _stored(new, name)), []).append(name)
    for (was, now), weights in stored.items():
        if was != now:
            kind = f"weight {weights[0]} is" if len(weights) == 1 else f"{len(weights)} weights are"
            rest = "" if len(weights) == 1 else f": {', '.join(weights)}"
            yield f"{kind} {now} now, {was} before{rest}"
    for name in dict.fromkeys([*old.scalars, *new.scalars]):
        if old.scalars.get(name) != new.scalars.get(name):
            now, was = _numbers(new, name), _numbers(old, name)
            yield f"{name} has the mask constants {now}, and had {was}"
    if old.masks != new.masks:
        yield "other values are clamped as masks: " + ", ".join(sorted(old.masks ^ new.masks))
    if old.io != new.io:
        yield "other inputs or outputs change their type: " + ", ".join(sorted(old.io ^ new.io))
    if [_structure(r) for r in old.repairs] != [_structure(r) for r in new.repairs]:
        yield f"other repairs are made: {len(new.repairs)} now, and {len(old.repairs)} before"


def _stored(plan: Plan, weight: str) -> str:
    types = plan.weights.get(weight)
    return f"stored in {' and '.join(types)}" if types else "absent"


def _structure(value: Any) -> Any:
    """A repair without its numbers, which are measured on data."""
    if isinstance(value, Mapping):
        return {name: _structure(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_structure(inner) for inner in value]
    return None if isinstance(value, float) else value


def _numbers(plan: Plan, node: str) -> str:
    given = plan.scalars.get(node, {})
    return ", ".join(f"{name}={value:g}" for name, value in given.items()) or "none"
