"""AMP206: GradScaler calls in every micro-batch of gradient accumulation."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding, Fix
from ampconvert.lint.rule import Case, Judged, Rule
from ampconvert.lint.source import Source
from ampconvert.lint.step_events import Event, Guard
from ampconvert.lint.step_places import Test


class ScalerCallPerMicrobatch(Rule):
    """Gradients are accumulated over micro-batches, but `unscale_`, `update` or `scaler.step` is
    called in each of them.

    `unscale_` raises in the second micro-batch: it may be called once per `update`, and only after
    all gradients are there. `update` without a step raises an AssertionError, "No inf checks were
    recorded prior to update". `scaler.step` with `zero_grad` left for the last micro-batch adds
    scaled gradients to ones that it has unscaled.

    Found where a condition that counts turns of the loop, `(i + 1) % n == 0`, stands around the
    rest of the step and not around this call. Other conditions around either have to be ones that
    do not change from turn to turn.

    Source: https://docs.pytorch.org/docs/stable/notes/amp_examples.html#gradient-accumulation
    """

    CODE = "AMP206"
    NAME = "scaler-call-per-microbatch"
    SEVERITY = "error"
    ADVICE = "Call unscale_, step and update only where the accumulated step is made."
    FIX = "unsafe"
    FIX_SAFETY = "Gradients are clipped once per step and no longer once per micro-batch."
    WORDS = ((b".step", b"unscale_"), (b"backward",), (b".scale",))
    JUDGED = Judged(true=4, read=4)
    VALID = (
        Case("""\
import torch


def train(model, loader, optimizer, n, clip):
    scaler = torch.amp.GradScaler("cuda")
    for i, x in enumerate(loader):
        scaler.scale(model(x) / n).backward()
        if (i + 1) % n == 0:
            if clip:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
"""),
        Case("""\
import torch


def train(model, loader, optimizer, n):
    scaler = torch.amp.GradScaler("cuda")
    for i, x in enumerate(loader):
        ready = (i + 1) % n == 0
        scaler.scale(model(x) / n).backward()
        if ready:
            scaler.unscale_(optimizer)
        if not ready:
            continue
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
"""),
        Case("""\
import torch


def train(model, loader, optimizer, scaler, clip):
    for x in loader:
        optimizer.zero_grad()
        scaler.scale(model(x)).backward()
        scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        if norm < 100:
            scaler.step(optimizer)
        scaler.update()
"""),
        Case("""\
import torch


def train(model, batches, optimizer, scaler):
    for batch in batches:
        optimizer.zero_grad()
        for x in batch:
            scaler.scale(model(x)).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
"""),
    )
    INVALID = (
        Case(
            """\
import torch
from torch.cuda.amp import GradScaler as Scaler


def train(model, loader, optimizer, n, clip):
    scaler = Scaler()
    for i, x in enumerate(loader):
        scaler.scale(model(x) / n).backward()
        scaler.unscale_(optimizer)  # AMP206
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        if (i + 1) % n == 0:
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
""",
            """\
import torch
from torch.cuda.amp import GradScaler as Scaler


def train(model, loader, optimizer, n, clip):
    scaler = Scaler()
    for i, x in enumerate(loader):
        scaler.scale(model(x) / n).backward()
        if (i + 1) % n == 0:
            scaler.unscale_(optimizer)  # AMP206
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
""",
        ),
        Case(
            """\
import torch


class Trainer:
    def __init__(self, model, optimizer, every):
        self.model, self.optimizer, self.every = model, optimizer, every
        self.scaler = torch.amp.GradScaler("cuda")
        self.seen = 0

    def fit(self, loader):
        for x in loader:
            self.seen += 1
            self.scaler.scale(self.model(x)).backward()
            if self.seen % self.every == 0:
                self.scaler.step(self.optimizer)
                self.optimizer.zero_grad()
            self.scaler.update()  # AMP206
""",
            """\
import torch


class Trainer:
    def __init__(self, model, optimizer, every):
        self.model, self.optimizer, self.every = model, optimizer, every
        self.scaler = torch.amp.GradScaler("cuda")
        self.seen = 0

    def fit(self, loader):
        for x in loader:
            self.seen += 1
            self.scaler.scale(self.model(x)).backward()
            if self.seen % self.every == 0:
                self.scaler.step(self.optimizer)
                self.optimizer.zero_grad()
                self.scaler.update()  # AMP206
""",
        ),
        Case("""\
import torch


def train(model, loader, optimizer, n):
    scaler = torch.amp.GradScaler("cuda")
    count = 0
    for x in loader:
        scaler.scale(model(x) / n).backward()
        scaler.step(optimizer)  # AMP206
        scaler.update()
        count += 1
        if count == n:
            optimizer.zero_grad()
            count = 0
"""),
        Case("""\
import torch


def train(model, batches, optimizer, scaler):
    for batch in batches:
        optimizer.zero_grad()
        for x in batch:
            scaler.scale(model(x)).backward()
            scaler.unscale_(optimizer)  # AMP206
        scaler.step(optimizer)
        scaler.update()
