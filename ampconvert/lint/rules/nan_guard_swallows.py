"""AMP215: iterations with a loss that is not finite are skipped."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding
from ampconvert.lint.rule import Case, Judged, Rule
from ampconvert.lint.source import Source


class NanGuardSwallows(Rule):
    """A training loop skips iterations whose loss is NaN or infinite.

    Under float16 a loss that is not finite is an overflow in the forward pass, beyond 65,504. It
    comes again with the same data, and the GradScaler, which is not asked, never reports it. With
    several processes the one that skips leaves the others waiting for its gradients: training
    hangs. Infinite gradients need no guard, for `scaler.step` skips those steps itself.

    Found for `continue` under a test of the loss in the loop of the backward pass. A guard that
    stops the program is not reported.

    Source: https://github.com/pytorch/audio/issues/3749
    """

    CODE = "AMP215"
    NAME = "nan-guard-swallows"
    SEVERITY = "info"
    DEFAULT = False
    ADVICE = "Find the operator that overflows, or stop the run; let the scaler skip steps."
    WORDS = ((b"isnan", b"isfinite", b"isinf"), (b"continue",), (b"backward",))
    JUDGED = Judged(true=1, read=1)
    VALID = (
        Case("""\
import sys
import math
import torch


def train(model, loader, optimizer):
    scaler = torch.amp.GradScaler("cuda")
    for x in loader:
        loss = model(x)
        if not math.isfinite(loss.item()):
            sys.exit(1)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
"""),
        Case("""\
import torch


def train(model, loader, optimizer):
    for x in loader:
        loss = model(x)
        if torch.isnan(loss):
            continue
        loss.backward()
        optimizer.step()
"""),
        Case("""\
import torch


def train(model, loader, optimizer):
    scaler = torch.amp.GradScaler("cuda")
    for x in loader:
        if torch.isnan(x).any():
            continue
        loss = model(x)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
"""),
    )
    INVALID = (
        Case("""\
import torch


def train(model, loader, optimizer):
    scaler = torch.amp.GradScaler("cuda")
    for x in loader:
        loss = model(x)
        if torch.isnan(loss) or torch.isinf(loss):  # AMP215
            print("skipped")
            continue
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
"""),
        Case("""\
import math
import torch as th
from torch.cuda.amp import autocast as ac


class Trainer:
    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer
        self.scaler = th.cuda.amp.GradScaler()

    def backward(self, loss):
        self.scaler.scale(loss).backward()

    def fit(self, loader):
        for x in loader:
            with ac():
                total = self.model(x)
            value = total.item()
            if not math.isfinite(value):  # AMP215
                continue
            self.backward(total)
            self.scaler.step(self.optimizer)
            self.scaler.update()
"""),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Tests of the loss with a continue below, before the backward pass of the same loop."""
        tests = source.names.methods("isnan", "isfinite", "isinf")
        tests += source.names.calls("math.isnan", "math.isfinite", "math.isinf")
        tests += source.names.calls("torch.isnan", "torch.isfinite", "torch.isinf")
        seen: set[ast.If] = set()
        for test in sorted(set(tests), key=lambda call: (call.lineno, call.col_offset)):
            guard = source.statement(test)
            if not isinstance(guard, ast.If) or guard in seen or not _skips(guard):
                continue
            if _goes_backward(source, guard, test):
                seen.add(guard)
                yield self.finding(
                    source, guard.test, "iterations whose loss is not finite are skipped"
                )


def _skips(guard: ast.If) -> bool:
    return isinstance(guard.body[-1], ast.Continue)


def _goes_backward(source: Source, guard: ast.If, test: ast.Call) -> bool:
    """Whether what is tested is the loss that goes backward, scaled, in the same loop."""
    loop = source.inside(guard, ast.For, ast.While)
    tested = {n.id for n in ast.walk(test) if isinstance(n, ast.Name)}
    for name in list(tested):
        tested |= _sources(source, test, name)
    for event in source.steps.events:
        if event.kind != "backward" or loop not in event.loops or event.scaled == "plain":
            continue
        here = source.function(guard)
        sites = [site for site in (event.node, *event.calls) if source.function(site) is here]
        losses = {n.id for site in sites for n in ast.walk(site) if isinstance(n, ast.Name)}
        if tested & losses and event.loop is loop:
            return True
    return False


def _sources(source: Source, test: ast.Call, name: str) -> set[str]:
    """The names that `value = loss.item()` reads."""
    function = source.scope(test)
    return {
        node.id
        for binding in source.scopes.all_of(function, name)
        if binding.how == "value" and isinstance(binding.value, ast.Call)
        and isinstance(binding.value.func, ast.Attribute) and not binding.value.args
        for node in ast.walk(binding.value.func.value)
        if isinstance(node, ast.Name)
    }  # fmt: skip
