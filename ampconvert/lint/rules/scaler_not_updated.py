"""AMP203: a step of GradScaler without its update."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding, Fix
from ampconvert.lint.rule import Case, Rule
from ampconvert.lint.source import Source
from ampconvert.lint.step_events import Event
from ampconvert.lint.step_flow import Loop
from ampconvert.lint.step_paths import Path
from ampconvert.lint.step_places import Place


class ScalerNotUpdated(Rule):
    """`scaler.update()` is missing, or left out when an iteration ends early.

    `step` and `unscale_` leave a note per optimizer that `update` clears. Without it the second
    call raises a RuntimeError: "step() has already been called since the last update()". The
    scale would never change either, neither down from an overflow nor up.

    The second form is a `continue` after `unscale_` or `step`, as on a gradient norm that is not
    finite: `update()` belongs before it, and halves the scale then. So does an `update()` under a
    test of the norm. Not reported where the scaler is handed to code that is not in this file.

    Source: https://docs.pytorch.org/docs/stable/amp.html#torch.amp.GradScaler.update
    """

    CODE = "AMP203"
    NAME = "scaler-not-updated"
    SEVERITY = "error"
    ADVICE = "Call scaler.update() once per iteration, after the last scaler.step."
    FIX = "safe"
    FIX_SAFETY = "update does nothing where the scaler is disabled."
    WORDS = ((b".step", b"unscale_"), (b"backward",), (b".scale",))
    VALID = (
        Case("""\
import torch


def train(model, loader, optimizers, scaler):
    for x in loader:
        scaler.scale(model(x)).backward()
        for optimizer in optimizers:
            scaler.step(optimizer)
        scaler.update()
"""),
        Case("""\
import torch
from mylib import finish


def train(model, loader, optimizer):
    scaler = torch.amp.GradScaler("cuda")
    for x in loader:
        scaler.scale(model(x)).backward()
        scaler.step(optimizer)
        finish(scaler)
"""),
        Case("""\
import torch


def train(model, loader, optimizer, n):
    scaler = torch.amp.GradScaler("cuda")
    for i, x in enumerate(loader):
        scaler.scale(model(x)).backward()
        if (i + 1) % n != 0:
            continue
        scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if not torch.isfinite(norm):
            scaler.update()
            optimizer.zero_grad()
            continue
        scaler.step(optimizer)
        scaler.update()
"""),
        Case("""\
class Plugin:
    def __init__(self, scaler):
        self.scaler = scaler

    def step(self, optimizer):
        self.scaler.unscale_(optimizer)
        self.scaler.step(optimizer)
"""),
    )
    INVALID = (
        Case(
            """\
import torch
from torch.cuda.amp import GradScaler


def train(model, loader, optim_g, optim_d):
    scaler = GradScaler()
    for x in loader:
        scaler.scale(model(x)).backward()
        scaler.step(optim_g)
        scaler.step(optim_d)  # AMP203
        optim_g.zero_grad()
""",
            """\
import torch
from torch.cuda.amp import GradScaler


def train(model, loader, optim_g, optim_d):
    scaler = GradScaler()
    for x in loader:
        scaler.scale(model(x)).backward()
        scaler.step(optim_g)
        scaler.step(optim_d)  # AMP203
        scaler.update()
        optim_g.zero_grad()
""",
        ),
        Case(
            """\
import torch


class Trainer:
    def __init__(self, model, optimizers):
        self.model, self.optimizers = model, optimizers
        self.scaler = torch.amp.GradScaler("cuda")

    def fit(self, loader):
        for x in loader:
            self.scaler.scale(self.model(x)).backward()
            for optimizer in self.optimizers:
                self.scaler.step(optimizer)  # AMP203
""",
            """\
import torch


class Trainer:
    def __init__(self, model, optimizers):
        self.model, self.optimizers = model, optimizers
        self.scaler = torch.amp.GradScaler("cuda")

    def fit(self, loader):
        for x in loader:
            self.scaler.scale(self.model(x)).backward()
            for optimizer in self.optimizers:
                self.scaler.step(optimizer)  # AMP203
            self.scaler.update()
""",
        ),
        Case(
            """\
import torch as th


def train(model, loader, optimizer):
    scaler = th.amp.GradScaler("cuda")
    for x in loader:
        optimizer.zero_grad()
        scaler.scale(model(x)).backward()
        scaler.unscale_(optimizer)
        norm = th.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if not th.isfinite(norm):
            print("skipped")
            continue  # AMP203
        scaler.step(optimizer)
        scaler.update()
""",
            """\
import torch as th


def train(model, loader, optimizer):
    scaler = th.amp.GradScaler("cuda")
    for x in loader:
        optimizer.zero_grad()
        scaler.scale(model(x)).backward()
        scaler.unscale_(optimizer)
        norm = th.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if not th.isfinite(norm):
            print("skipped")
            scaler.update()
            continue  # AMP203
        scaler.step(optimizer)
        scaler.update()
""",
        ),
        Case("""\
import torch


def train(model, loader, optimizer, scaler, clip):
    for x in loader:
        scaler.scale(model(x)).backward()
        scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        if torch.isfinite(norm):
            scaler.step(optimizer)
            scaler.update()  # AMP203
        optimizer.zero_grad()
