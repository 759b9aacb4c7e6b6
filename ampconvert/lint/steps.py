"""Training steps: what scales, clips, steps and updates in which order, on every way through."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ampconvert.lint.step_events import Event, Events, Guard, Kind
from ampconvert.lint.step_flow import Flow, Flows, Function, Loop, events_in
from ampconvert.lint.step_paths import Path, turns, units
from ampconvert.lint.step_places import Place, Places
from ampconvert.lint.step_roles import Roles
from ampconvert.lint.step_variance import Variance

if TYPE_CHECKING:
    from ampconvert.lint.source import Source

# What of an event on one way: the event to report (itself, or another one on the way) where it is
# wrong, False where it is right, None where it is not concerned.
Judge = Callable[[Path, int], "Event | bool | None"]

# Words of conditions that choose between mixed precision and something else.
_SWITCHES = (
    "amp", "fp16", "bf16", "fp32", "half", "mixed", "scaler", "autocast", "precision", "apex",
    "dtype", "float", "native", "cuda", "cpu", "deepspeed", "accelerat", "fabric", "lightning",
    "tpu", "xla",
)  # fmt: skip
_OF_SCALERS = ("scale", "unscale", "step", "update")


@dataclass(frozen=True, eq=False)
class Wrong:
    """An event that is wrong: the one to report, the one that was judged, and the way it is on."""

    event: Event
    judged: Event
    path: Path
    index: int

    @property
    def backward(self) -> Event | None:
        """The last backward pass before what was judged."""
        return next(
            (e for e in reversed(self.path.events[: self.index]) if e.kind == "backward"), None
        )


class Steps:
    """The events of training steps with a gradient scaler; nothing where a file has none."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.places = Places(source)
        self.roles = Roles(source, self.places)
        self._events = Events(source, self.places, self.roles)
        self.variance = Variance(source, self.places)

    @cached_property
    def flows(self) -> list[Flow]:
        """The flow of each function that no other one leads to, with the functions it calls."""
        if not self._events.calls:
            return []
        flows = self._flows()
        # One that an earlier one leads to is known by the time it is reached.
        return [flows.of(root) for root in flows.roots if root not in flows.inlined]

    @cached_property
    def events(self) -> list[Event]:
        """Every event in every flow: one in a function that two others call is there twice."""
        return [event for flow in self.flows for event in events_in(flow)]

    def of(self, root: Function | ast.Module) -> list[Event]:
        """The events of a function with the functions it calls, or of the module's statements, in
        the order of the text; both arms of branches.
        """
        return list(events_in(self._flows().of(root)))

    def _flows(self) -> Flows:
        return Flows(self._source, self.places, self.roles, self._events)

    @cached_property
    def paths(self) -> list[Path]:
        """Every way through every flow; through turns of its loops, where there are too many."""
        return [path for flow in self.flows for unit in units(flow) for path in unit]

    @cached_property
    def turns(self) -> list[tuple[Loop, list[Path]]]:
        """The ways through one turn of each loop."""
        return [turn for flow in self.flows for turn in turns(flow)]

    def always(self, kinds: Iterable[Kind], judge: Judge) -> Iterator[Wrong]:
        """The events that are wrong on every way that concerns them, each once.

        A way is a guess: two conditions may exclude one another unseen. A single right way tells
        that the code knows of the matter.
        """
        wanted = frozenset(kinds)
        wrong: dict[ast.expr, list[Wrong]] = {}
        right: set[ast.expr] = set()
        for path in self.paths:
            for index, event in enumerate(path.events):
                if event.kind in wanted and event.node not in right:
                    verdict = judge(path, index)
                    if verdict is False:
                        right.add(event.node)
                    elif verdict is not None:
                        told = event if verdict is True else verdict
                        wrong.setdefault(event.node, []).append(Wrong(told, event, path, index))
        seen: set[ast.expr] = set()
        for node, found in wrong.items():
            for one in found if node not in right else ():
                if one.event.node not in seen:
                    seen.add(one.event.node)
                    yield one

    def are_scaled(self, path: Path, index: int) -> bool | None:
        """Whether the gradients are certainly scaled at this event; None where that can't be told,
        False where the code takes care of it.
        """
        event = path.events[index]
        before = path.before(index, lambda e: e.kind == "backward")
        at = index - len(before) - 1
        if at < 0 and event.kind == "clip":
            return self._is_before_step(path, index)
        if at < 0 or path.loss_of(at)[0] not in ("scaled", "framework scales"):
            return None
        if any(e.kind == "unscale" for e in before) or self.is_switched(event, path.events[at]):
            return False
        # Once a step was made, nothing tells which gradients are meant.
        stepped = ("step", "optimizer_step", "zero_grad", "update", "get_scale", "passed")
        return None if any(e.kind in stepped for e in before) else True

    def _is_before_step(self, path: Path, index: int) -> bool | None:
        """Whether a scaler steps after this clipping, whose backward pass is elsewhere, and
        nothing in the file unscales.
        """
        after = path.after(index, lambda e: e.kind in ("backward", "zero_grad"))
        steps = [e for e in after if e.kind == "step"]
        if not steps or self._source.names.methods("unscale_"):
            return None
        return not self.is_switched(path.events[index], steps[0])

    def is_switched(self, event: Event, other: Event) -> bool:
        """Whether `event` stands under a condition on the precision that `other` does not: they
        may exclude one another though the conditions differ.

        A branch that uses the scaler itself is the one for mixed precision, so it is none.
        """
        shared = {(guard.test, guard.holds) for guard in other.guards}
        return any(
            (guard.test, guard.holds) not in shared and self.is_switch(guard)
            for guard in event.guards
        )

    def is_switch(self, guard: Guard) -> bool:
        """Whether a condition may choose between mixed precision and something else."""
        known = (guard.test, guard.holds) in self._of_scalers
        return not known and self.names_precision(guard.node)

    def names_precision(self, condition: ast.expr) -> bool:
        """Whether words of a condition speak of precision, devices or frameworks."""
        words = self._source.segment(condition).lower()
        return any(word in words for word in _SWITCHES)

    @cached_property
    def _of_scalers(self) -> set[tuple[object, bool]]:
        return {
            (guard.test, guard.holds)
            for event in self.events
            if event.kind in _OF_SCALERS or event.scaled == "scaled"
            for guard in event.guards
        }

    def is_steady(self, place: Place | None) -> bool:
        """Whether a variable stands for one object: not for each of a list in turn."""
        if place is None or place.owner is None:
            return False
        name = place.path.partition(".")[0].partition("[")[0]
        if name == "self":
            return "[" not in place.path
        bindings = self._source.scopes.all_of(place.owner, name)
        return len(bindings) <= 1 and all(b.how != "element" for b in bindings)

    def expression(self, event: Event, what: str, at: Event) -> str:
        """How the scaler or the optimizer of a call is written, for use in the function of `at`;
        "" where it can't be used there.
        """
        call = event.node
        if event.function is not at.function or not isinstance(call, ast.Call):
            return ""
        found: ast.expr | None = None
        if isinstance(call.func, ast.Attribute):
            found = call.func.value
            if isinstance(found, ast.Call) and isinstance(found.func, ast.Attribute):
                found = found.func.value  # scaler.scale(loss).backward()
            if what == "optimizer" and event.kind != "optimizer_step":
                found = call.args[0] if call.args else None
        named = isinstance(found, ast.Name | ast.Attribute | ast.Subscript)
        return self._source.segment(found) if found is not None and named else ""
