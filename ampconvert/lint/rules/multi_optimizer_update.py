"""AMP210: GradScaler.update between the steps of several optimizers."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding, Fix
from ampconvert.lint.rule import Case, Rule
from ampconvert.lint.source import Source
from ampconvert.lint.step_events import Event
from ampconvert.lint.step_paths import Path


class MultiOptimizerUpdate(Rule):
    """`scaler.update()` is called before all optimizers have stepped, or twice in a row.

    `update` may change the scale. Gradients that were made before it are then divided by another
    scale than they were multiplied with: they are off by a factor of 2. It also forgets which
    optimizers were unscaled already, so that `step` unscales their gradients once more. A second
    `update` without a step in between raises "No inf checks were recorded prior to update".

    An update between two backward passes, as in GAN training, is not reported, nor one of another
    scaler.

    Source: https://docs.pytorch.org/docs/stable/notes/amp_examples.html#working-with-multiple-models-losses-and-optimizers
    """

    CODE = "AMP210"
    NAME = "multi-optimizer-update"
    SEVERITY = "error"
    ADVICE = "Call scaler.update() once, after the steps of all optimizers."
    FIX = "unsafe"
    FIX_SAFETY = "Gradients are divided by another scale than before, the one they were made with."
    WORDS = ((b".update",), (b".step", b"Scaler", b"unscale_"))
    VALID = (
        Case("""\
import torch


def train(netd, netg, loader, optim_d, optim_g):
    scaler = torch.amp.GradScaler("cuda")
    for x in loader:
        scaler.scale(netd(x)).backward()
        scaler.step(optim_d)
        scaler.update()
        scaler.scale(netg(x)).backward()
        scaler.step(optim_g)
        scaler.update()
"""),
        Case("""\
import torch


def train(model, loader, optim_a, optim_b):
    scaler_a = torch.amp.GradScaler("cuda")
    scaler_b = torch.amp.GradScaler("cuda")
    for x in loader:
        a, b = model(x)
        scaler_a.scale(a).backward(retain_graph=True)
        scaler_b.scale(b).backward()
        scaler_a.step(optim_a)
        scaler_a.update()
        scaler_b.step(optim_b)
        scaler_b.update()
"""),
        Case("""\
import torch


def train(model, loader, optimizers, scaler):
    for x in loader:
        scaler.scale(model(x)).backward()
        for optimizer in optimizers:
            scaler.unscale_(optimizer)
        for optimizer in optimizers:
            scaler.step(optimizer)
        scaler.update()
"""),
    )
    INVALID = (
        Case(
            """\
import torch
from torch.cuda.amp import GradScaler


def train(model, loader, optim_a, optim_b):
    scaler = GradScaler()
    for x in loader:
        scaler.scale(model(x)).backward()
        scaler.step(optim_a)
        scaler.update()  # AMP210
        scaler.step(optim_b)
        scaler.update()
""",
            """\
import torch
from torch.cuda.amp import GradScaler


def train(model, loader, optim_a, optim_b):
    scaler = GradScaler()
    for x in loader:
        scaler.scale(model(x)).backward()
        scaler.step(optim_a)
        scaler.step(optim_b)
        scaler.update()
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
                self.scaler.step(optimizer)
                self.scaler.update()  # AMP210
            print(x)
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
                self.scaler.step(optimizer)
            self.scaler.update()
            print(x)
""",
        ),
        Case(
            """\
import torch as th


def finish(scaler, optimizer):
    scaler.step(optimizer)
    scaler.update()


def train(model, loader, optimizer):
    scaler = th.amp.GradScaler("cuda")
    for x in loader:
        scaler.scale(model(x)).backward()
        finish(scaler, optimizer)
        scaler.update()  # AMP210
""",
            """\
import torch as th


def finish(scaler, optimizer):
    scaler.step(optimizer)
    scaler.update()