"""),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Scalers that are never updated, and turns of loops that end before it."""
        for step in self._never(source):
            yield self.finding(
                source, step.node, f"{step.scaler} is never updated: its second step raises",
                self._updated(source, step),
            )  # fmt: skip
        seen: set[ast.stmt] = set()
        for loop, ways in source.steps.turns:
            for at, update in _skipped(source, loop, ways):
                if at not in seen:
                    seen.add(at)
                    yield self._left_out(source, at, update)
            for update in _conditional(source, loop, ways):
                yield self.finding(
                    source, update.node,
                    f"{update.scaler} is left without update where this condition fails",
                )  # fmt: skip

    def _never(self, source: Source) -> Iterator[Event]:
        """The last step of each scaler that steps and is updated nowhere in the file."""
        last: dict[Place, Event] = {}
        for path in source.steps.paths:
            scaled = {e.scaler for e in path.events if e.scaled == "scaled"}
            for event in path.events:
                if event.kind == "step" and event.scaler in scaled and event.scaler is not None:
                    known = last.setdefault(event.scaler, event)
                    if event.call.lineno > known.call.lineno:
                        last[event.scaler] = event
        for scaler, event in last.items():
            if not _is_updated(source, scaler):
                yield event

    def _updated(self, source: Source, step: Event) -> Fix | None:
        scaler = source.steps.expression(step, "scaler", step)
        statement: ast.stmt = source.statement(step.node)
        backward = [e for e in source.steps.events if e.scaled == "scaled"
                    and e.function is step.function]  # fmt: skip
        if step.loops and not any(e.loop is step.loop for e in backward):
            statement = step.loops[-1]  # a loop over optimizers: update once, after it
            if source.function(statement) is not source.function(step.node):
                return None
        if not scaler or not isinstance(statement, ast.Expr | ast.For):
            return None
        edit = source.edits.line_after(statement, f"{scaler}.update()")
        return self.fix(f"call {scaler}.update after", [edit], safe=True)

    def _left_out(self, source: Source, at: ast.stmt, update: Event) -> Finding:
        message = f"the iteration ends without the update of {update.scaler}: its next use raises"
        scaler = source.steps.expression(update, "scaler", update)
        fix = None
        if scaler and source.function(at) is source.function(update.node):
            edit = source.edits.line_before(at, f"{scaler}.update()")
            fix = self.fix(f"call {scaler}.update before", [edit], safe=True)
        return self.finding(source, at, message, fix)


def _is_updated(source: Source, scaler: Place) -> bool:
    """Whether anything in the file may update a scaler: itself, or what it is handed to."""
    events = source.steps.events
    if any(e.kind in ("update", "passed") and e.scaler == scaler for e in events):
        return True
    word = scaler.path.rpartition(".")[2]
    return any(
        isinstance(call.func, ast.Attribute)
        and source.segment(call.func.value).rpartition(".")[2] == word
        for call in source.names.methods("update")
    )


def _skipped(source: Source, loop: Loop, ways: list[Path]) -> Iterator[tuple[ast.stmt, Event]]:
    """The `continue` between a scaler's first use in a turn and its update, with such an update."""
    updates = [e for path in ways for e in path.events if e.kind == "update"]
    for path in ways:
        if path.end != "continue" or path.at is None:
            continue
        for index, event in enumerate(path.events):
            if event.kind not in ("unscale", "step") or event.loop is not loop.node:
                continue
            after = path.after(index)
            done = any(e.kind in ("update", "passed") and e.scaler == event.scaler for e in after)
            update = next((e for e in updates if e.scaler == event.scaler), None)
            if not done and update is not None and not _is_guarded(source, path.at, loop, event):
                yield path.at, update


def _conditional(source: Source, loop: Loop, ways: list[Path]) -> Iterator[Event]:
    """Updates under a condition on the turn that the first use of the scaler has not."""
    told: set[ast.expr] = set()
    seen: set[Event] = set()
    for path in ways:
        for index, event in enumerate(path.events):
            if event.kind not in ("unscale", "step") or event.loop is not loop.node:
                continue
            done = any(
                e.kind in ("update", "passed") and e.scaler == event.scaler
                for e in path.after(index)
            )
            if done or path.end != "end" or event in seen:
                continue
            seen.add(event)
            later = [e for way in ways for e in _updates_after(way, event)]
            sure = bool(later) and all(_depends(source, e, event, loop) for e in later)
            if sure and later[0].node not in told:
                told.add(later[0].node)
                yield later[0]


def _updates_after(path: Path, event: Event) -> list[Event]:
    """The updates that follow an event on a way that it is on."""
    if event not in path.events:
        return []
    after = path.after(path.events.index(event))
    return [e for e in after if e.kind == "update" and e.scaler == event.scaler]


def _depends(source: Source, update: Event, event: Event, loop: Loop) -> bool:
    """Whether an update has a condition on the turn more than the use of the scaler before it, and
    nothing hints at these conditions being about the same.
    """
    if update.loop is not loop.node:
        return False
    variance, node = source.steps.variance, loop.node
    own = {(guard.test, guard.holds) for guard in event.guards_in(node)}
    shared = {(guard.test, guard.holds) for guard in update.guards_in(node)}
    extra = [g for g in update.guards_in(node) if (g.test, g.holds) not in own]
    if not own <= shared or any(source.steps.names_precision(g.node) for g in extra):
        return False
    # unscale_ in every micro-batch is a matter of its own.
    changing = [g for g in extra if variance.varies(g, node)]
    return bool(changing) and not (
        event.kind == "unscale" and any(variance.counts(g, node) for g in changing)
    )


def _is_guarded(source: Source, at: ast.stmt, loop: Loop, event: Event) -> bool:
    """Whether the jump is under a condition on the precision, or comes before the event does."""
    if at.lineno < event.node.lineno and source.function(at) is source.function(event.node):
        return True
    tests = [above.test for above in source.ancestors(at) if isinstance(above, ast.If)]
    inside = [test for test in tests if any(a is loop.node for a in source.ancestors(test))]
    known = {guard.node for guard in event.guards}
    return any(test not in known and source.steps.names_precision(test) for test in inside)
