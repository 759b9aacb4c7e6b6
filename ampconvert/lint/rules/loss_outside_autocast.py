"""AMP113: a loss computed behind the autocast region, from its low outputs."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding
from ampconvert.lint.makers import Maker, is_prepared, makers, steps
from ampconvert.lint.rule import Case, Judged, Rule
from ampconvert.lint.source import Source

# Losses, and how many of their operands must be low for the loss to be low.
_LOSSES = {
    "cross_entropy": 1, "nll_loss": 1, "binary_cross_entropy_with_logits": 2, "huber_loss": 2,
    "kl_div": 2, "l1_loss": 2, "mse_loss": 2, "smooth_l1_loss": 2,
}  # fmt: skip
_SOFTMAX = ("torch.nn.Softmax", "torch.nn.LogSoftmax")


class LossOutsideAutocast(Rule):
    """A loss is computed behind the region, and so in the low type of the model's outputs.

    Autocast takes losses to float32, but only within the region. Behind it cross_entropy of 16-bit
    logits gives a 16-bit loss and gradient: near 7.4 bfloat16 has steps of 1/32, and 4096 rows of
    1000 random logits give 7.4375 instead of 7.4186.

    Reported is cross_entropy or nll_loss of what a module gave in a region, unless it is cast, and
    a loss like mse_loss if both operands come from regions: with a float32 target it is computed in
    float32 anyway. A criterion that another file passes in isn't known. Models that Accelerate or
    Fabric prepares are left out, for they give float32, and so are modules of the file that end in
    a cast or in softmax.

    Source: https://docs.pytorch.org/docs/stable/amp.html#torch.autocast
    """

    CODE = "AMP113"
    NAME = "loss-outside-autocast"
    ADVICE = "Compute the loss within the region, or from outputs.float()."
    FIX = "unsafe"
    FIX_SAFETY = "The loss is computed in float32, which takes more memory."
    JUDGED = Judged(true=2, read=2)
    WORDS = ((b"autocast",), (b"loss", b"Loss", b"cross_entropy", b"kl_div"))
    VALID = (
        Case("""\
import torch
import torch.nn.functional as F

with torch.autocast("cuda"):
    out = model(x)
    loss = F.cross_entropy(out, y)
with torch.autocast("cuda"):
    out = model(x)
loss = F.cross_entropy(out.float(), y) + F.mse_loss(out, y)
out = out.float()
loss = F.cross_entropy(out, y)
"""),
        Case("""\
import torch


class Net(torch.nn.Module):
    def forward(self, x):
        return torch.log_softmax(x, -1)


net, criterion = Net(), torch.nn.NLLLoss()
with torch.autocast("cuda"):
    out = net(x)
loss = criterion(out, y)
"""),
        Case("""\
import torch
from accelerate import Accelerator

accelerator = Accelerator()
model = accelerator.prepare(torch.nn.Linear(4, 4))
with accelerator.autocast():
    out = model(x)
loss = torch.nn.functional.cross_entropy(out, y)
with torch.autocast("cuda"):
    out = model(x)
loss = torch.nn.functional.cross_entropy(out, y)
model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LogSoftmax(-1))
with torch.autocast("cuda"):
    out = model(x)
loss = torch.nn.functional.nll_loss(out, y)
"""),
        Case("""\
import torch
from torch.nn import CrossEntropyLoss

criterion = CrossEntropyLoss()


def step(model, x, y):
    with torch.autocast("cuda", enabled=False):
        out = model(x)
    return criterion(out, y)


def whole(model, x, y):
    with torch.autocast("cuda"):
        out = model(x)
        return finish(out, y)


def finish(out, y):
    return criterion(out, y)
"""),
    )
    INVALID = (
        Case(
            """\
import torch as th
from torch import nn
from torch.cuda.amp import autocast as ac

model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
criterion = nn.CrossEntropyLoss()
for x, y in data:
    with ac(dtype=th.bfloat16):
        out = model(x)
    loss = criterion(out[:, 0], y)  # AMP113
    loss.backward()
""",
            """\
import torch as th
from torch import nn
from torch.cuda.amp import autocast as ac

