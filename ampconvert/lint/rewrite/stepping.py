"""Scaled backward passes, steps, and one update of the scale behind them."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator, Sequence

from ampconvert.lint.rewrite.changes import Insert, Plan, Replace
from ampconvert.lint.rewrite.names import Fresh
from ampconvert.lint.rewrite.roles import Area
from ampconvert.lint.rewrite.scalers import Scalers
from ampconvert.lint.rewrite.schedules import Schedules
from ampconvert.lint.rewrite.script import Script, Stepped
from ampconvert.lint.rewrite.unscaling import Unscaling

_WHY_UPDATE = (
    "update() adapts the scale and forgets which optimizers were unscaled: it comes once, after "
    "the last step"
)


class Stepping:
    """Plans what a loop does with gradients."""

    def __init__(self, script: Script, plan: Plan, fresh: Fresh, scalers: Scalers) -> None:
        self._script = script
        self._plan = plan
        self._fresh = fresh
        self._scalers = scalers
        self._updates: list[tuple[ast.stmt, Area]] = []
        self._unscaling = Unscaling(script, plan, scalers)

    def make(self) -> None:
        """Plan all of it."""
        for backward in self._script.backwards:
            scaler = self._scalers.at(backward.area, backward.call)
            self._plan.add(
                Replace(backward.loss, f"{scaler}.scale({{}})"),
                backward.call.lineno, "scale the loss before backward",
                "so that small gradients stay inside float16's range",
            )  # fmt: skip
        for step in self._script.steps:
            scaler = self._scalers.at(step.area, step.call)
            optimizer = self._script.source.segment(step.what)
            self._plan.add(
                Replace(step.call, f"{scaler}.step({optimizer})"),
                step.call.lineno, f"{scaler}.step({optimizer}) instead of {optimizer}.step()",
                "it divides the gradients by the scale, and skips the step if one is not finite",
            )  # fmt: skip
            self._unscaling.before(step, scaler)
        self._unscaling.elsewhere()
        for area, steps in self._groups():
            self._update(area, steps)
        self._leave_early()
        Schedules(self._script, self._plan, self._fresh, self._scalers, self._updates).make()

    def _groups(self) -> list[tuple[Area, list[Stepped]]]:
        """Steps of one iteration: those of one function in the same innermost loop."""
        found: dict[tuple[Area, ast.AST | None], list[Stepped]] = {}
        for step in self._script.steps:
            loop = self._script.innermost_loop(step.outer, step.area)
            found.setdefault((step.area, loop), []).append(step)
        return [(area, steps) for (area, _), steps in found.items()]

    def _update(self, area: Area, steps: list[Stepped]) -> None:
        """One update after the last step on every path that steps."""
        scaler = self._scalers.at(area, steps[-1].call)
        outer = [self._unscaling.outer.get(s.outer, s.outer) for s in steps]
        for at in self._places(outer):
            self._refuse_rarer(steps, at)
            self._updates.append((at, area))
            self._plan.add(
                Insert(at, f"{scaler}.update()", after=True),
                at.end_lineno or at.lineno, f"{scaler}.update() after the last step", _WHY_UPDATE,
            )  # fmt: skip

    def _refuse_rarer(self, steps: list[Stepped], update: ast.stmt) -> None:
        """An optimizer that gathers gradients over several updates of the scale."""
        source, roles = self._script.source, self._script.roles
        sure = [s for s in steps if source.block(s.outer) is source.block(update)]
        for step in steps:
            if not sure or step in sure:
                continue
            guard = next(a for a in [step.outer, *source.ancestors(step.outer)]
                         if a in source.block(update))  # fmt: skip
            modules = self._unscaling.optimized(step)
            cleared = [
                c for c in source.names.methods("zero_grad")
                if isinstance(c.func, ast.Attribute) and roles.area(c) is step.area and (
                    ast.dump(c.func.value) == ast.dump(step.what)
                    or self._unscaling.keys(c.func.value) & modules)
            ]  # fmt: skip
            if cleared and all(guard in source.ancestors(c) for c in cleared):
                raise self._script.refuse(
                    step.call, "this optimizer steps less often than the other, and adds up "
                    "gradients over several updates of the scale, which may change in between",
                    "clear its gradients in every iteration, or use --dtype bf16, which needs no "
                    "scaler",
                )  # fmt: skip

    def _places(self, steps: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
        """The statements after which to update, where `steps` are those that step."""
        source = self._script.source
        if len(set(steps)) == 1:
            yield steps[0]
            return
        chains = [[s, *source.ancestors(s)] for s in steps]
        block: list[ast.stmt] = []
        children: list[ast.stmt] = []
        for level in chains[0]:
            if isinstance(level, ast.stmt):
                block = source.block(level)
                inside = [next((n for n in chain if n in block), None) for chain in chains]
                if all(n is not None for n in inside):
                    children = [n for n in dict.fromkeys(inside) if isinstance(n, ast.stmt)]
                    break
        children.sort(key=lambda s: s.lineno)
        sure = [c for c in children if c in steps]
        if sure:
            yield children[-1]
            return
        self._refuse_mixed(children, block)
        for child in children:
            below = [s for s in steps if child in set(source.ancestors(s))]
            for part in _parts(child):
                here = [s for s in below if any(n in part for n in (s, *source.ancestors(s)))]
                if here:
                    yield from self._places(here)

    def _refuse_mixed(self, children: list[ast.stmt], block: list[ast.stmt]) -> None:
        """Steps under conditions of their own, whose gradients were all made before."""
        for earlier, later in itertools.pairwise(children):
            between = block[block.index(earlier) + 1 : block.index(later) + 1]
            if not any(self._script.does_backward(s) for s in between):
                raise self._script.refuse(
                    later, "two optimizers step under conditions of their own after one backward, "
                    "so no place for the scaler's update is right on every path",
                    "step both under one condition",
                )  # fmt: skip

    def _leave_early(self) -> None:
        """`continue` between unscale_ and update: the next unscale_ would raise."""
        source = self._script.source
        for at, step in self._unscaling.done:
            last = max((u.end_lineno or u.lineno for u, area in self._updates
                        if area is step.area), default=0)  # fmt: skip
            scaler = self._scalers.at(step.area, step.call)
            for leaving in source.nodes(ast.Continue, ast.Break):
                self._update_before(leaving, at, last, step, scaler)
            for returning in source.nodes(ast.Return):
                self._update_before(returning, at, last, step, scaler)

    def _update_before(
        self, leaving: ast.stmt, at: ast.stmt, last: int, step: Stepped, scaler: str
    ) -> None:
        script = self._script
        inside = script.roles.area(leaving) is step.area
        if not isinstance(leaving, ast.Return):  # one out of a loop over parameters stays inside
            inside &= script.innermost_loop(leaving, step.area) is script.innermost_loop(
                at, step.area
            )
        if not inside or not at.lineno < leaving.lineno <= last:
            return
        if any(isinstance(c, Insert) and c.at is leaving for c in self._plan.changes):
            return
        self._plan.add(
            Insert(leaving, f"{scaler}.update()"),
            leaving.lineno, f"{scaler}.update() on this way out too",
            "gradients were unscaled, and a second unscale_ without an update in between raises",
        )  # fmt: skip


def _parts(statement: ast.stmt) -> list[list[ast.stmt]]:
    found = [getattr(statement, name, None) for name in ("body", "orelse", "finalbody")]
    handlers = [h.body for h in getattr(statement, "handlers", ())]
    return [part for part in (*found, *handlers) if part]
