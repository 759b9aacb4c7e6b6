"""AMP211: a learning-rate scheduler that steps although the optimizer did not."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding, Fix
from ampconvert.lint.rule import Case, Judged, Rule
from ampconvert.lint.source import Source
from ampconvert.lint.step_events import Event
from ampconvert.lint.step_paths import Path


class SchedulerOnSkippedStep(Rule):
    """A scheduler steps in every iteration, also in those whose step the GradScaler skips.

    `scaler.step` leaves the optimizer's step out when a gradient is infinite. That is usual in the
    first iterations, while the scale comes down from 65,536, and after each of its growths. The
    schedule runs ahead of the optimizer then; PyTorch warns of "lr_scheduler.step() before
    optimizer.step()" if the very first step is skipped. Whether a step was skipped shows in the
    scale: `update` has made it smaller. Where training skips a dozen steps of many thousands, the
    difference is small, and some leave it at that.

    Not reported for schedulers that step once per epoch, or in micro-batches too whose gradients
    are only accumulated, or are told the iteration or a metric.

    Sources: https://github.com/pytorch/pytorch/issues/44511
    and https://github.com/huggingface/transformers/pull/11144
    """

    CODE = "AMP211"
    NAME = "scheduler-on-skipped-step"
    SEVERITY = "info"
    ADVICE = "Step the scheduler only if scaler.update() did not make the scale smaller."
    FIX = "unsafe"
    FIX_SAFETY = "The schedule changes where steps are skipped, and get_scale waits for the GPU."
    WORDS = ((b".step",), (b".scale",), (b"backward",))
    JUDGED = Judged(true=55, read=56)
    VALID = (
        Case("""\
import torch


def train(model, loader, optimizer, scaler, epochs):
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for epoch in range(epochs):
        for x in loader:
            scaler.scale(model(x)).backward()
            scaler.step(optimizer)
            scaler.update()
        scheduler.step()
"""),
        Case("""\
import torch


def train(model, loader, optimizer, lr_scheduler):
    scaler = torch.amp.GradScaler("cuda")
    for x in loader:
        scaler.scale(model(x)).backward()
        scaler.step(optimizer)
        before = scaler.get_scale()
        scaler.update()
        skipped = scaler.get_scale() < before
        if not skipped:
            lr_scheduler.step()
"""),
        Case("""\
import torch


def train(model, loader, optimizer, scaler, use_amp):
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=1000)
    for x in loader:
        loss = model(x)
        if use_amp:
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        else:
            loss.backward()
            optimizer.step()
            scheduler.step()
"""),
        Case("""\
import torch


def train(model, loader, optimizer, scaler, scheduler, n):
    for i, x in enumerate(loader):
        scaler.scale(model(x) / n).backward()
        if (i + 1) % n == 0:
            scaler.step(optimizer)
            scaler.update()
        scheduler.step()
"""),
    )
    INVALID = (
        Case(
            """\
import torch
from torch.optim.lr_scheduler import OneCycleLR as Cycle


def train(model, loader, optimizer):
    schedule = Cycle(optimizer, 0.1, total_steps=1000)
    scaler = torch.cuda.amp.GradScaler()
    for x in loader:
        scaler.scale(model(x)).backward()
        scaler.step(optimizer)
        scaler.update()
        schedule.step()  # AMP211
""",
            """\
import torch
from torch.optim.lr_scheduler import OneCycleLR as Cycle


def train(model, loader, optimizer):
    schedule = Cycle(optimizer, 0.1, total_steps=1000)
    scaler = torch.cuda.amp.GradScaler()
    for x in loader:
        scaler.scale(model(x)).backward()
        scaler.step(optimizer)
        scale_before = scaler.get_scale()
        scaler.update()
        if scaler.get_scale() >= scale_before:
            schedule.step()  # AMP211
""",
        ),
        Case(
            """\
import torch


class Trainer:
    def __init__(self, model, optimizer, warmup):
        self.model, self.optimizer = model, optimizer
        self.scaler = torch.amp.GradScaler("cuda")
        self.schedule = torch.optim.lr_scheduler.LinearLR(optimizer)
        self.warmup = warmup

    def step(self, x):
        self.scaler.scale(self.model(x)).backward()
        self.scaler.step(self.optimizer)
        self.schedule.step()  # AMP211
        self.scaler.update()
""",
            """\
import torch


class Trainer:
    def __init__(self, model, optimizer, warmup):
        self.model, self.optimizer = model, optimizer
        self.scaler = torch.amp.GradScaler("cuda")
        self.schedule = torch.optim.lr_scheduler.LinearLR(optimizer)
        self.warmup = warmup

    def step(self, x):
        self.scaler.scale(self.model(x)).backward()
        self.scaler.step(self.optimizer)
        scale_before = self.scaler.get_scale()
        self.scaler.update()
        if self.scaler.get_scale() >= scale_before:
            self.schedule.step()  # AMP211
