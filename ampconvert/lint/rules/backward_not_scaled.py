"""AMP201: a loss that goes backward unscaled, before GradScaler.step."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding, Fix
from ampconvert.lint.rule import Case, Rule
from ampconvert.lint.source import Source
from ampconvert.lint.step_events import Event
from ampconvert.lint.step_paths import Path


class BackwardNotScaled(Rule):
    """The loss goes backward without `scaler.scale(loss)`, and `scaler.step(optimizer)` follows.

    `scaler.step` divides the gradients by the scale, 65,536 at first. Gradients that were never
    multiplied by it become 65,536 times too small, and float16 gradients below 6e-8 were lost
    already. A scaler that has never scaled a loss raises an AssertionError in `step`.

    Found where every backward pass that leads to the step is seen and none is scaled. Not found
    where the loss comes from a function of another file whose name says that it scales.

    Source: https://docs.pytorch.org/docs/stable/notes/amp_examples.html#typical-mixed-precision-training
    """

    CODE = "AMP201"
    NAME = "backward-not-scaled"
    SEVERITY = "error"
    ADVICE = "Call scaler.scale(loss).backward()."
    FIX = "unsafe"
    FIX_SAFETY = "The size of every update changes, to what it should have been."
    WORDS = ((b".step",), (b"backward",), (b"update", b"unscale_", b"scale", b"Scaler"))
    VALID = (
        Case("""\
import torch
from torch.cuda.amp import GradScaler


def train(model, loader, optimizer, use_amp):
    scaler = GradScaler() if use_amp else None
    for x, y in loader:
        loss = model(x, y)
        if scaler is not None:
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        else:
            loss.backward()
            optimizer.step()
"""),
        Case("""\
import torch


class Trainer:
    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer
        self.scaler = torch.amp.GradScaler("cuda")

    def loss(self, x):
        return self.scaler.scale(self.model(x))

    def fit(self, loader):
        for x in loader:
            loss = self.loss(x)
            loss.backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
"""),
        Case("""\
import torch


def train(model, loader, optimizer, args):
    scaler = torch.amp.GradScaler("cuda", enabled=False)
    for x in loader:
        loss = model(x)
        loss.backward()
        scaler.step(optimizer)
        scaler.update()
"""),
    )
    INVALID = (
        Case(
            """\
import torch as th


def train(model, loader, optimizer):
    scaler = th.cuda.amp.GradScaler()
    for x, y in loader:
        with th.autocast("cuda"):
            loss = model(x, y)
        (loss / 2).backward()  # AMP201
        scaler.step(optimizer)
        scaler.update()
""",
            """\
import torch as th


def train(model, loader, optimizer):
    scaler = th.cuda.amp.GradScaler()
    for x, y in loader:
        with th.autocast("cuda"):
            loss = model(x, y)
        (scaler.scale(loss / 2)).backward()  # AMP201
        scaler.step(optimizer)
        scaler.update()
""",
        ),
        Case(
            """\
from torch.amp import GradScaler as Scaler


class Trainer:
    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer
        self.scaler = Scaler("cuda")

    def finish(self):
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def fit(self, loader):
        for x in loader:
            loss = self.model(x)
            loss.backward()  # AMP201
            self.finish()
"""
        ),
        Case(
            """\
import torch


def train(model, loader, optimizer):
    scaler = torch.amp.GradScaler("cuda")
    for x in loader:
        loss = model(x)
        scaled = scaler.scale(loss)
        loss.backward()  # AMP201
        scaler.step(optimizer)
        scaler.update()
        print(scaled)
""",
            """\
import torch


def train(model, loader, optimizer):
    scaler = torch.amp.GradScaler("cuda")
    for x in loader:
        loss = model(x)
        scaled = scaler.scale(loss)
        scaler.scale(loss).backward()  # AMP201
        scaler.step(optimizer)
        scaler.update()
        print(scaled)
""",
        ),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Steps of a scaler all of whose backward passes are plain."""
        steps = source.steps

        def judge(path: Path, index: int) -> Event | bool | None:
            backward = _backward_of(path, index)
            if not backward:
                return None
            if any(path.loss_of(at)[0] != "plain" for at in backward):
                return False
            event, last = path.events[index], path.events[backward[-1]]
            apart = steps.is_switched(event, last) or steps.is_switched(last, event)
            return False if apart else last

        for wrong in steps.always(("step",), judge):
            yield self.finding(
                source, wrong.event.node,
                f"{wrong.judged.scaler} never scaled this loss, and divides its gradients",
                self._scaled(source, wrong.event, wrong.judged),
            )  # fmt: skip

    def _scaled(self, source: Source, backward: Event, step: Event) -> Fix | None:
        scaler = source.steps.expression(step, "scaler", backward)
        call = backward.call
        loss = call.func.value if isinstance(call.func, ast.Attribute) else None
        if not scaler or loss is None or call.args:  # torch.autograd.backward(loss)
            return None
        edits = [source.edits.before(loss, f"{scaler}.scale("), source.edits.after(loss, ")")]
        return self.fix(f"call {scaler}.scale", edits, safe=False)


def _backward_of(path: Path, index: int) -> list[int]:
    """Where the backward passes are that a step uses: since the one before."""
    found = []
    for at in range(index - 1, -1, -1):
        if path.events[at].kind in ("step", "optimizer_step", "update"):
            break
        if path.events[at].kind == "backward":
            found.append(at)
    return found[::-1]
