"""AMP204: gradients clipped while they are still scaled."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding, Fix
from ampconvert.lint.rule import Case, Judged, Rule
from ampconvert.lint.source import Source
from ampconvert.lint.step_events import Event
from ampconvert.lint.step_places import Place
from ampconvert.lint.steps import Wrong


class ClipBeforeUnscale(Rule):
    """Gradients are clipped between `scaler.scale(loss).backward()` and `scaler.unscale_`.

    They are still multiplied by the scale, 65,536 at first. A norm limit of 1.0 then acts as one
    of 1.5e-5, and as another one whenever the scale changes: nearly every step is shrunk, by a
    factor that nobody chose.

    Found for the clipping functions of PyTorch and timm, also after the backward pass of
    Accelerate, Fabric or Lightning where the file asks them for fp16.
    Not found where the scaler and the clipping are in different files.

    Source: https://docs.pytorch.org/docs/stable/notes/amp_examples.html#gradient-clipping
    """

    CODE = "AMP204"
    NAME = "clip-before-unscale"
    SEVERITY = "error"
    ADVICE = "Call scaler.unscale_(optimizer) before clipping, once per step."
    FIX = "safe"
    FIX_SAFETY = "unscale_ does nothing where the scaler is disabled."
    WORDS = (
        (b".scale", b".update", b"Accelerator", b"Fabric", b"Trainer"),
        (b"backward", b".step"), (b"clip", b"get_total_norm"),
    )  # fmt: skip
    JUDGED = Judged(true=8, read=8)
    VALID = (
        Case("""\
import torch


def train(model, loader, optimizer, use_amp, max_norm):
    scaler = torch.amp.GradScaler("cuda")
    for x in loader:
        loss = model(x)
        if use_amp:
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
        else:
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        if use_amp:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()
"""),
        Case("""\
import torch
from torch.nn.utils import clip_grad_norm_


def train(model, loader, optimizer, scaler, fp16):
    for x in loader:
        loss = model(x)
        if scaler is None:
            loss.backward()
            clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        else:
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
"""),
        Case("""\
from accelerate import Accelerator

accelerator = Accelerator(mixed_precision="fp16")


def train(model, loader, optimizer):
    for x in loader:
        accelerator.backward(model(x))
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
"""),
    )
    INVALID = (
        Case(
            """\
import torch
from torch.cuda.amp import GradScaler as Scaler


class Trainer:
    def __init__(self, model, optimizer, use_amp):
        self.model, self.optimizer, self.use_amp = model, optimizer, use_amp
        self.scaler = Scaler(enabled=use_amp)

    def fit(self, loader):
        for i, x in enumerate(loader):
            self.scaler.scale(self.model(x)).backward()
            if i % 2 == 1:
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)  # AMP204
                self.scaler.step(self.optimizer)
                self.scaler.update()
""",
            """\
import torch
from torch.cuda.amp import GradScaler as Scaler


class Trainer:
    def __init__(self, model, optimizer, use_amp):
        self.model, self.optimizer, self.use_amp = model, optimizer, use_amp
        self.scaler = Scaler(enabled=use_amp)

    def fit(self, loader):
        for i, x in enumerate(loader):
            self.scaler.scale(self.model(x)).backward()
            if i % 2 == 1:
                self.scaler.unscale_(self.optimizer)
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)  # AMP204
                self.scaler.step(self.optimizer)
                self.scaler.update()
""",
        ),
        Case("""\
import torch
from torch.nn.utils import clip_grad_value_ as clip


def limit(model):
    clip(model.parameters(), 0.5)  # AMP204


def train(model, loader, optimizer):
    scaler = torch.amp.GradScaler("cuda")
    for x in loader:
        scaler.scale(model(x)).backward()
        limit(model)
        scaler.step(optimizer)
        scaler.update()
"""),
        Case(
            """\
import torch


def train(model, loader, optimizer, scaler, max_norm):
    for x in loader:
        scaler.scale(model(x)).backward()
        for group in optimizer.param_groups:
            torch.nn.utils.clip_grad_norm_(group["params"], max_norm)  # AMP204
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
""",
            """\
import torch


def train(model, loader, optimizer, scaler, max_norm):
    for x in loader:
        scaler.scale(model(x)).backward()
        scaler.unscale_(optimizer)
        for group in optimizer.param_groups:
            torch.nn.utils.clip_grad_norm_(group["params"], max_norm)  # AMP204
        scaler.step(optimizer)
        scaler.update()
""",
        ),
        Case("""\
import torch
from pytorch_lightning import LightningModule, Trainer


