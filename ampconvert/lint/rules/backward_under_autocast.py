"""AMP103: a backward pass in an autocast region."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding, Fix
from ampconvert.lint import blocks
from ampconvert.lint.autocasts import Region
from ampconvert.lint.rule import Case, Judged, Rule
from ampconvert.lint.source import Source
from ampconvert.lint.values import is_self

_FUNCTION = "torch.autograd.backward"
# What a training step does after its backward pass: nothing of it needs autocast.
_STEPS = frozenset({
    "backward", "manual_backward", "step", "update", "unscale_", "zero_grad", "scale", "get_scale",
    "clip_grad_norm_", "clip_grad_value_", "parameters", "item", "detach", "append", "log", "info",
    "set_postfix", "set_description", "add_scalar", "get_last_lr", "optimizer_step",
})  # fmt: skip
_FREE = frozenset({
    "print", "len", "float", "int", "isinstance", "range", "zip", "enumerate", "time.time",
    "torch.nn.utils.clip_grad_norm_", "torch.nn.utils.clip_grad_value_", _FUNCTION, "wandb.log",
    "torch.cuda.synchronize", "math.isfinite", "torch.autograd.grad",
})  # fmt: skip


class BackwardUnderAutocast(Rule):
    """A backward pass runs in an autocast region, which should end with the loss.

    Backward operators run in the type of their forward operators without autocast. Under it those
    of custom functions and hooks, and what the backward pass computes anew, are cast once more.

    It is an error where the region stands around the training loop: autocast keeps the low copy of
    every weight until the region ends, so that forward passes after `optimizer.step()` still read
    the old weights. The loss of a linear model, which falls from 1.30 to 0.04 in 20 steps if the
    region ends before the backward pass, stays at 1.30.

    A backward pass in a function of the same file is found if the function is called in a region.
    Nothing is said of a region that is switched off, and of what another library's context does.

    Sources: https://docs.pytorch.org/docs/stable/amp.html#torch.autocast
    and https://github.com/pytorch/pytorch/issues/120376
    """

    CODE = "AMP103"
    NAME = "backward-under-autocast"
    ADVICE = "End the region after the loss is computed, and call backward() behind it."
    FIX = "unsafe"
    FIX_SAFETY = "Operators of custom functions and hooks may run in another type."
    JUDGED = Judged(true=7, read=7)
    WORDS = ((b"autocast",), (b"backward",))
    VALID = (
        Case("""\
import torch

for x, y in data:
    with torch.autocast("cuda"):
        loss = criterion(model(x), y)
    scaler.scale(loss).backward()
"""),
        Case("""\
import torch

with torch.autocast("cuda"):
    loss = model(x)
    with torch.autocast("cuda", enabled=False):
        loss.backward()
with torch.autocast("cuda", enabled=False):
    model(x).backward()
"""),
        Case("""\
import torch


class Scale(torch.autograd.Function):
    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


class Trainer:
    def run(self, x):
        with torch.autocast("cuda"):
            grad = Scale.backward(None, x)
            self.backward(grad)

    def backward(self, grad):
        return grad


@torch.autocast("cuda")
def forward(model, x):
    def later(loss):
        loss.backward()

    return model(x), later
"""),
        Case("""\
from mylib import autocast

with autocast():
    loss.backward()
"""),
    )
    INVALID = (
        Case(
            """\
import torch

for x, y in data:
    optimizer.zero_grad()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        loss = criterion(
            model(x), y)
        # the gradients
        loss.backward()  # AMP103
        if clip:
            torch.nn.utils.clip_grad_norm_(
                model.parameters(),
                1.0,
            )

        optimizer.step()
    print("done")
""",
            """\
import torch

for x, y in data:
    optimizer.zero_grad()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        loss = criterion(
            model(x), y)
    # the gradients
    loss.backward()  # AMP103
    if clip:
        torch.nn.utils.clip_grad_norm_(
            model.parameters(),
            1.0,
        )

    optimizer.step()
    print("done")
