"""AMP213: GradScaler.step with a closure."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding
from ampconvert.lint.rule import Case, Rule
from ampconvert.lint.source import Source


class ScalerWithClosure(Rule):
    """`scaler.step` is given a closure, or an optimizer that needs one.

    `scaler.step(optimizer, closure=f)` raises a RuntimeError. `scaler.step(optimizer, f)` passes
    unnoticed: the optimizer then calls `f`, whose backward pass leaves gradients that are scaled,
    and takes them as they are. LBFGS has no step without a closure.

    Code that hands on a closure of its caller is not reported.

    Source: https://docs.pytorch.org/docs/stable/amp.html#torch.amp.GradScaler.step
    """

    CODE = "AMP213"
    NAME = "scaler-with-closure"
    SEVERITY = "error"
    ADVICE = "Train with bfloat16 and without a scaler, or with an optimizer that needs no closure."
    WORDS = ((b".step",), (b"Scaler", b"unscale_", b".scale", b".update"))
    VALID = (
        Case("""\
import torch


class Plugin:
    def __init__(self):
        self.scaler = torch.amp.GradScaler("cuda")

    def step(self, optimizer, closure=None, **kwargs):
        return self.scaler.step(optimizer, closure, **kwargs)
"""),
        Case("""\
import torch


def train(model, x):
    optimizer = torch.optim.LBFGS(model.parameters())

    def closure():
        optimizer.zero_grad()
        loss = model(x)
        loss.backward()
        return loss

    optimizer.step(closure)
"""),
        Case("""\
import torch


def train(model, x, clip):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.cuda.amp.GradScaler()
    scaler.scale(model(x)).backward()
    scaler.step(optimizer)
    scaler.update()
"""),
    )
    INVALID = (
        Case("""\
import torch
from torch.cuda.amp import GradScaler


def train(model, loader):
    optimizer = torch.optim.Adam(model.parameters())
    scaler = GradScaler()
    for x in loader:

        def closure():
            optimizer.zero_grad()
            loss = scaler.scale(model(x))
            loss.backward()
            return loss

        scaler.step(optimizer, closure)  # AMP213
        scaler.update()
"""),
        Case("""\
import torch as th


class Trainer:
    def __init__(self, model):
        self.model = model
        self.optimizer = th.optim.LBFGS(model.parameters())
        self.scaler = th.amp.GradScaler("cuda")

    def step(self, x):
        self.scaler.scale(self.model(x)).backward()
        self.scaler.step(self.optimizer)  # AMP213
        self.scaler.update()
"""),
        Case("""\
import torch


def train(model, loader, optimizer, scaler):
    for x in loader:
        scaler.scale(model(x)).backward()
        scaler.step(optimizer, closure=lambda: model(x))  # AMP213
        scaler.update()
"""),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Steps of scalers with a second argument, or with LBFGS."""
        for call in source.names.methods("step"):
            assert isinstance(call.func, ast.Attribute)
            given = [*call.args, *(k.value for k in call.keywords)]
            if not given or not source.steps.roles.is_scaler(call.func.value, {}):
                continue
            closures = [*call.args[1:], *(k.value for k in call.keywords if k.arg == "closure")]
            if any(_is_own(source, closure) for closure in closures):
                yield self.finding(source, call, "a closure is not supported with a GradScaler")
            elif not closures and _is_lbfgs(source, given[0]):
                yield self.finding(source, call, "LBFGS needs a closure, which GradScaler has not")


def _is_own(source: Source, closure: ast.expr) -> bool:
    """Whether a closure is made in this file: a function, a lambda or a partial one."""
    return any(
        isinstance(value, ast.Lambda)
        or source.values.definition(value) is not None
        or (isinstance(value, ast.Call)
            and source.names.is_one(value.func, "functools.partial"))
        for value in source.values.of(closure)
    )  # fmt: skip


def _is_lbfgs(source: Source, optimizer: ast.expr) -> bool:
    values = source.values.of(optimizer)
    return bool(values) and all(
        isinstance(v, ast.Call) and source.names.is_one(v.func, "torch.optim.LBFGS") for v in values
    )