class Model(LightningModule):
    automatic_optimization = False

    def training_step(self, batch, index):
        self.manual_backward(self(batch))
        torch.nn.utils.clip_grad_norm_(self.parameters(), 1.0)  # AMP204
        self.optimizers().step()


Trainer(precision="16-mixed").fit(Model())
"""),
        Case(
            """\
from accelerate import Accelerator
from torch.nn.utils import clip_grad_norm_


def train(model, loader, optimizer):
    accelerator = Accelerator(mixed_precision="fp16")
    for x in loader:
        accelerator.backward(model(x))
        clip_grad_norm_(model.parameters(), 1.0)  # AMP204
        optimizer.step()
""",
            """\
from accelerate import Accelerator
from torch.nn.utils import clip_grad_norm_


def train(model, loader, optimizer):
    accelerator = Accelerator(mixed_precision="fp16")
    for x in loader:
        accelerator.backward(model(x))
        accelerator.clip_grad_norm_(model.parameters(), 1.0)  # AMP204
        optimizer.step()
""",
        ),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Clipping while gradients are certainly scaled."""
        for wrong in source.steps.always(("clip",), source.steps.are_scaled):
            backward = wrong.backward
            if backward is not None and backward.scaled == "framework scales":
                yield self.finding(
                    source, wrong.event.node,
                    "gradients are clipped that fp16 training keeps scaled",
                    self._by_framework(source, wrong.event, backward),
                )  # fmt: skip
                continue
            yield self.finding(
                source, wrong.event.node,
                f"gradients are clipped that {_scaler_of(wrong)} keeps scaled",
                self._unscaled(source, wrong),
            )  # fmt: skip

    def _by_framework(self, source: Source, clip: Event, backward: Event) -> Fix | None:
        accelerator = source.steps.expression(backward, "scaler", clip)
        name = source.names.of(clip.call.func).rpartition(".")[2]
        known = source.values.of(backward.call.func.value) if isinstance(
            backward.call.func, ast.Attribute) else ()  # fmt: skip
        from_accelerate = any(
            isinstance(value, ast.Call)
            and source.names.is_one(value.func, "accelerate.Accelerator")
            for value in known
        )
        if not accelerator or not from_accelerate or name not in _IN_ACCELERATE:
            return None
        edit = source.edits.replace(clip.call.func, f"{accelerator}.{name}")
        return self.fix(f"call {accelerator}.{name}", [edit], safe=True)

    def _unscaled(self, source: Source, wrong: Wrong) -> Fix | None:
        """unscale_ for the optimizer that steps next, where that is sure to be the one."""
        clip, path = wrong.event, wrong.path
        window = path.after(wrong.index, lambda e: e.kind == "backward")
        steps = [e for e in window if e.kind == "step"]
        if len({e.optimizer for e in steps}) != 1 or _clipped_before(wrong):
            return None
        step = steps[0]
        scaler = source.steps.expression(step, "scaler", clip)
        optimizer = source.steps.expression(step, "optimizer", clip)
        before = _statement_in(source, clip, step)
        known = {(guard.test, guard.holds) for guard in clip.guards}
        sure = all((guard.test, guard.holds) in known for guard in step.guards)
        if not scaler or not optimizer or before is None or not sure:
            return None
        edits = [source.edits.line_before(before, f"{scaler}.unscale_({optimizer})")]
        for late in (e for e in window if e.kind == "unscale"):
            statement = source.statement(late.node)
            if not isinstance(statement, ast.Expr) or late.function is not clip.function:
                return None
            edits.append(source.edits.delete(statement))
        return self.fix(f"call {scaler}.unscale_ before", edits, safe=True)


def _scaler_of(wrong: Wrong) -> Place | None:
    """The scaler of the backward pass, or where that is elsewhere, of the step."""
    if wrong.backward is not None:
        return wrong.backward.scaler
    return next((e.scaler for e in wrong.path.after(wrong.index) if e.kind == "step"), None)


_IN_ACCELERATE = ("clip_grad_norm_", "clip_grad_value_")


def _clipped_before(wrong: Wrong) -> bool:
    """Whether other gradients of the same backward pass were clipped before: one unscale_ is
    enough, and two raise.
    """
    return any(
        e.kind == "clip" and e.node is not wrong.event.node
        for e in wrong.path.before(wrong.index, lambda e: e.kind == "backward")
    )


def _statement_in(source: Source, clip: Event, step: Event) -> ast.stmt | None:
    """The statement of `clip` that runs as often as `step`: the loop around it, if it has more."""
    if clip.loops[: len(step.loops)] != step.loops:
        return None
    inner = clip.loops[len(step.loops) :]
    statement = inner[0] if inner else source.statement(clip.node)
    return statement if source.function(statement) is source.function(step.node) else None