"""),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Calls in the loop of the backward pass without the condition that the others have."""
        seen: set[ast.expr] = set()
        for event in source.steps.events:
            if event.kind not in ("unscale", "update", "step") or event.loop is None:
                continue
            if event.node in seen or event.scaler is None:
                continue
            partners = _partners(source, event)
            if partners is None:
                continue
            seen.add(event.node)
            yield self.finding(
                source, event.node, _MESSAGES[event.kind].format(event.scaler),
                self._moved(source, event, partners),
            )  # fmt: skip

    def _moved(self, source: Source, event: Event, partners: list[Event]) -> Fix | None:
        """The call, and clipping right after it, as the first or last lines under the condition."""
        statement = source.statement(event.node)
        block = source.block(statement)
        last = event.kind == "update"  # it goes to the end of the block, unscale_ to its start
        around = block[: block.index(statement)] if last else block[block.index(statement) + 1 :]
        near = around[::-1] if last else around
        moved = [statement]
        clips = {source.statement(e.node) for e in source.steps.events if e.kind == "clip"}
        while not last and near and near[0] in clips:
            moved.append(near.pop(0))
        target = near[0] if near else None
        holds = set(source.ancestors(partners[0].node)) if partners else set()
        if not isinstance(target, ast.If) or target not in holds or event.kind == "step":
            return None
        if any(not isinstance(m, ast.Expr | ast.Assign) or m.lineno != m.end_lineno for m in moved):
            return None
        text = f"{source.edits.newline}{source.edits.indent(target.body[0])}".join(
            _line(source, one) for one in moved
        )
        put = (
            source.edits.line_after(target.body[-1], text) if last
            else source.edits.line_before(target.body[0], text)
        )  # fmt: skip
        edits = [put, *(source.edits.delete(one) for one in moved)]
        return self.fix("move under the condition of the step", edits, safe=False)


_MESSAGES = {
    "unscale": "{} unscales in every micro-batch: the second raises",
    "update": "{} is updated in micro-batches without a step: that raises",
    "step": "{} unscales gradients that later micro-batches add scaled ones to",
}


def _partners(source: Source, event: Event) -> list[Event] | None:
    """The calls that are made once per accumulated step, while `event` is made in every turn of
    its loop; None if it is not.
    """
    steps, loop = source.steps, event.loop
    assert loop is not None
    near = [e for e in steps.events if e.calls[: len(event.calls)] == event.calls
            or event.calls[: len(e.calls)] == e.calls]  # fmt: skip
    backward = [e for e in near if e.scaled == "scaled" and e.scaler == event.scaler
                and e.loop is loop]  # fmt: skip
    if not backward or any(steps.is_switched(event, b) for b in backward):
        return None
    others = [e for e in _once(near, event) if not _excludes(e, event)]
    inside = [e for e in others if loop in e.loops]
    if not inside:
        # A loop over micro-batches, and the rest of the step after it.
        after = event.kind == "unscale" and loop in (b.loop for b in backward)
        outside = [e for e in others if e.loops == event.loops[:-1]] if after else []
        return outside if outside and steps.is_steady(event.optimizer) else None
    own = {(guard.test, guard.holds) for guard in event.guards_in(loop)}
    for other in inside:
        extra = [g for g in other.guards_in(loop) if (g.test, g.holds) not in own]
        if not any(steps.variance.counts(guard, loop) for guard in extra):
            return None
        shared = {(guard.test, guard.holds) for guard in other.guards_in(loop)}
        if not all(_is_harmless(source, g, shared, loop) for g in event.guards_in(loop)):
            return None
    if event.kind == "update" and any(
        e.kind in ("unscale", "passed") and e.scaler == event.scaler and e not in inside
        and loop in e.loops for e in near
    ):  # fmt: skip
        return None
    return inside


def _once(near: list[Event], event: Event) -> list[Event]:
    """What has to be called as often as `event`: update with unscale_, step with update, zero_grad
    with step.
    """
    if event.kind == "unscale":
        return [e for e in near if e.kind == "update" and e.scaler == event.scaler]
    if event.kind == "update":
        return [e for e in near if e.kind == "step" and e.scaler == event.scaler]
    return [e for e in near if e.kind == "zero_grad"]


def _excludes(one: Event, other: Event) -> bool:
    """Whether two events are in different arms of one condition."""
    held = {(guard.test, not guard.holds) for guard in other.guards}
    return any((guard.test, guard.holds) in held for guard in one.guards)


def _is_harmless(
    source: Source, guard: Guard, shared: set[tuple[Test, bool]], loop: ast.stmt
) -> bool:
    """Whether a condition around `event` can't stand for the one that counts."""
    return (guard.test, guard.holds) in shared or source.steps.variance.is_fixed(guard, loop)


def _line(source: Source, statement: ast.stmt) -> str:
    """A statement of one line with the comment behind it."""
    starts = source.line_starts
    end = starts[statement.lineno] if statement.lineno < len(starts) else len(source.data)
    return source.data[source.span(statement)[0] : end].decode("utf-8", "replace").rstrip()
