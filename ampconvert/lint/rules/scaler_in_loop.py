"""AMP209: a GradScaler made anew in every iteration."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding, Fix
from ampconvert.lint.rule import Case, Judged, Rule
from ampconvert.lint.source import Source
from ampconvert.lint.step_events import Event


class ScalerInLoop(Rule):
    """A GradScaler is made inside the loop whose losses it scales.

    Each iteration begins with a scale of 65,536 again. Where that is too large, gradients
    overflow and every step is skipped: training stands still, and nothing is reported. The scale
    never grows either.

    One scaler per epoch or per fold, outside of the innermost loop, is not reported; nor is one
    that is made together with its optimizer.

    Source: https://docs.pytorch.org/docs/stable/notes/amp_examples.html#typical-mixed-precision-training
    """

    CODE = "AMP209"
    NAME = "scaler-in-loop"
    SEVERITY = "error"
    ADVICE = "Make the scaler once, before the training loop."
    FIX = "unsafe"
    FIX_SAFETY = "The scale changes from iteration to iteration then, as it should."
    WORDS = ((b"Scaler",), (b"backward",), (b".scale",))
    JUDGED = Judged(true=1, read=1)
    VALID = (
        Case("""\
import torch


def train(model, loader, optimizer, epochs):
    for epoch in range(epochs):
        scaler = torch.amp.GradScaler("cuda")
        for x in loader:
            scaler.scale(model(x)).backward()
            scaler.step(optimizer)
            scaler.update()
"""),
        Case("""\
import torch


def sweep(make, rates, x):
    for rate in rates:
        model = make()
        optimizer = torch.optim.SGD(model.parameters(), lr=rate)
        scaler = torch.cuda.amp.GradScaler()
        scaler.scale(model(x)).backward()
        scaler.step(optimizer)
        scaler.update()
"""),
        Case("""\
from sklearn.preprocessing import StandardScaler


def fit(model, tables, optimizer):
    for table in tables:
        scaler = StandardScaler()
        loss = model(scaler.fit_transform(table))
        loss.backward()
        optimizer.step()
"""),
    )
    INVALID = (
        Case(
            """\
import torch


def train(model, loader, optimizer):
    for x in loader:
        scaler = torch.amp.GradScaler("cuda")  # AMP209
        scaler.scale(model(x)).backward()
        scaler.step(optimizer)
        scaler.update()
""",
            """\
import torch


def train(model, loader, optimizer):
    scaler = torch.amp.GradScaler("cuda")
    for x in loader:
        scaler.scale(model(x)).backward()
        scaler.step(optimizer)
        scaler.update()
""",
        ),
        Case("""\
from torch.cuda.amp import GradScaler as Scaler


class Trainer:
    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer

    def step(self, x):
        self.scaler = Scaler()  # AMP209
        self.scaler.scale(self.model(x)).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def fit(self, loader):
        for x in loader:
            self.step(x)
"""),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Scalers made in the innermost loop around the backward pass."""
        events = source.steps.events
        seen: set[ast.expr] = set()
        for made in (e for e in events if e.kind == "make" and e.loop is not None):
            used = [e for e in events if e.scaled == "scaled" and e.scaler == made.scaler
                    and e.loops == made.loops]  # fmt: skip
            if not used or made.scaler is None or made.node in seen or _is_fresh(source, made):
                continue
            seen.add(made.node)
            yield self.finding(
                source, made.node, f"{made.scaler} begins anew in every iteration",
                self._before(source, made),
            )  # fmt: skip

    def _before(self, source: Source, made: Event) -> Fix | None:
        statement = source.statement(made.node)
        loop = made.loop
        inside = loop is not None and source.parents[statement] is loop
        names = {n.id for n in ast.walk(made.node) if isinstance(n, ast.Name)}
        bound = {n.id for n in ast.walk(loop) if isinstance(n, ast.Name)
                 and isinstance(n.ctx, ast.Store)} if loop is not None else set()  # fmt: skip
        if not inside or loop is None or names & bound or statement.lineno != statement.end_lineno:
            return None
        if len(source.block(statement)) == 1 or not isinstance(statement, ast.Assign):
            return None
        edits = [
            source.edits.line_before(loop, source.segment(statement)),
            source.edits.delete(statement),
        ]
        return self.fix("make it before the loop", edits, safe=False)


def _is_fresh(source: Source, made: Event) -> bool:
    """Whether an optimizer is made in the same loop: each turn is a training of its own then."""
    return any(
        source.kinds.is_a(call, "optimizer")
        for assigned in source.nodes(ast.Assign)
        if isinstance(call := assigned.value, ast.Call)
        and any(above is made.loop for above in source.ancestors(assigned))
    )
