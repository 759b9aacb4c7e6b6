"""AMP214: gradients measured or used while they are still scaled."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding
from ampconvert.lint.rule import Case, Rule
from ampconvert.lint.source import Source
from ampconvert.lint.step_paths import Path


class ScaledGradUse(Rule):
    """Gradients are read between `scaler.scale(loss).backward()` and `scaler.unscale_`, or come
    from `torch.autograd.grad` of a scaled loss.

    Their norm, mean or largest element is 65,536 times what it says, or whatever the scale is at
    that moment; a clamp at 1 cuts nearly all of them. A gradient penalty that is made of them has
    to be divided by `scaler.get_scale()` first.

    Found for norms, means, extremes and clamps of `.grad`. Not found where the measure divides
    the same gradients again, and for tests of infinities, which the scale does not change.

    Sources: https://docs.pytorch.org/docs/stable/notes/amp_examples.html#working-with-unscaled-gradients
    and https://docs.pytorch.org/docs/stable/notes/amp_examples.html#gradient-penalty
    """

    CODE = "AMP214"
    NAME = "scaled-grad-use"
    ADVICE = "Call scaler.unscale_(optimizer) first, or divide by scaler.get_scale()."
    WORDS = (
        (b".scale", b"Accelerator", b"Fabric", b"Trainer"),
        (b"backward", b"autograd"),
        (b".grad",),
    )
    VALID = (
        Case("""\
import torch


def train(model, loader, optimizer, scaler):
    for x in loader:
        scaler.scale(model(x)).backward()
        if any(not p.grad.isfinite().all().item() for p in model.parameters()):
            print("overflow")
        scaler.unscale_(optimizer)
        print(sum(p.grad.norm().item() for p in model.parameters() if p.grad is not None))
        scaler.step(optimizer)
        scaler.update()
"""),
        Case("""\
import torch


def penalised(model, x, scaler, optimizer):
    loss = model(x)
    grads = torch.autograd.grad(scaler.scale(loss), model.parameters(), create_graph=True)
    inverse = 1.0 / scaler.get_scale()
    penalty = sum((g * inverse).pow(2).sum() for g in grads).sqrt()
    scaler.scale(loss + penalty).backward()
    scaler.step(optimizer)
    scaler.update()
"""),
        Case("""\
import torch


def attack(model, epsilon):
    for p in model.parameters():
        norm = torch.norm(p.grad)
        if norm != 0:
            p.data.add_(epsilon * p.grad / norm)


def train(model, loader, optimizer, scaler):
    for x in loader:
        scaler.scale(model(x)).backward()
        attack(model, 1.0)
        scaler.step(optimizer)
        scaler.update()
"""),
    )
    INVALID = (
        Case("""\
import torch


def norms(model):
    return [p.grad.detach().norm(2) for p in model.parameters()]  # AMP214


def train(model, loader, optimizer):
    scaler = torch.amp.GradScaler("cuda")
    for x in loader:
        scaler.scale(model(x)).backward()
        print(norms(model))
        scaler.step(optimizer)
        scaler.update()
"""),
        Case("""\
from torch.cuda.amp import GradScaler as Scaler


class Trainer:
    def __init__(self, model, optimizer):
        self.model, self.optimizer, self.scaler = model, optimizer, Scaler()

    def step(self, x):
        self.scaler.scale(self.model(x)).backward()
        for p in self.model.parameters():
            p.grad.data.clamp_(-1, 1)  # AMP214
        self.scaler.step(self.optimizer)
        self.scaler.update()
"""),
        Case("""\
import torch as th


def penalised(model, x, optimizer):
    scaler = th.amp.GradScaler("cuda")
    loss = model(x)
    grads = th.autograd.grad(  # AMP214
        outputs=scaler.scale(loss), inputs=model.parameters(), create_graph=True
    )
    penalty = sum(g.pow(2).sum() for g in grads)
    scaler.scale(loss + penalty).backward()
    scaler.step(optimizer)
    scaler.update()
"""),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Measures of scaled gradients, and gradients of scaled losses that nothing divides."""
        steps = source.steps

        def judge_penalty(path: Path, index: int) -> bool | None:
            if path.loss_of(index)[0] != "scaled":
                return None
            return not any(e.kind in ("get_scale", "passed") for e in path.events)

        for wrong in steps.always(("grad",), steps.are_scaled):
            if not _divides(source, wrong.event.node):
                backward = wrong.backward
                assert backward is not None
                scaler = f"{backward.scaler} keeps" if backward.scaler else "fp16 training keeps"
                yield self.finding(
                    source, wrong.event.node, f"gradients are measured that {scaler} scaled"
                )
        for wrong in steps.always(("autograd_grad",), judge_penalty):
            yield self.finding(
                source, wrong.event.node, "gradients of a scaled loss are used as they are"
            )


def _divides(source: Source, gradient: ast.expr) -> bool:
    """Whether the measure of a gradient is divided by somewhere in the function."""
    statement = source.statement(gradient)
    names = {n.id for n in ast.walk(statement) if isinstance(n, ast.Name)
             and isinstance(n.ctx, ast.Store)}  # fmt: skip
    return any(
        isinstance(node, ast.Name) and node.id in names
        for quotient in source.nodes(ast.BinOp)
        if isinstance(quotient.op, ast.Div)
        and source.function(quotient) is source.function(gradient)
        for node in ast.walk(quotient.right)
    )
