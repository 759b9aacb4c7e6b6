"""AMP207: GradScaler for bfloat16."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding, Fix
from ampconvert.lint.rule import Case, Judged, Rule
from ampconvert.lint.source import Source


class ScalerWithBf16(Rule):
    """A GradScaler scales the loss of training under bfloat16 autocast.

    bfloat16 has the range of float32: no gradient above 1.2e-38 becomes zero in it, so there is
    nothing to scale. The scaler still reads and divides every gradient in each step, and waits
    for the GPU to learn whether one of them is infinite.

    Found where all autocast in the file is bfloat16, and float16 is named nowhere. A type that is
    chosen when the program runs is not reported.

    Source: https://docs.pytorch.org/docs/stable/amp.html#gradient-scaling
    """

    CODE = "AMP207"
    NAME = "scaler-with-bf16"
    ADVICE = "Make the scaler with enabled=False, or without it."
    FIX = "safe"
    FIX_SAFETY = "A disabled scaler passes losses and steps on; scales are powers of two."
    WORDS = ((b"Scaler",), (b"autocast",), (b"bfloat16", b"cpu"))
    JUDGED = Judged(true=2, read=2)
    VALID = (
        Case("""\
import torch


def train(model, loader, optimizer, dtype):
    scaler = torch.amp.GradScaler("cuda", enabled=dtype is torch.float16)
    for x in loader:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = model(x)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
"""),
        Case("""\
import torch

dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
scaler = torch.amp.GradScaler("cuda")


def loss_of(model, x):
    with torch.autocast("cuda", dtype=dtype):
        return model(x)
"""),
        Case("""\
import torch
from torch.cuda.amp import GradScaler, autocast


def train(model, teacher, x, optimizer):
    scaler = GradScaler()
    with torch.no_grad(), torch.autocast("cuda", dtype=torch.bfloat16):
        y = teacher(x)
    with autocast():
        loss = model(x, y)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
"""),
    )
    INVALID = (
        Case(
            """\
import torch as th

scaler = th.cuda.amp.GradScaler()  # AMP207


def train(model, loader, optimizer):
    for x in loader:
        with th.autocast(device_type="cuda", dtype=th.bfloat16):
            loss = model(x)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
""",
            """\
import torch as th

scaler = th.cuda.amp.GradScaler(enabled=False)  # AMP207


def train(model, loader, optimizer):
    for x in loader:
        with th.autocast(device_type="cuda", dtype=th.bfloat16):
            loss = model(x)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
""",
        ),
        Case(
            """\
import torch
from torch.amp import GradScaler as Scaler


class Trainer:
    dtype = torch.bfloat16

    def __init__(self, model):
        self.model = model
        self.scaler = Scaler("cuda", enabled=True)  # AMP207

    def loss(self, x):
        with torch.amp.autocast("cuda", dtype=self.dtype):
            return self.model(x)
""",
            """\
import torch
from torch.amp import GradScaler as Scaler


class Trainer:
    dtype = torch.bfloat16

    def __init__(self, model):
        self.model = model
        self.scaler = Scaler("cuda", enabled=False)  # AMP207

    def loss(self, x):
        with torch.amp.autocast("cuda", dtype=self.dtype):
            return self.model(x)
""",
        ),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Scalers of a file whose autocast is all bfloat16."""
        on = [a for a in source.autocasts.calls if a.enabled is not False]
        if not on or any(a.dtypes != {"bfloat16"} for a in on) or _names_float16(source):
            return
        for call in source.steps.roles.made:
            enabled = _enabled(source, call)
            if enabled is not None:
                yield self.finding(
                    source, call, "all autocast in this file is bfloat16, which needs no scaling",
                    self._disabled(source, call),
                )  # fmt: skip

    def _disabled(self, source: Source, call: ast.Call) -> Fix | None:
        given = next((k for k in call.keywords if k.arg == "enabled"), None)
        if len(call.args) > 1 or any(isinstance(a, ast.Starred) for a in call.args):
            return None
        edit = (
            source.edits.add_keyword(call, "enabled=False") if given is None
            else source.edits.replace(given.value, "False")
        )  # fmt: skip
        return self.fix("disable it", [edit], safe=True)


def _enabled(source: Source, call: ast.Call) -> bool | None:
    """Whether a scaler is on for certain; None if that depends."""
    given = [k.value for k in call.keywords if k.arg == "enabled"]
    if any(k.arg is None for k in call.keywords):
        return None
    if not given:
        return True
    only = len(source.values.of(given[0])) == 1
    return True if only and source.values.constants(given[0]) == {True} else None


def _names_float16(source: Source) -> bool:
    return bool(
        source.names.references("torch.float16")
        or any(not call.args for call in source.names.methods("half"))
        or any(isinstance(c.value, str) and c.value in ("float16", "fp16", "16-mixed")
               for c in source.nodes(ast.Constant))
    )  # fmt: skip
