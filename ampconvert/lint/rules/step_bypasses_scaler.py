"""AMP202: optimizer.step() on scaled gradients."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding, Fix
from ampconvert.lint.rule import Case, Rule
from ampconvert.lint.source import Source
from ampconvert.lint.step_events import Event
from ampconvert.lint.step_paths import Path


class StepBypassesScaler(Rule):
    """`optimizer.step()` follows `scaler.scale(loss).backward()` in place of, or after,
    `scaler.step(optimizer)`.

    The optimizer then takes gradients that are 65,536 times too large, infinite ones included.
    After `scaler.step(optimizer)` it takes a second step on the same gradients, and the step that
    the scaler left out because of infinite gradients is made after all.

    After `scaler.unscale_(optimizer)` the gradients have their size, and only the test for infinite
    ones is missing. Not reported where the step stands under a test of its own, and where another
    loss went backward unscaled for the same step.

    Source: https://docs.pytorch.org/docs/stable/notes/amp_examples.html#typical-mixed-precision-training
    """

    CODE = "AMP202"
    NAME = "step-bypasses-scaler"
    SEVERITY = "error"
    ADVICE = "Call scaler.step(optimizer) once, and optimizer.step() only where no scaler is used."
    FIX = "unsafe"
    FIX_SAFETY = "The size of every update changes, to what it should have been."
    WORDS = ((b".step",), (b"backward",), (b".scale",))
    VALID = (
        Case("""\
import torch


def train(model, loader, optimizer, use_amp):
    scaler = torch.amp.GradScaler("cuda")
    for i, x in enumerate(loader):
        loss = model(x)
        if use_amp:
            scaler.scale(loss).backward()
        else:
            loss.backward()
        if (i + 1) % 4 == 0:
            if use_amp:
                scaler.step(optimizer)
                scaler.update()
            else:
                optimizer.step()
            optimizer.zero_grad()
"""),
        Case("""\
import torch


def train(netd, netg, loader, optim_d, optim_g, scaler=None):
    for x in loader:
        loss = netg(x)
        if scaler is not None:
            scaler.scale(loss).backward()
            scaler.step(optim_g)
            scaler.update()
        optim_d.zero_grad()
        netd(x).backward()
        optim_d.step()
"""),
        Case("""\
import torch
from torch.cuda.amp import GradScaler


def train(model, loader, lr):
    optimizer = torch.optim.SGD(model.parameters(), lr)
    scaler = GradScaler()
    for x in loader:
        scaler.scale(model(x)).backward()
        scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if torch.isfinite(norm):
            optimizer.step()
        scaler.update()
"""),
    )
    INVALID = (
        Case(
            """\
import torch


def train(model, loader):
    optimizer = torch.optim.Adam(model.parameters())
    scaler = torch.amp.GradScaler("cuda")
    for i, x in enumerate(loader):
        scaled = scaler.scale(model(x))
        scaled.backward()
        if i % 4 == 3:
            optimizer.step()  # AMP202
            scaler.update()
            optimizer.zero_grad()
""",
            """\
import torch


def train(model, loader):
    optimizer = torch.optim.Adam(model.parameters())
    scaler = torch.amp.GradScaler("cuda")
    for i, x in enumerate(loader):
        scaled = scaler.scale(model(x))
        scaled.backward()
        if i % 4 == 3:
            scaler.step(optimizer)  # AMP202
            scaler.update()
            optimizer.zero_grad()
""",
        ),
        Case("""\
from torch.cuda.amp import GradScaler


def train(model, loader, optimizer, amp):
    scaler = GradScaler()
    for x in loader:
        optimizer.zero_grad()
        loss = model(x)
        if amp:
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        else:
            loss.backward()
        optimizer.step()  # AMP202
"""),
        Case(
            """\
import torch.cuda.amp as amp


class Trainer:
    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer
        self.scaler = amp.GradScaler()

    def backward(self, loss):
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()

    def fit(self, loader):
        for x in loader:
            self.backward(self.model(x))
            self.optimizer.step()  # AMP202
            self.scaler.update()
""",
            """\
