"""The ways through a flow: which events follow one another, with the same answer to equal tests."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from ampconvert.lint.step_events import Event, Scaled
from ampconvert.lint.step_flow import Branch, Flow, Inlined, Jump, Loop, events_in
from ampconvert.lint.step_places import Atom, Place, Test

_MOST = 400  # ways followed at a time: beyond, parts of the flow are looked at by themselves

End = Literal["end", "break", "continue", "return", "raise"]


@dataclass(frozen=True, eq=False)
class Path:
    """One way through a function, or through one turn of `loop`: the events in their order.

    Every loop inside is taken once. `end` says how it ends, `at` at which jump.
    """

    events: tuple[Event, ...]
    end: End = "end"
    at: ast.stmt | None = None
    loop: ast.stmt | None = None

    def after(self, index: int, until: Callable[[Event], bool] = lambda _: False) -> list[Event]:
        """The events after the one at `index`, up to the first that `until` holds for."""
        found = []
        for event in self.events[index + 1 :]:
            if until(event):
                break
            found.append(event)
        return found

    def before(self, index: int, until: Callable[[Event], bool] = lambda _: False) -> list[Event]:
        """The events before the one at `index`, back to the last that `until` holds for."""
        found = []
        for event in reversed(self.events[:index]):
            if until(event):
                break
            found.append(event)
        return found[::-1]

    def loss_of(self, index: int) -> tuple[Scaled, Place | None]:
        """How the loss of the backward at `index` was scaled on this way, and by which scaler."""
        event = self.events[index]
        assert event.scaled is not None
        if event.target is None:
            return event.scaled, event.scaler
        for earlier in reversed(self.events[:index]):
            if earlier.target == event.target and earlier.kind in ("scale", "assign"):
                scaled = earlier.kind == "scale"
                return ("scaled", earlier.scaler) if scaled else ("plain", None)
        return event.scaled, event.scaler


class TooManyWaysError(Exception):
    """A flow with more ways through it than can be followed."""


def paths(flow: Flow, loop: ast.stmt | None = None) -> list[Path]:
    """Every way through `flow`. Raises TooManyWaysError."""
    walk = _Walk(flow)
    states = walk.through(flow, [_State()])
    return [
        Path(state.events, state.end, state.at, loop) for state in states if state.end != "raise"
    ]


def units(flow: Flow) -> Iterator[list[Path]]:
    """The ways through `flow`, or where these are too many, through one turn of each of its
    outermost loops, and so on inwards.
    """
    try:
        yield paths(flow)
    except TooManyWaysError:
        for inner in _loops(flow):
            yield from _turns(inner)


def turns(flow: Flow) -> Iterator[tuple[Loop, list[Path]]]:
    """The ways through one turn of each loop of `flow`, but of those with too many."""
    for item in _loops(flow):
        with suppress(TooManyWaysError):
            yield item, paths(item.body, item.node)
        yield from turns(item.body)


def _turns(loop: Loop) -> Iterator[list[Path]]:
    try:
        yield paths(loop.body, loop.node)
    except TooManyWaysError:
        for inner in _loops(loop.body):
            yield from _turns(inner)


@dataclass(frozen=True)
class _State:
    """A way so far: its events, what is known of tests, and the jump it is at, if any."""

    events: tuple[Event, ...] = ()
    known: Mapping[Atom, bool] = field(default_factory=dict)
    end: End = "end"
    at: ast.stmt | None = None

    def with_event(self, event: Event) -> _State | None:
        """This way and `event`; None if that can't be: a scaler that is None does nothing."""
        known = self.known
        if event.scaler is not None and event.kind not in ("make", "passed"):
            if known.get(event.scaler.atom) is False:
                return None
            known = {**known, event.scaler.atom: True}
        return _State((*self.events, event), known)

    @property
    def identity(self) -> tuple[object, ...]:
        return (*map(id, self.events), self.end, id(self.at), frozenset(self.known.items()))


class _Walk:
    def __init__(self, flow: Flow) -> None:
        asked = Counter(atom for test in _tests(flow) for atom in set(test.atoms()))
        scalers = {e.scaler.atom for e in events_in(flow) if e.scaler is not None}
        # Only what is asked twice ties two branches; the rest need not be kept apart.
        self._kept = scalers | {atom for atom, times in asked.items() if times > 1}

    def through(self, flow: Flow, states: list[_State]) -> list[_State]:
        for item in flow:
            going = [state for state in states if state.end == "end"]
            states = [state for state in states if state.end != "end"]
            if isinstance(item, Event):
                moved = (state.with_event(item) for state in going)
                states += [state for state in moved if state is not None]
            elif isinstance(item, Jump):
                states += [_State(s.events, s.known, item.how, item.node) for s in going]
            elif isinstance(item, Branch):
                states += self._branch(item, going)
            elif isinstance(item, Inlined):
                states += [_resumed(s, "return") for s in self.through(item.body, going)]
            else:
                states += self._loop(item, going)
            states = _distinct(states)
            if len(states) > _MOST:
                raise TooManyWaysError
        return states

    def _branch(self, branch: Branch, states: list[_State]) -> list[_State]:
        found: list[_State] = []
        for number, arm in enumerate(branch.arms):
            entering = states
            if branch.test is not None:
                entered = (self._assume(state, branch.test, number == 0) for state in states)
                entering = [state for state in entered if state is not None]
            found += self.through(arm, _distinct(entering))
        return found

    def _assume(self, state: _State, test: Test, holds: bool) -> _State | None:
        truth = test.truth(state.known)
        if truth is not None:
            return state if truth == holds else None
        learned = {
            atom: value for atom, value in test.implied(holds, state.known) if atom in self._kept
        }  # fmt: skip
        return _State(state.events, {**state.known, **learned})

    def _loop(self, loop: Loop, states: list[_State]) -> list[_State]:
        turned = self.through(loop.body, states)
        left = [_resumed(s, "break") for s in turned if s.end == "break"]
        rest = [_resumed(s, "continue") for s in turned if s.end != "break"]
        return left + self.through(loop.after, rest)


def _resumed(state: _State, jump: End) -> _State:
    """A way that goes on behind what `jump` has left."""
    return _State(state.events, state.known) if state.end == jump else state


def _distinct(states: list[_State]) -> list[_State]:
    return list({state.identity: state for state in states}.values())


def _loops(flow: Flow) -> Iterator[Loop]:
    for item in flow:
        if isinstance(item, Loop):
            yield item
        elif isinstance(item, Inlined):
            yield from _loops(item.body)
        elif isinstance(item, Branch):
            for arm in item.arms:
                yield from _loops(arm)


def _tests(flow: Flow) -> Iterator[Test]:
    for item in flow:
        if isinstance(item, Branch):
            if item.test is not None:
                yield item.test
            for arm in item.arms:
                yield from _tests(arm)
        elif isinstance(item, Inlined):
            yield from _tests(item.body)
        elif isinstance(item, Loop):
            yield from _tests((*item.body, *item.after))
