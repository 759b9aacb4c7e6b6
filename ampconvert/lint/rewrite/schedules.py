"""Schedulers that are stepped in every iteration: not when the optimizer's step was skipped."""

from __future__ import annotations

import ast

from ampconvert.lint.rewrite.changes import Insert, Plan, Wrap
from ampconvert.lint.rewrite.names import Fresh
from ampconvert.lint.rewrite.roles import Area
from ampconvert.lint.rewrite.scalers import Scalers
from ampconvert.lint.rewrite.script import Script, Stepped


class Schedules:
    """Plans their guards. `updates` are the statements that `scaler.update()` follows."""

    def __init__(
        self,
        script: Script,
        plan: Plan,
        fresh: Fresh,
        scalers: Scalers,
        updates: list[tuple[ast.stmt, Area]],
    ) -> None:
        self._script = script
        self._plan = plan
        self._fresh = fresh
        self._scalers = scalers
        self._updates = updates

    def make(self) -> None:
        """Guard schedulers that are stepped in every iteration against skipped steps."""
        done: set[ast.stmt] = set()
        guarded: set[ast.stmt] = set()
        for schedule in self._script.schedules:
            if schedule.outer in done:
                continue
            update = self._update_of(schedule)
            if update is None:
                continue
            scaler = self._scalers.at(schedule.area, schedule.call)
            block = self._script.source.block(schedule.outer)
            last = schedule.outer
            for other in self._script.schedules:
                if other.outer in block and block.index(other.outer) == block.index(last) + 1:
                    last = other.outer
                    done.add(last)
            place = self._before_update(update, schedule.outer)
            before = self._fresh.scale_before
            if place not in guarded:
                guarded.add(place)
                taken = f"{before} = {scaler}.get_scale()"
                if place is update:
                    self._before_own_update(update, taken)
                else:
                    self._plan.add(Insert(place, taken))
            self._plan.add(
                Wrap(schedule.outer, last, f"if {scaler}.get_scale() >= {before}:"),
                schedule.call.lineno, "step the scheduler only if the optimizer's step was taken",
                "the scale falls if and only if gradients overflowed and the step was skipped",
            )  # fmt: skip

    def _update_of(self, schedule: Stepped) -> ast.stmt | None:
        """The update before a scheduler's step in the same iteration, or None."""
        loop = self._script.innermost_loop(schedule.outer, schedule.area)
        found = None
        for at, area in self._updates:
            if area is not schedule.area or at.lineno > schedule.outer.lineno:
                continue
            if at is schedule.outer:
                self._plan.note(
                    f"line {schedule.call.lineno}: the scheduler steps in the loop over "
                    "optimizers, so also where an optimizer's step is skipped"
                )
                return None
            if self._script.innermost_loop(at, area) is loop:
                found = at
        if found is None and any(
            area is schedule.area and self._script.innermost_loop(at, area) is loop
            for at, area in self._updates
        ):
            self._plan.note(
                f"line {schedule.call.lineno}: the scheduler steps before the optimizer; it should "
                "come after scaler.update(), and only if the step was taken"
            )
        return found

    def _before_update(self, update: ast.stmt, schedule: ast.stmt) -> ast.stmt:
        """The statement in a block around the scheduler's step in which the update is."""
        source = self._script.source
        above = {schedule, *source.ancestors(schedule)}
        at: ast.AST = update
        while isinstance(at, ast.stmt) and not any(s in above for s in source.block(at)):
            at = source.parents[at]
        assert isinstance(at, ast.stmt)
        return at

    def _before_own_update(self, update: ast.stmt, text: str) -> None:
        """Put `text` between the step and the update that follows it."""
        for i, change in enumerate(self._plan.changes):
            if not isinstance(change, Insert) or change.at is not update or not change.after:
                continue
            if change.text.endswith(".update()"):
                self._plan.changes.insert(i, Insert(update, text, after=True))
                return