""",
        ),
        Case("""\
import torch as th


def finish(scaler, optimizer):
    scaler.step(optimizer)
    scaler.update()


def train(model, loader, optimizer, scheduler, n):
    scaler = th.amp.GradScaler("cuda")
    for i, x in enumerate(loader):
        scaler.scale(model(x)).backward()
        if i % n == 0:
            finish(scaler, optimizer)
            scheduler.step()  # AMP211
"""),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Scheduler steps as frequent as the scaler's step, with no test of the scale."""
        steps = source.steps
        if not any(event.kind == "scheduler_step" for event in steps.events):
            return

        def judge(path: Path, index: int) -> bool | None:
            event = path.events[index]
            made = [e for e in path.events[:index] if e.kind == "step" and e.loops == event.loops]
            scaled = any(e.scaled == "scaled" for e in path.events[:index])
            if not scaled or event.call.args or event.call.keywords:
                return None
            if not made:
                stepped = any(e.kind in ("step", "optimizer_step") for e in path.events[:index])
                return None if stepped else False  # it counts iterations, not steps
            if _is_checked(source, path) or steps.is_switched(event, made[-1]):
                return False
            return None if _has_own_condition(source, event, made[-1]) else True

        for wrong in steps.always(("scheduler_step",), judge):
            scaler = next(e.scaler for e in wrong.path.events if e.kind == "step")
            yield self.finding(
                source, wrong.event.node,
                f"{wrong.event.target} steps also where {scaler} skips the optimizer's step",
                self._guarded(source, wrong.event, wrong.path),
            )  # fmt: skip

    def _guarded(self, source: Source, event: Event, path: Path) -> Fix | None:
        """The scale before the update kept, and a test of it around the scheduler's step."""
        statement = source.statement(event.node)
        updates = [e for e in path.events if e.kind == "update" and e.function is event.function]
        if len(updates) != 1 or not isinstance(statement, ast.Expr):
            return None
        update, before = source.statement(updates[0].node), "scale_before"
        block = source.block(statement)
        scaler = source.steps.expression(updates[0], "scaler", event)
        named = any(name.id == before for name in source.nodes(ast.Name))
        if update not in block or not scaler or named or not isinstance(update, ast.Expr):
            return None
        kept = source.edits.line_before(update, f"{before} = {scaler}.get_scale()")
        if statement.lineno != statement.end_lineno or kept is None:
            return None
        starts = source.line_starts
        end = starts[statement.lineno] if statement.lineno < len(starts) else len(source.data)
        text = source.data[source.span(statement)[0] : end].decode("utf-8", "replace").rstrip()
        newline, indent = source.edits.newline, source.edits.indent(statement)
        inner = "\\t" if "\\t" in indent else "    "
        guarded = f"if {scaler}.get_scale() >= {before}:{newline}{indent}{inner}{text}"
        if block.index(update) < block.index(statement):
            first = source.span(statement)[0]
            rest = source.edits.replace(statement, guarded)
            rest = type(rest)(first, first + len(text.encode()), guarded)
            return self.fix("step it only after the optimizer", [kept, rest], safe=False)
        moved = source.edits.line_after(update, guarded)
        edits = [source.edits.delete(statement), kept, moved]
        return self.fix("step it only after the optimizer", edits, safe=False)


def _is_checked(source: Source, path: Path) -> bool:
    """Whether the code looks at the scale: in a comparison, or in a name that one uses."""
    for event in path.events:
        if event.kind != "get_scale":
            continue
        above = source.parents[event.node]
        if isinstance(above, ast.Compare):
            return True
        if isinstance(above, ast.Assign) and isinstance(above.targets[0], ast.Name):
            kept = above.targets[0].id
            for compare in source.nodes(ast.Compare):
                if any(isinstance(n, ast.Name) and n.id == kept for n in ast.walk(compare)):
                    return True
    return any(
        word in node.attr
        for node in source.nodes(ast.Attribute)
        for word in ("found_inf", "_step_count", "step_was_skipped", "_scale")
        if word == node.attr or word != "_scale"
    )


def _has_own_condition(source: Source, event: Event, step: Event) -> bool:
    """Whether the scheduler steps under a condition that changes from turn to turn, and the
    optimizer does not: it may be about skipped steps.
    """
    shared = {(guard.test, guard.holds) for guard in step.guards}
    extra = [g for g in event.guards if (g.test, g.holds) not in shared]
    loop = event.loop
    if loop is None:
        return any(isinstance(node, ast.Call) for g in extra for node in ast.walk(g.node))
    return not all(source.steps.variance.is_fixed(guard, loop) for guard in extra)