model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
criterion = nn.CrossEntropyLoss()
for x, y in data:
    with ac(dtype=th.bfloat16):
        out = model(x)
    loss = criterion(out[:, 0].float(), y)  # AMP113
    loss.backward()
""",
        ),
        Case(
            """\
import torch
import torch.nn.functional as F


class Trainer:
    def __init__(self, model, on):
        self.model = model
        self.ctx = torch.autocast("cuda", enabled=on)

    def output(self, x):
        with self.ctx:
            return self.model(x)

    def step(self, x, y):
        out = self.output(x)
        loss = F.cross_entropy(  # AMP113
            input=out.logits, target=y)
        with self.ctx:
            other = self.model(x)
        loss += F.mse_loss(other, self.output(x))  # AMP113
        return loss
""",
            """\
import torch
import torch.nn.functional as F


class Trainer:
    def __init__(self, model, on):
        self.model = model
        self.ctx = torch.autocast("cuda", enabled=on)

    def output(self, x):
        with self.ctx:
            return self.model(x)

    def step(self, x, y):
        out = self.output(x)
        loss = F.cross_entropy(  # AMP113
            input=out.logits.float(), target=y)
        with self.ctx:
            other = self.model(x)
        loss += F.mse_loss(other.float(), self.output(x))  # AMP113
        return loss
""",
        ),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Losses outside of every region, of outputs that a region gave."""
        if not any(region.is_on for region in source.autocasts.regions.values()):
            return
        for loss in source.operations.all(*_LOSSES):
            operands = loss.operands[: _LOSSES[loss.name]]
            if len(operands) < _LOSSES[loss.name]:
                continue
            if not all(_is_low_output(source, one) for one in operands):
                continue
            if all(region is None for region in source.autocasts.reaching(loss.node)):
                message = f"{loss.name} is computed behind the autocast region, in 16 bits"
                edits = [source.edits.method(operands[0], ".float()")]
                fix = self.fix("compute it from a float32 copy", edits, safe=False)
                yield self.finding(source, loss.node, message, fix)


def _is_low_output(source: Source, operand: ast.expr) -> bool:
    """Whether this is, in every case, what a module gave in a region, or a part of it."""
    values = source.values.of(_whole(operand))
    return all(isinstance(value, ast.Call) and _is_output(source, value) for value in values)


def _whole(operand: ast.expr) -> ast.expr:
    """`out` of `out.logits`, of `out[0]` and of `out["logits"]`."""
    while isinstance(operand, ast.Attribute | ast.Subscript):
        if isinstance(operand.value, ast.Name) and operand.value.id == "self":
            break
        operand = operand.value
    return operand


def _is_output(source: Source, call: ast.Call) -> bool:
    region = source.autocasts.around(call)
    if region is None or not region.is_on or region.autocast.framework:
        return False
    if not isinstance(call.func, ast.Name | ast.Attribute) or source.names.all_of(call.func):
        return False
    if isinstance(call.func, ast.Attribute) and not _is_self(call.func.value):
        return False  # a method: of what, and what it gives, doesn't show
    if isinstance(source.values.definition(call.func), ast.FunctionDef | ast.ClassDef):
        return False
    if any(is_prepared(step) for step in steps(source, call.func)):
        return False
    return not any(_gives_full(source, maker) for maker in makers(source, call.func))


def _is_self(expression: ast.expr) -> bool:
    return isinstance(expression, ast.Name) and expression.id == "self"


def _gives_full(source: Source, maker: Maker) -> bool:
    """Whether a module is known to give float32: a class of this file that ends in a cast."""
    if not isinstance(maker, ast.Call):
        return False
    defined = source.values.definition(maker.func)
    if not isinstance(defined, ast.ClassDef):
        last = maker
        while source.names.of(last.func) == "torch.nn.Sequential" and last.args:
            inner = last.args[-1]
            if not isinstance(inner, ast.Call):
                return True  # its last module doesn't show
            last = inner
        return source.names.is_one(last.func, *_SOFTMAX)
    forward = source.values.method(defined, "forward")
    given = source.values.returned(forward) if forward is not None else []
    types = [source.running.types(one, "cuda-autocast") for one in given]
    return any("full" in one for one in types)