import torch.cuda.amp as amp


class Trainer:
    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer
        self.scaler = amp.GradScaler()

    def backward(self, loss):
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()

    def fit(self, loader):
        for x in loader:
            self.backward(self.model(x))
            self.scaler.step(self.optimizer)  # AMP202
            self.scaler.update()
""",
        ),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Optimizers that step on scaled gradients on every way to them, or on every way from the
        scaled backward pass to any step.
        """
        steps = source.steps

        def judge_step(path: Path, index: int) -> bool | None:
            at = _scaled_before(path, index)
            if at is None:
                return None if not path.before(index) else False
            return _is_wrong(source, path, at, index)

        def judge_backward(path: Path, index: int) -> Event | bool | None:
            if path.loss_of(index)[0] != "scaled":
                return None
            after = path.after(index, lambda e: e.kind == "backward")
            made = [e for e in after if e.kind in ("step", "optimizer_step")]
            for event in made:
                at = path.events.index(event)
                if event.kind == "optimizer_step" and _is_wrong(source, path, index, at):
                    return event
            return False if made else None

        seen: set[ast.expr] = set()
        for wrong in (*steps.always(("optimizer_step",), judge_step),
                      *steps.always(("backward",), judge_backward)):  # fmt: skip
            if wrong.event.node not in seen:
                seen.add(wrong.event.node)
                yield self._found(source, wrong.event, wrong.path)

    def _found(self, source: Source, event: Event, path: Path) -> Finding:
        before = path.before(path.events.index(event), lambda e: e.kind == "backward")
        twice = any(e.kind == "step" and e.optimizer == event.optimizer for e in before)
        message = f"{event.optimizer} steps on gradients that are still scaled"
        if twice:
            message = f"{event.optimizer} steps once more after the scaler's step"
        elif any(e.kind == "unscale" for e in before):
            message = f"{event.optimizer} steps on gradients that may be infinite"
        return self.finding(
            source, event.node, message, None if twice else self._by_scaler(source, event, path)
        )

    def _by_scaler(self, source: Source, event: Event, path: Path) -> Fix | None:
        optimizer = source.steps.expression(event, "optimizer", event)
        scaler = next(
            (text for e in path.events if e.scaler and e.kind in ("scale", "update", "unscale")
             if (text := source.steps.expression(e, "scaler", event))), "",
        )  # fmt: skip
        if not scaler or not optimizer or event.call.args or event.call.keywords:
            return None
        edit = source.edits.replace(event.node, f"{scaler}.step({optimizer})")
        return self.fix(f"call {scaler}.step", [edit], safe=False)


def _scaled_before(path: Path, index: int) -> int | None:
    """Where the last backward pass before a step is, if it was scaled."""
    for at in range(index - 1, -1, -1):
        if path.events[at].kind == "backward":
            return at if path.loss_of(at)[0] == "scaled" else None
    return None


def _is_tested(source: Source, step: Event, unscaled: Event) -> bool:
    """Whether the step has a condition that unscale_ has not: it may look for infinities."""
    known = {(guard.test, guard.holds) for guard in unscaled.guards}
    extra = [guard for guard in step.guards if (guard.test, guard.holds) not in known]
    return any(step.loop is None or not source.steps.variance.is_fixed(guard, step.loop)
               for guard in extra)  # fmt: skip


def _is_wrong(source: Source, path: Path, at: int, index: int) -> bool | None:
    """Whether the optimizer at `index` steps on what the scaled backward at `at` left."""
    step, backward = path.events[index], path.events[at]
    between = path.events[at + 1 : index]
    if any(e.kind in ("zero_grad", "optimizer_step", "passed") for e in between):
        return False
    unscaled = [e for e in between if e.kind == "unscale"]
    if unscaled and _is_tested(source, step, unscaled[-1]):
        return False
    if source.steps.is_switched(step, backward):
        return False
    for earlier in reversed(range(at)):
        kind = path.events[earlier].kind
        if kind in ("step", "optimizer_step", "update", "zero_grad"):
            break
        if kind == "backward" and path.loss_of(earlier)[0] != "scaled":
            return None
    return True
