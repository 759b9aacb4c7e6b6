"""AMP407: binary cross entropy of probabilities under autocast."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Edit, Finding, Fix
from ampconvert.lint.autocasts import Region
from ampconvert.lint.patterns import Operation
from ampconvert.lint.rule import Case, Judged, Rule
from ampconvert.lint.settings import Settings
from ampconvert.lint.source import Source

_STEPS = ("forward", "training_step", "validation_step", "test_step", "predict_step")
_SAFE = {"binary_cross_entropy": "binary_cross_entropy_with_logits", "BCELoss": "BCEWithLogitsLoss"}


class BceUnderAutocast(Rule):
    """`F.binary_cross_entropy` and `nn.BCELoss` raise under autocast on a GPU.

    The error is "torch.nn.functional.binary_cross_entropy and torch.nn.BCELoss are unsafe to
    autocast", whatever type the arguments have: a float16 probability is 0 below 3e-8 and 1 above
    0.9998, and the loss takes the logarithm of it. The losses with logits are allowed and run in
    float32.

    Found in autocast regions of this file, in functions that are called from one, and in the steps
    of a LightningModule whose Trainer is made here with a mixed precision. Under autocast on a CPU
    the loss is allowed, and is not reported. A region whose device is chosen at run time counts as
    one on a GPU.

    Source: https://docs.pytorch.org/docs/stable/amp.html#prefer-binary-cross-entropy-with-logits-over-binary-cross-entropy
    """

    CODE = "AMP407"
    NAME = "bce-under-autocast"
    SEVERITY = "error"
    ADVICE = (
        "Drop the final sigmoid and use the loss with logits, or compute this loss under "
        'torch.autocast("cuda", enabled=False) from probabilities in float32.'
    )
    FIX = "unsafe"
    FIX_SAFETY = (
        "It takes the logits instead of torch.sigmoid(logits) as the loss's argument, which is "
        "more exact in float32 too. Offered where the sigmoid stands in the call."
    )
    WORDS = ((b"binary_cross_entropy", b"BCELoss"), (b"torch", b"lightning"))
    NEEDS_MODE = True
    JUDGED = Judged(true=1, read=1)
    VALID = (
        Case("""\
import torch
import torch.nn.functional as F

def loss(model, x, y):
    with torch.autocast("cuda"):
        logits = model(x)
        first = F.binary_cross_entropy_with_logits(logits, y)
        with torch.autocast("cuda", enabled=False):
            second = F.binary_cross_entropy(torch.sigmoid(logits.float()), y)
    return first + second + F.binary_cross_entropy(logits.float().sigmoid(), y)
"""),
        Case("""\
import torch
from torch import nn

criterion = nn.BCELoss()
with torch.autocast("cpu", dtype=torch.bfloat16):
    loss = criterion(model(x).sigmoid(), y)
"""),
        Case("""\
import torch
from torch import nn

criterion = nn.BCELoss()

def step(model, x, y, discriminator, fake):
    with torch.cuda.amp.autocast():
        score = discriminator(fake)
    return criterion(score.float(), y)
"""),
        Case("""\
from mylib import binary_cross_entropy
import torch

with torch.autocast("cuda"):
    loss = binary_cross_entropy(p, y)
"""),
    )
    INVALID = (
        Case(
            """\
import torch as th
from torch.cuda.amp import autocast as ac
from torch.nn import functional as fn

def loss(logits, y, w):
    return fn.binary_cross_entropy(th.sigmoid(logits + 1), y, weight=w)  # AMP407

for x, y in data:
    with ac(enabled=use_amp):
        total = loss(model(x), y, None)
        total += fn.binary_cross_entropy(model(x), y)  # AMP407
""",
            """\
import torch as th
from torch.cuda.amp import autocast as ac
from torch.nn import functional as fn

def loss(logits, y, w):
    return fn.binary_cross_entropy_with_logits(logits + 1, y, weight=w)  # AMP407

for x, y in data:
    with ac(enabled=use_amp):
        total = loss(model(x), y, None)
        total += fn.binary_cross_entropy(model(x), y)  # AMP407
""",
        ),
        Case(
            """\
import torch
from torch import nn

class Trainer:
    def __init__(self, device):
        self.device = device
        self.criterion = nn.BCELoss(reduction="sum")

    def step(self, x, y):
        with torch.autocast(self.device.type, dtype=torch.float16):
            logits = self.model(x)
            return self.criterion(logits.sigmoid(), y)  # AMP407
""",
            """\