""",
        ),
        Case("""\
import torch as th
from torch.cuda.amp import autocast as ac


class Trainer:
    def __init__(self, on):
        self.ctx = ac(enabled=on)
        self.scaler = th.amp.GradScaler("cuda")

    def run(self, data):
        with self.ctx:
            for x in data:
                self.scaler.scale(self.model(x)).backward()  # AMP103
                self.model(x)

    @ac()
    def step(self, x):
        th.autograd.backward(self.model(x))  # AMP103
"""),
        Case("""\
import torch


def step(model, x):
    loss = model(x)
    loss.backward()  # AMP103


def main(model, data):
    with torch.autocast("cuda"):
        for x in data:
            step(model, x)
"""),
        Case(
            """\
from accelerate import Accelerator

accelerator = Accelerator()
with accelerator.autocast():
    loss = model(x)
    accelerator.backward(loss)  # AMP103
    optimizer.step()
""",
            """\
from accelerate import Accelerator

accelerator = Accelerator()
with accelerator.autocast():
    loss = model(x)
accelerator.backward(loss)  # AMP103
optimizer.step()
""",
        ),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Every call of backward in a region, or in a function that is called in one."""
        calls = source.names.methods("backward", "manual_backward")
        for call in dict.fromkeys([*calls, *source.names.calls(_FUNCTION)]):
            if not _is_pass(source, call):
                continue
            regions = source.autocasts.reaching(call)
            on = next((r for r in regions if r is not None and r.is_on), None)
            if on is not None:
                line = on.node.lineno
                message = f"this backward pass runs under the autocast of line {line}"
                if source.autocasts.around(call) is not on:
                    yield self.finding(source, call, message)
                elif _holds_loop(source, on, call):
                    message += ", whose cache hides every update of the weights from this loop"
                    yield self.finding(source, call, message, severity="error")
                else:
                    yield self.finding(source, call, message, self._moved(source, on, call))

    def _moved(self, source: Source, region: Region, call: ast.Call) -> Fix | None:
        block = region.node
        if not isinstance(block, ast.With | ast.AsyncWith) or len(block.items) > 1:
            return None
        if region.entered is not None:
            return None
        above = set(source.ancestors(call))
        first = next(one for one in block.body if one in above)
        after = block.body[block.body.index(first) :]
        if not all(_needs_no_autocast(source, statement) for statement in after):
            return None
        edits = blocks.moved_out(source, block, first)
        return None if edits is None else self.fix("move it behind the region", edits, safe=False)


def _is_pass(source: Source, call: ast.Call) -> bool:
    """Whether this is the backward pass of a loss, and no method that is only called so."""
    names = source.names.all_of(call.func)
    if names:
        return names == {_FUNCTION}
    assert isinstance(call.func, ast.Attribute)
    receiver = call.func.value
    owner = source.class_of(call)
    if owner is not None and "function" in source.kinds.of_class(owner):
        return False
    if source.values.definition(receiver) is not None:
        return False
    if isinstance(receiver, ast.Call) and source.names.of(receiver.func) == "super":
        return False
    return not is_self(receiver) or call.func.attr == "manual_backward"


def _holds_loop(source: Source, region: Region, call: ast.Call) -> bool:
    """Whether a loop within the region repeats the backward pass, with the cache on."""
    cache = region.autocast.argument("cache_enabled")
    if cache is not None and source.values.constants(cache) != {True}:
        return False
    for above in source.ancestors(call):
        if above is region.node:
            return False
        if isinstance(above, ast.For | ast.AsyncFor | ast.While):
            return True
    return False


def _needs_no_autocast(source: Source, statement: ast.stmt) -> bool:
    """Whether it only calls what belongs to the update."""
    for node in source.walk(statement, functions=True):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            return False
        if not isinstance(node, ast.Call):
            continue
        name = source.names.of(node.func)
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if name not in _FREE and (name or method not in _STEPS):
            return False
    return True