def train(model, loader, optimizer):
    scaler = th.amp.GradScaler("cuda")
    for x in loader:
        scaler.scale(model(x)).backward()
        finish(scaler, optimizer)
""",
        ),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Updates with a step of the same backward pass after them, or without one before."""
        seen: set[ast.expr] = set()
        for wrong in source.steps.always(("update",), _is_early):
            seen.add(wrong.event.node)
            yield self._found(source, wrong.event, "before all optimizers have stepped")
        for wrong in source.steps.always(("update",), _is_second):
            if wrong.event.node not in seen:
                seen.add(wrong.event.node)
                yield self._found(source, wrong.event, "twice without a step in between")
        for event in source.steps.events:
            if event.kind == "update" and event.node not in seen and _is_in_turn(source, event):
                seen.add(event.node)
                yield self._found(source, event, "before all optimizers have stepped", event.loop)

    def _found(
        self, source: Source, event: Event, what: str, loop: ast.stmt | None = None
    ) -> Finding:
        fix: Fix | None = None
        statement = source.statement(event.node)
        alone = isinstance(statement, ast.Expr) and statement.value is event.node
        if alone and len(source.block(statement)) > 1:
            edits = [source.edits.delete(statement)]
            if loop is None:
                fix = self.fix("take out this call", edits, safe=False)
            elif source.parents[statement] is loop and source.block(statement)[-1] is statement:
                # Deleted and put in again, in one edit: the places touch.
                start = edits[0].start
                text = f"{source.edits.indent(loop)}{source.segment(statement)}"
                put = type(edits[0])(start, edits[0].end, text + source.edits.newline)
                fix = self.fix("move behind the loop", [put], safe=False)
        return self.finding(source, event.node, f"{event.scaler} is updated {what}", fix)


def _is_early(path: Path, index: int) -> bool | None:
    """Whether another optimizer steps after this update on gradients from before it."""
    update = path.events[index]
    before = path.before(index, lambda e: e.kind == "update" and e.scaler == update.scaler)
    stepped = {e.optimizer for e in before if e.kind == "step" and e.scaler == update.scaler}
    if not stepped or not any(e.scaled == "scaled" for e in path.events[:index]):
        return None
    after = path.after(index, lambda e: e.kind == "backward")
    steps = [e for e in after if e.kind == "step" and e.scaler == update.scaler]
    return any(e.optimizer not in stepped for e in steps)


def _is_second(path: Path, index: int) -> bool | None:
    """Whether nothing was unscaled or stepped since the last update."""
    update = path.events[index]
    if update.call.args or update.call.keywords:
        return None  # a scale of one's own needs no step
    for earlier in reversed(path.events[:index]):
        if earlier.kind in ("unscale", "step", "passed") and earlier.scaler == update.scaler:
            return False
        if earlier.kind == "update" and earlier.scaler == update.scaler:
            return True
        if earlier.kind == "backward" and earlier.scaled != "plain":
            return None
    return None


def _is_in_turn(source: Source, update: Event) -> bool:
    """Whether this stands in a loop over optimizers, behind the step of each."""
    loop, events = update.loop, source.steps.events
    if not isinstance(loop, ast.For | ast.AsyncFor):
        return False
    same = [e for e in events if e.scaler == update.scaler and e.loops == update.loops]
    if any(e.kind == "backward" and loop in e.loops for e in events):
        return False
    before = [
        e for e in events if e.scaled == "scaled" and e.scaler == update.scaler
        and e.loops == update.loops[:-1] and e.calls == update.calls[: len(e.calls)]
    ]  # fmt: skip
    targets = {n.id for n in ast.walk(loop.target) if isinstance(n, ast.Name)}
    steps = [e for e in same if e.kind == "step" and e.call.args
             and any(isinstance(n, ast.Name) and n.id in targets
                     for n in ast.walk(e.call.args[0]))]  # fmt: skip
    return bool(before and steps)
