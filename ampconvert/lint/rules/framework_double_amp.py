"""AMP008: a gradient scaler or a cast beside a framework that does mixed precision itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Edit, Finding
from ampconvert.lint import frameworks
from ampconvert.lint.rule import Case, Rule
from ampconvert.lint.source import Source

_LIGHTNING = "lightning.pytorch.LightningModule"


class FrameworkDoubleAmp(Rule):
    """A gradient scaler by hand, beside a framework that scales the loss itself.

    `accelerator.backward`, `fabric.backward`, `self.manual_backward` of Lightning and the engine of
    DeepSpeed scale the loss and unscale the gradients. A loss that a GradScaler has multiplied by
    65536 before is scaled twice: gradients overflow until the framework has lowered its own scale,
    and stay 65536 times too large, for it divides by its own scale only. Where a GradScaler steps
    an optimizer that Accelerate or Fabric has wrapped, two scalers divide the same gradients.

    `Accelerator(fp16=...)` raises a TypeError: the argument is `mixed_precision` now.

    Not found: autocast beside such a framework, which only repeats what that does, a model cast
    with `.half()`, and objects that come from another file. An Accelerator made with
    mixed_precision="no" leaves precision to the script, and is not meant.

    Source: https://github.com/huggingface/accelerate/issues/357
    """

    CODE = "AMP008"
    NAME = "framework-double-amp"
    ADVICE = (
        "Leave scaling to the framework: its backward gets the plain loss, its optimizer steps."
    )
    FIX = "unsafe"
    FIX_SAFETY = "The numbers change: the loss is no longer scaled twice."
    SEVERITY = "error"
    WORDS = (
        (b"accelerate", b"lightning", b"deepspeed"),
        (b"fp16", b"GradScaler"),
    )
    VALID = (
        Case("""\
from accelerate import Accelerator

accelerator = Accelerator(mixed_precision="fp16")


def step(model, optimizer, batch):
    accelerator.backward(model(batch))
    optimizer.step()
"""),
        Case("""\
import torch
from accelerate import Accelerator

accelerator = Accelerator(mixed_precision="no")
scaler = torch.amp.GradScaler("cuda")
model, optimizer = accelerator.prepare(torch.nn.Linear(2, 2), None)


def step(batch):
    with torch.amp.autocast("cuda"):
        loss = model(batch)
    accelerator.backward(scaler.scale(loss))
    scaler.step(optimizer)
    scaler.update()
"""),
        Case("""\
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.precision import MixedPrecision

scaler = torch.amp.GradScaler("cuda", init_scale=1024.0)
trainer = Trainer(plugins=[MixedPrecision("16-mixed", "cuda", scaler)])
"""),
        Case("""\
import deepspeed
import torch


def train(args, model, optimizer, batches):
    if args.deepspeed:
        engine, *_ = deepspeed.initialize(model=model)
        for batch in batches:
            engine.backward(engine(batch))
    else:
        scaler = torch.amp.GradScaler("cuda")
        for batch in batches:
            scaler.scale(model(batch)).backward()
            scaler.step(optimizer)
            scaler.update()
"""),
    )
    INVALID = (
        Case("""\
from accelerate import Accelerator

accelerator = Accelerator(fp16=True)  # AMP008
"""),
        Case(
            """\
import torch
from accelerate import Accelerator

accelerator = Accelerator(mixed_precision="fp16")
scaler = torch.amp.GradScaler("cuda")


def train(model, optimizer, batches):
    model, optimizer = accelerator.prepare(model, optimizer)
    for batch in batches:
        loss = model(batch)
        accelerator.backward(scaler.scale(loss / 2))  # AMP008
        scaler.step(optimizer)  # AMP008
        scaler.update()
""",
            """\
import torch
from accelerate import Accelerator

accelerator = Accelerator(mixed_precision="fp16")
scaler = torch.amp.GradScaler("cuda")


def train(model, optimizer, batches):
    model, optimizer = accelerator.prepare(model, optimizer)
    for batch in batches:
        loss = model(batch)
        accelerator.backward(loss / 2)  # AMP008
        optimizer.step()  # AMP008
""",
        ),
        Case(
            """\
import pytorch_lightning as pl
import torch


