"""AMP406: probabilities given to a loss that takes logits."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding, Fix
from ampconvert.lint.patterns import Operation
from ampconvert.lint.rule import Case, Rule
from ampconvert.lint.settings import Settings
from ampconvert.lint.source import Source

_LOSSES = {"cross_entropy": "softmax", "binary_cross_entropy_with_logits": "sigmoid"}
_LAYERS = {"softmax": ("torch.nn.Softmax", "torch.nn.Softmax2d"), "sigmoid": ("torch.nn.Sigmoid",)}
_MOST_STEPS = 4  # modules in modules


class SoftmaxIntoCrossEntropy(Rule):
    """`cross_entropy` takes logits; given a softmax's probabilities it applies softmax twice.

    Probabilities lie in [0, 1], so the second softmax can't tell classes apart: with 10 classes
    the loss never falls below 1.46, and gradients are small from the start. In 16 bits the
    probabilities were rounded besides, and gradients of 1e-8 are 0 in float16.
    `binary_cross_entropy_with_logits` after a sigmoid is the same mistake.

    Found through names, modules of this file and the last layer of `nn.Sequential`. A softmax of
    the targets is right and not reported, nor is log_softmax, which cross_entropy leaves as it is.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html
    """

    CODE = "AMP406"
    NAME = "softmax-into-cross-entropy"
    SEVERITY = "error"
    ADVICE = "Give the loss logits, and apply softmax or sigmoid only where probabilities are read."
    FIX = "unsafe"
    FIX_SAFETY = "It changes what the model learns, in float32 too: that is the point."
    WORDS = (
        (b"oftmax", b"igmoid"),
        (b"cross_entropy", b"CrossEntropyLoss", b"BCEWithLogitsLoss"),
    )
    NEEDS_MODE = True
    VALID = (
        Case("""\
import torch
import torch.nn.functional as F

def distill(student, teacher, x):
    with torch.autocast("cuda"):
        return F.cross_entropy(student(x), torch.softmax(teacher(x), dim=-1))
"""),
        Case("""\
import torch
from torch import nn

model = nn.Sequential(nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 3))
criterion = nn.CrossEntropyLoss()

def step(x, y):
    with torch.autocast("cuda"):
        logits = model(x)
        loss = criterion(logits, y)
    return loss, logits.softmax(-1)
"""),
        Case("""\
import torch
import torch.nn.functional as F

def step(model, x, y):
    with torch.autocast("cuda"):
        return F.cross_entropy(F.log_softmax(model(x), -1), y)
"""),
        Case("""\
import torch
from torch import nn

class Net(nn.Module):
    def forward(self, x):
        return x if self.training else torch.softmax(x, -1)

net = Net().half()
loss = nn.CrossEntropyLoss()(net(torch.randn(2, 3).half()), torch.tensor([0, 1]))
"""),
    )
    INVALID = (
        Case(
            """\
import torch
import torch.nn.functional as F

def step(model, x, y):
    with torch.autocast("cuda", dtype=torch.float16):
        return F.cross_entropy(F.softmax(model(x), dim=1), y)  # AMP406
""",
            """\
import torch
import torch.nn.functional as F

def step(model, x, y):
    with torch.autocast("cuda", dtype=torch.float16):
        return F.cross_entropy(model(x), y)  # AMP406
""",
        ),
        Case("""\
import torch as th
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 3), nn.Softmax(dim=1))

    def forward(self, x):
        return self.body(x)

def train(net, loader, criterion):
    for x, y in loader:
        with th.autocast("cuda"):
            prediction = net(x)
            loss = criterion(prediction, y)  # AMP406
        loss.backward()

net = Net().cuda()
train(net, [], nn.CrossEntropyLoss())
"""),
        Case(
            """\
from torch import nn

class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 1)
        self.loss = nn.BCEWithLogitsLoss()

    def forward(self, x, y):
        return self.loss(self.head(x + 1).sigmoid(), y)  # AMP406
""",
            """\
from torch import nn

class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 1)
        self.loss = nn.BCEWithLogitsLoss()

    def forward(self, x, y):
        return self.loss(self.head(x + 1), y)  # AMP406
""",
            settings=Settings(assume=frozenset({"cuda-autocast"})),
        ),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Losses on logits whose first argument is a probability in every case."""
        if not source.modes.low_types:
            return
        for loss in source.operations.all(*_LOSSES):
            name = _LOSSES[loss.name]
            if self._is_probability(source, loss.operand, name, _MOST_STEPS):
                yield self.finding(
                    source, loss.node,
                    f"{loss.name} takes logits and gets the output of {name}",
                    self._without(source, loss, name),
                )  # fmt: skip

    def _is_probability(self, source: Source, expression: ast.expr, name: str, left: int) -> bool:
        """Whether softmax (or sigmoid) was the last thing that happened to a tensor."""
        found = source.operations.all_behind(expression)
        values = source.values.of(expression)
        return bool(values) and all(
            operation.name == name
            if operation is not None
            else self._ends_in(source, value, name, left)
            for value, operation in zip(values, found, strict=True)
        )

    def _ends_in(self, source: Source, value: ast.expr, name: str, left: int) -> bool:
        """Whether `value` is what a module gives that ends in a softmax."""
        if not isinstance(value, ast.Call) or not left:
            return False
        makers = [_maker(source, made) for made in source.values.of(value.func)]
        return bool(makers) and all(
            maker is not None and self._makes_probability(source, maker, name, left)
            for maker in makers
        )

    def _makes_probability(self, source: Source, maker: ast.Call, name: str, left: int) -> bool:
        """Whether this call makes nn.Sequential(..., nn.Softmax()), or a module whose forward
        returns a softmax.
        """
        if source.names.of(maker.func) == "torch.nn.Sequential":
            last = maker.args[-1] if maker.args else None
            return isinstance(last, ast.Call) and source.names.is_one(last.func, *_LAYERS[name])
        owner = source.values.definition(maker.func)
        if not isinstance(owner, ast.ClassDef):
            return False
        forward = source.values.method(owner, "forward")
        returned = source.values.returned(forward) if forward is not None else []
        return bool(returned) and all(
            self._is_probability(source, one, name, left - 1) for one in returned
        )

    def _without(self, source: Source, loss: Operation, name: str) -> Fix | None:
        """The logits in place of a softmax that stands in the call itself."""
        inner = source.operations.of(loss.operand)
        if inner is None or inner.name != name:
            return None
        edit = source.edits.rewritten(loss.operand, source.segment(inner.operand))
        return self.fix(f"give the logits, without {name}", [edit], safe=False)


def _maker(source: Source, made: ast.expr) -> ast.Call | None:
    """The call that makes a module: `Net()` of `Net().to(device)`."""
    while isinstance(made, ast.Call):
        if not isinstance(made.func, ast.Attribute) or source.names.of(made.func):
            return made
        made = made.func.value
    return None