import torch
from torch import nn

class Trainer:
    def __init__(self, device):
        self.device = device
        self.criterion = nn.BCEWithLogitsLoss(reduction="sum")

    def step(self, x, y):
        with torch.autocast(self.device.type, dtype=torch.float16):
            logits = self.model(x)
            return self.criterion(logits, y)  # AMP407
""",
        ),
        Case("""\
import pytorch_lightning as pl
from torch import nn

class Classifier(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 1), nn.Sigmoid())
        self.loss = nn.BCELoss()

    def training_step(self, batch, index):
        x, y = batch
        return self.loss(self.net(x), y)  # AMP407

pl.Trainer(precision="16-mixed").fit(Classifier())
"""),
        Case(
            """\
from torch import nn
from torch.nn.functional import binary_cross_entropy

class Loss(nn.Module):
    def forward(self, p, y):
        return binary_cross_entropy(p, y)  # AMP407
""",
            settings=Settings(assume=frozenset({"cuda-autocast"})),
        ),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Calls of the loss in a region on a GPU."""
        found = source.operations.all("binary_cross_entropy")
        steps = found and "cuda-autocast" in source.modes.found
        for operation in found if steps else ():
            if _is_under_autocast(source, operation.node):
                by_module = "BCELoss" if _constructor(source, operation) else ""
                yield self.finding(
                    source, operation.node,
                    f"{by_module or 'binary_cross_entropy'} raises under autocast on a GPU",
                    self._with_logits(source, operation),
                )  # fmt: skip

    def _with_logits(self, source: Source, operation: Operation) -> Fix | None:
        made = _constructor(source, operation)
        if made is None:
            edits = _of_logits(source, operation)
        else:
            edits = [_renamed(source, made)]
            for call in source.nodes(ast.Call):
                if made in source.values.of(call.func):
                    other = source.operations.of(call)
                    edits += [None] if other is None else _of_logits(source, other, made)
        return self.fix("take the loss with logits", edits, safe=False)


def _is_under_autocast(source: Source, node: ast.AST) -> bool:
    regions = source.autocasts.reaching(node)
    if regions:
        return any(region is not None and _bans(region) for region in regions)
    return "cuda-autocast" in source.settings.assume or _is_lightning_step(source, node)


def _bans(region: Region) -> bool:
    """Whether it is a region on a GPU, or on a device that doesn't show."""
    autocast = region.autocast
    if region.is_off or autocast.opaque or (autocast.framework and not autocast.dtypes):
        return False
    return not autocast.devices or "cuda" in autocast.devices


def _is_lightning_step(source: Source, node: ast.AST) -> bool:
    """Whether Lightning runs `node` under autocast: a Trainer of this file has mixed precision."""
    function, owner = source.function(node), source.class_of(node)
    if function is None or owner is None or function.name not in _STEPS:
        return False
    bases = [base for one in source.values.lineage(owner) for base in one.bases]
    if not any(source.names.is_one(base, "lightning.pytorch.LightningModule") for base in bases):
        return False
    precisions = {
        str(constant)
        for call in source.names.calls("lightning.pytorch.Trainer")
        for keyword in call.keywords
        if keyword.arg == "precision"
        for constant in source.values.constants(keyword.value)
    }
    return any("16" in one and "true" not in one for one in precisions)


def _constructor(source: Source, operation: Operation) -> ast.Call | None:
    """`nn.BCELoss()` of a loss that is called as a module."""
    call = operation.node
    assert isinstance(call, ast.Call)
    made = source.values.of(call.func)
    is_module = len(made) == 1 and isinstance(made[0], ast.Call)
    return made[0] if is_module and isinstance(made[0], ast.Call) else None


def _of_logits(
    source: Source, operation: Operation, made: ast.Call | None = None
) -> list[Edit | None]:
    """The loss's call with the logits themselves; [None] where no sigmoid stands in it."""
    call = operation.node
    inner = source.operations.of(operation.operand)
    if not isinstance(call, ast.Call) or inner is None or inner.name != "sigmoid":
        return [None]
    logits = source.edits.replace(operation.operand, source.segment(inner.operand))
    return [logits] if made is not None else [logits, _renamed(source, call)]


def _renamed(source: Source, call: ast.Call) -> Edit | None:
    """The function's or class's name with that of the one for logits."""
    function = call.func
    if not isinstance(function, ast.Attribute):
        return None
    return source.edits.replace(
        function, f"{source.segment(function.value)}.{_SAFE[function.attr]}"
    )
