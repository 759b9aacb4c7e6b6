"""Where gradients are read between backward and step: there their scale is taken off before."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from ampconvert.lint.rewrite.changes import Insert, Plan
from ampconvert.lint.rewrite.scalers import Scalers
from ampconvert.lint.rewrite.script import Script, Stepped
from ampconvert.lint.source import Source


class Unscaling:
    """Plans `unscale_` for one step after the other.

    `done` are the statements before which it was put, and for which step. `outer` says of a step
    under a condition that the condition stands after the reading: the update goes behind it too.
    """

    def __init__(self, script: Script, plan: Plan, scalers: Scalers) -> None:
        self._script = script
        self._plan = plan
        self._scalers = scalers
        self.outer: dict[ast.stmt, ast.stmt] = {}
        self.done: list[tuple[ast.stmt, Stepped]] = []

    def before(self, step: Stepped, scaler: str) -> None:
        """`unscale_` before the first statement between backward and step that reads gradients."""
        source = self._script.source
        child: ast.stmt = step.statement
        while True:
            block = source.block(child)
            first, complete = self._first_reading(block, child)
            if first is not None:
                self._refuse_joint(step, block[block.index(first) : block.index(child)])
                if child is not step.statement and child is not step.loop:
                    self._refuse_accumulated(step, child, first)
                    self.outer[step.outer] = child
                self._insert(step, first, scaler, inside=child is step.statement)
                return
            above = source.parents[child]
            if complete or not isinstance(above, ast.stmt) or above is step.area:
                return
            if isinstance(above, ast.For | ast.While | ast.AsyncFor) and above is not step.loop:
                return
            child = above

    def elsewhere(self) -> None:
        """Gradients that are read after backward in a function that takes no step."""
        stepping = {s.area for s in self._script.steps}
        for backward in self._script.backwards:
            if backward.area in stepping:
                continue
            statement = self._script.source.statement(backward.call)
            block = self._script.source.block(statement)
            read = next(
                (s for s in block[block.index(statement) + 1 :] if self._script.reads_gradients(s)),
                None,
            )
            if read is None:
                continue
            scaler = self._scalers.at(backward.area, backward.call)
            owner = self._script.source.class_of(backward.call)
            own = [s for s in self._script.steps if self._script.source.class_of(s.call) is owner]
            if not scaler.startswith("self.") or len({ast.dump(s.what) for s in own}) != 1:
                raise self._script.refuse(
                    read, "gradients are read in a function that doesn't step their optimizer",
                    "move backward, this and optimizer.step() into one function",
                )  # fmt: skip
            self._insert(own[0], read, scaler, inside=True)

    def _first_reading(
        self, block: Sequence[ast.stmt], until: ast.stmt
    ) -> tuple[ast.stmt | None, bool]:
        """The first statement before `until` and after the last backward that reads gradients, and
        whether there was a backward.
        """
        before = list(block[: block.index(until)])
        start = 0
        for i, statement in enumerate(before):
            if self._script.does_backward(statement) or self._script.does_step(statement):
                start = i + 1
        found = [s for s in before[start:] if self._script.reads_gradients(s)]
        return (found[0] if found else None), start > 0

    def _insert(self, step: Stepped, at: ast.stmt, scaler: str, *, inside: bool) -> None:
        optimizer = self._script.source.segment(step.what)
        text = f"{scaler}.unscale_({optimizer})"
        if step.loop is not None and not inside:
            header = self._script.source.segment(step.loop.target)
            over = self._script.source.segment(step.loop.iter)
            text = f"for {header} in {over}:\n    {text}"
        if any(place is at and s.what is not step.what and ast.dump(s.what) == ast.dump(step.what)
               for place, s in self.done):  # fmt: skip
            return
        self.done.append((at, step))
        self._plan.add(
            Insert(at, text),
            at.lineno, f"{scaler}.unscale_({optimizer}) before gradients are read",
            "until then they are multiplied by the scale, 65536 at first: a norm clipped at 1.0 "
            "would leave next to nothing of them",
        )  # fmt: skip

    def _refuse_accumulated(self, step: Stepped, guard: ast.stmt, read: ast.stmt) -> None:
        """Clipping in every micro-batch, and a step only in some of them, can't be unscaled."""
        source = self._script.source
        cleared = source.names.methods("zero_grad")
        inside = [c for c in cleared if guard in set(source.ancestors(c))]
        loop = self._script.innermost_loop(guard, step.area)
        beside = [c for c in cleared if c not in inside and loop is not None
                  and loop in set(source.ancestors(c))]  # fmt: skip
        if inside and not beside:
            raise self._script.refuse(
                read, "gradients are read in every micro-batch, but stepped only in some: their "
                "scale can be taken off only once before a step",
                "move this under the `if` with optimizer.step(), before it",
            )  # fmt: skip

    def _refuse_joint(self, step: Stepped, between: Sequence[ast.stmt]) -> None:
        """A norm over the gradients of several optimizers: where those of one overflowed, the
        others' become NaN, which their own check, made before, knows nothing of.
        """
        source, roles = self._script.source, self._script.roles
        others = [
            s for s in self._script.steps
            if s.area is step.area and s.outer is not step.outer
            and not any(self._script.does_backward(b) for b in _between(source, step, s))
        ]  # fmt: skip
        if not others and (step.loop is None or not between):
            return
        for statement in between:
            for node in [statement, *source.walk(statement)]:
                if not isinstance(node, ast.Call) or not source.names.is_one(
                    node.func, "torch.nn.utils.clip_grad_norm_"
                ):
                    continue
                bases = [
                    n.func.value for n in source.walk(node)
                    if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)
                    and n.func.attr == "parameters"
                ]  # fmt: skip
                clipped = [self.keys(b) for b in bases if not roles.is_element(b)]
                single = len(bases) == 1 and all(len(c) == 1 for c in clipped)
                of_one = all(
                    sum(bool(c & self.optimized(s)) for s in (step, *others)) <= 1 for c in clipped
                )
                if not single or not of_one or (clipped and not clipped[0] & self._alloptimized):
                    raise self._script.refuse(
                        node, "the gradients of several optimizers are clipped by one norm: an "
                        "overflow in those of one would make the others' NaN, unseen by the scaler",
                        "clip those of each optimizer by themselves, or use one optimizer with "
                        "groups of parameters, or --dtype bf16",
                    )  # fmt: skip

    def optimized(self, step: Stepped) -> set[object]:
        """The modules whose parameters an optimizer was given."""
        roles, source = self._script.roles, self._script.source
        found: set[object] = set()
        for made in roles.made(step.what):
            for node in source.walk(made):
                if isinstance(node, ast.Attribute) and node.attr == "parameters":
                    found |= self.keys(node.value)
        return found

    def keys(self, module: ast.expr) -> set[object]:
        """What tells modules apart: what made them, or for a part of one how it is called."""
        return {*self._script.roles.owners(module)} or {ast.dump(module)}

    @property
    def _alloptimized(self) -> set[object]:
        return {owner for step in self._script.steps for owner in self.optimized(step)}


def _between(source: Source, one: Stepped, other: Stepped) -> list[ast.stmt]:
    """The statements between two steps, in the block of the one that comes first."""
    first, last = sorted((one.outer, other.outer), key=lambda s: s.lineno)
    block = source.block(first)
    return [s for s in block if first.lineno < s.lineno < last.lineno]