class Gan(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.scaler = torch.cuda.amp.GradScaler()

    def training_step(self, batch, index):
        loss = self.net(batch)
        self.manual_backward(self.scaler.scale(loss))  # AMP008
""",
            """\
import pytorch_lightning as pl
import torch


class Gan(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.scaler = torch.cuda.amp.GradScaler()

    def training_step(self, batch, index):
        loss = self.net(batch)
        self.manual_backward(loss)  # AMP008
""",
        ),
        Case("""\
import deepspeed
from torch.cuda.amp import GradScaler

scaler = GradScaler()


def main(model, batches):
    engine, optimizer, _, _ = deepspeed.initialize(model=model)
    for batch in batches:
        scaled = scaler.scale(engine(batch))
        engine.backward(scaled)  # AMP008
    print(scaler.get_scale())
"""),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Losses scaled twice, wrapped optimizers stepped by a scaler, and a removed argument."""
        for call in source.names.calls("accelerate.Accelerator"):
            for keyword in call.keywords:
                if keyword.arg == "fp16":
                    yield self.finding(source, call, "Accelerator has no argument fp16")
        found = [
            (call, "the loss is scaled by hand before a backward that scales it")
            for call in source.names.methods("backward", "manual_backward")
            if call.args and _scales(source, call) and not _is_plain(source, call)
        ]
        for call in source.names.methods("step", "unscale_"):
            if call.args and _is_scaler_call(source, call):
                wrapping = frameworks.wrapping(source, call.args[0])
                if wrapping is not None and not _is_plain(source, wrapping):
                    found.append((call, "the scaler steps an optimizer that is wrapped already"))
        edits = _without_scaler(source) if found else None
        for call, message in found:
            fix = self.fix("leave scaling to the framework", edits or [], safe=False)
            yield self.finding(source, call, message, fix)


def _without_scaler(source: Source) -> list[Edit] | None:
    """Edits that take every use of a scaler out of the file; None where one can't be."""
    edits = []
    for used in source.nodes(ast.Attribute):
        if not source.kinds.is_a(used.value, "scaler") or source.names.of(used):
            continue
        call = source.parents[used]
        edit = _plain_call(source, call) if isinstance(call, ast.Call) else None
        if edit is None:
            return None
        edits += edit
    return edits


def _plain_call(source: Source, call: ast.Call) -> list[Edit] | None:
    """What does without the scaler what `call` does with it."""
    assert isinstance(call.func, ast.Attribute)
    above = source.parents[call]
    method, given = call.func.attr, [*call.args, *call.keywords]
    if method in ("unscale_", "update") and isinstance(above, ast.Expr):
        return [source.edits.delete(above)]
    if len(given) != 1 or not isinstance(given[0], ast.expr) or isinstance(above, ast.Attribute):
        return None
    if method == "scale":
        return [*source.edits.unwrapped(call, given[0])]
    if method == "step" and isinstance(given[0], ast.Name | ast.Attribute):
        return [source.edits.replace(call, f"{source.segment(given[0])}.step()")]
    return None


def _is_scaler_call(source: Source, call: ast.Call) -> bool:
    assert isinstance(call.func, ast.Attribute)
    return source.kinds.is_a(call.func.value, "scaler")


def _scales(source: Source, call: ast.Call) -> bool:
    """Whether a framework's backward is given what a scaler has scaled."""
    assert isinstance(call.func, ast.Attribute)
    scaled = [
        value for value in source.values.of(call.args[0])
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute)
        and value.func.attr == "scale" and _is_scaler_call(source, value)
    ]  # fmt: skip
    if not scaled:
        return False
    receiver = call.func.value
    if call.func.attr == "manual_backward":
        owner = source.class_of(call)
        return owner is not None and any(
            source.names.is_one(base, _LIGHTNING)
            for one in source.values.lineage(owner) for base in one.bases
        )  # fmt: skip
    return frameworks.is_runner(source, receiver) or frameworks.is_engine(source, receiver)


def _is_plain(source: Source, call: ast.Call) -> bool:
    """Whether the Accelerator or Fabric of this call is told to leave precision alone."""
    assert isinstance(call.func, ast.Attribute)
    made = frameworks.makers(source, call.func.value, *frameworks.RUNNERS)
    return any(
        keyword.arg in ("mixed_precision", "precision")
        and source.values.constants(keyword.value) & {"no", "32", "32-true", 32}
        for one in made for keyword in one.keywords
    )  # fmt: skip
