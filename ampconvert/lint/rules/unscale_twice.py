"""AMP205: gradients unscaled twice, or after the step."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding, Fix
from ampconvert.lint.rule import Case, Rule
from ampconvert.lint.source import Source
from ampconvert.lint.step_events import Event
from ampconvert.lint.step_paths import Path
from ampconvert.lint.steps import Wrong


class UnscaleTwice(Rule):
    """`scaler.unscale_(optimizer)` is called a second time, or after `scaler.step(optimizer)`,
    before `scaler.update()`.

    It raises a RuntimeError: "unscale_() has already been called on this optimizer since the last
    update()". One call serves clipping, logging of norms and the step alike, for `step` unscales
    only what is not unscaled yet.

    Found where every way to the one call leads through the other: two under conditions of their
    own are not reported.

    Source: https://docs.pytorch.org/docs/stable/amp.html#torch.amp.GradScaler.unscale_
    """

    CODE = "AMP205"
    NAME = "unscale-twice"
    SEVERITY = "error"
    ADVICE = "Call scaler.unscale_(optimizer) once, before the first use of the gradients."
    FIX = "safe"
    FIX_SAFETY = "The call that is taken out raises, or does nothing where the scaler is disabled."
    WORDS = ((b"unscale_",),)
    VALID = (
        Case("""\
import torch


def train(model, loader, optim_g, optim_d, scaler):
    for x in loader:
        scaler.scale(model(x)).backward()
        scaler.unscale_(optim_g)
        scaler.unscale_(optim_d)
        scaler.step(optim_g)
        scaler.step(optim_d)
        scaler.update()
"""),
        Case("""\
import torch


def train(model, loader, optimizer, scaler, clip, log):
    for x in loader:
        scaler.scale(model(x)).backward()
        if clip:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        elif log:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
"""),
        Case("""\
import torch


def step(scaler, optimizer):
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()


def train(netd, netg, x, optimizer):
    scaler = torch.cuda.amp.GradScaler()
    scaler.scale(netd(x)).backward()
    step(scaler, optimizer)
    scaler.scale(netg(x)).backward()
    step(scaler, optimizer)
"""),
    )
    INVALID = (
        Case(
            """\
import torch


def norm_of(scaler, optimizer, model):
    scaler.unscale_(optimizer)
    return torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])


def train(model, loader, optimizer):
    scaler = torch.amp.GradScaler("cuda")
    for x in loader:
        scaler.scale(model(x)).backward()
        print(norm_of(scaler, optimizer, model))
        scaler.unscale_(optimizer)  # AMP205
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
""",
            """\
import torch


def norm_of(scaler, optimizer, model):
    scaler.unscale_(optimizer)
    return torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])


def train(model, loader, optimizer):
    scaler = torch.amp.GradScaler("cuda")
    for x in loader:
        scaler.scale(model(x)).backward()
        print(norm_of(scaler, optimizer, model))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
""",
        ),
        Case(
            """\
import torch as th


class Trainer:
    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer
        self.grad_scaler = th.cuda.amp.GradScaler()

    def step(self, x, log):
        self.grad_scaler.scale(self.model(x)).backward()
        self.grad_scaler.unscale_(self.optimizer)
        if log:
            self.grad_scaler.unscale_(self.optimizer)  # AMP205
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
""",
            """\
import torch as th


class Trainer:
    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer
        self.grad_scaler = th.cuda.amp.GradScaler()

    def step(self, x, log):
        self.grad_scaler.scale(self.model(x)).backward()
        self.grad_scaler.unscale_(self.optimizer)
        if log:
            pass  # AMP205
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
""",
        ),
        Case("""\
import torch


def train(model, x, optimizer, scaler, log):
    scaler.scale(model(x)).backward()
    if log:
        scaler.unscale_(optimizer)
    scaler.unscale_(optimizer)  # AMP205
    scaler.step(optimizer)
    scaler.update()
"""),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Calls of unscale_ that another one, or the step, always precedes or always leads to."""

        def judge_second(path: Path, index: int) -> bool:
            return _earlier(source, path, index) is not None

        def judge_first(path: Path, index: int) -> Event | bool:
            event = path.events[index]
            for at in range(index + 1, len(path.events)):
                later = path.events[at]
                if later.kind == "unscale" and _earlier(source, path, at) is event:
                    return later
            return False

        seen: set[ast.expr] = set()
        for wrong in source.steps.always(("unscale",), judge_second):
            seen.add(wrong.event.node)
            yield self._found(source, wrong, self._taken_out(source, wrong))
        for wrong in source.steps.always(("unscale", "step"), judge_first):
            if wrong.event.node not in seen:
                seen.add(wrong.event.node)
                yield self._found(source, wrong, None)

    def _found(self, source: Source, wrong: Wrong, fix: Fix | None) -> Finding:
        event = wrong.event
        index = wrong.path.events.index(event)
        earlier = _earlier(source, wrong.path, index)
        after = earlier is not None and earlier.kind == "step"
        return self.finding(
            source, event.node,
            f"{event.optimizer} has {'made its step' if after else 'been unscaled'} already",
            fix,
        )  # fmt: skip

    def _taken_out(self, source: Source, wrong: Wrong) -> Fix | None:
        statement = source.statement(wrong.event.node)
        if not isinstance(statement, ast.Expr) or statement.value is not wrong.event.node:
            return None
        edit = source.edits.delete(statement)
        return self.fix("take out this call", [edit], safe=True)


def _earlier(source: Source, path: Path, index: int) -> Event | None:
    """The unscale_ or step of the same optimizer since the last update."""
    event = path.events[index]
    if event.optimizer is None or event.scaler is None:
        return None
    steady = source.steps.is_steady(event.optimizer)
    for earlier in reversed(path.events[:index]):
        if earlier.kind in ("update", "passed", "make") and earlier.scaler == event.scaler:
            return None
        if (
            earlier.kind in ("unscale", "step")
            and earlier.scaler == event.scaler
            and earlier.optimizer == event.optimizer
            and (steady or earlier.loop is event.loop)
        ):
            return earlier
    return None
