"""AMP301: a model and its input have different types."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Edit, Finding
from ampconvert.lint.modes import LOW
from ampconvert.lint.rule import Case, Rule
from ampconvert.lint.source import Source
from ampconvert.lint.weights import Made, Weights, low

_CASTS = {"float16": ".half()", "bfloat16": ".bfloat16()"}


class InputModelDtype(Rule):
    """A model gets an input of another type than its parameters have.

    `x = x.half(); model(x)` with a float32 model raises "mat1 and mat2 must have the same dtype,
    but got Half and Float", and a model after `.half()` raises for a float32 input alike. Only
    autocast lets them differ.

    Found where the model is made in this file of layers that insist (Linear, convolutions, LSTM,
    attention), or by torchvision or timm, every cast of it is seen, no code of it casts, and the
    input's type shows. Nothing is reported under autocast, nor in files that use a library which
    casts for them (Accelerate, Lightning, DeepSpeed, Apex). A finding about a float16 input is at
    its cast, one about a half model at the model's call.

    Sources: https://docs.pytorch.org/docs/stable/amp.html#autocasting and https://github.com/huggingface/diffusers/issues/4619
    """

    CODE = "AMP301"
    NAME = "input-model-dtype"
    SEVERITY = "error"
    ADVICE = (
        "To train, leave model and input in float32 and run the forward pass under torch.autocast; "
        "for inference in half, cast both."
    )
    FIX = "unsafe"
    FIX_SAFETY = (
        "It removes the input's cast, or casts the input of a half model: the code raised before."
    )
    WORDS = ((b"half(", b"bfloat16", b"float16", b"HalfTensor"), (b"torch",))
    VALID = (
        Case("""\
import torch
from torch import nn

model = nn.Linear(4, 2)
x = torch.randn(8, 4).half()
with torch.autocast("cuda"):
    model(x)
model(x.float())
norm = nn.LayerNorm(4)
norm(x)
model.half()
model(x)
"""),
        Case("""\
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x):
        return self.layer(x.to(self.layer.weight.dtype))

class Half(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x):
        return self.layer(x.half())

net = Net()
net(torch.ones(8, 4, dtype=torch.float16))
Half().half()(torch.ones(8, 4).half())
"""),
        Case("""\
import torch
from torch import nn

def run(x, half):
    model = nn.Conv2d(3, 8, 3)
    if half:
        model.half()
        x = x.half()
    return model(x)

def other(x):
    model = nn.Conv2d(3, 8, 3).to(torch.float16)
    return model(x)
"""),
        Case("""\
import torch
from accelerate import Accelerator
from torch import nn

accelerator = Accelerator(mixed_precision="fp16")
model = accelerator.prepare(nn.Linear(4, 2))
model(torch.ones(1, 4).half())
"""),
    )
    INVALID = (
        Case(
            """\
import torch
import torch.nn as nn

model = nn.Linear(10, 1)
criterion = nn.MSELoss()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for inputs, targets in loader:
    inputs = inputs.half()  # AMP301
    loss = criterion(model(inputs), targets)
    loss.backward()
    optimizer.step()
""",
            """\
import torch
import torch.nn as nn

model = nn.Linear(10, 1)
criterion = nn.MSELoss()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for inputs, targets in loader:
    loss = criterion(model(inputs), targets)
    loss.backward()
    optimizer.step()
""",
        ),
        Case(
            """\
import torch as th
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)

    def forward(self, x):
        return self.conv(x)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Block(8)

    def forward(self, x):
        return self.block(x)

class Runner:
    def __init__(self, device):
        self.model = Net().to(device).eval()
        self.device = device

    def run(self, images):
        images = images.to(self.device, th.float16)  # AMP301
        return self.model(images / 255)
""",
            """\
import torch as th
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)

    def forward(self, x):
        return self.conv(x)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Block(8)

    def forward(self, x):
        return self.block(x)

class Runner:
    def __init__(self, device):
        self.model = Net().to(device).eval()
        self.device = device

    def run(self, images):
        images = images.to(self.device)  # AMP301
        return self.model(images / 255)
""",
        ),
        Case(
            """\
import torch
from torchvision.models import resnet50

def build():
    return resnet50(weights=None).cuda()

def bench(model, batch):
    sample = torch.randn(batch, 3, 224, 224, device="cuda")
    return model(sample)  # AMP301

net = build()
net.half()
bench(net, 8)
""",
            """\
import torch
from torchvision.models import resnet50

def build():
    return resnet50(weights=None).cuda()

def bench(model, batch):
    sample = torch.randn(batch, 3, 224, 224, device="cuda")
    return model(sample.half())  # AMP301

net = build()
net.half()
bench(net, 8)
""",
        ),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Calls of models made here whose first argument has another type than they."""
        weights = Weights(source)
        if not weights.may_differ or weights.is_taken_over:
            return
        for call in source.nodes(ast.Call):
            if not call.args or isinstance(call.args[0], ast.Starred | ast.Constant):
                continue
            if not source.kinds.is_a(call.func, "module") or _may_be_autocast(source, call):
                continue
            given = source.tensors.of(call.args[0])
            if len(given) != 1 or not given <= {"float16", "bfloat16", "float32"}:
                continue
            made = weights.sure(call.func, call)
            types = frozenset(t for one in made for t in one.types)
            if made and all(weights.mixing_raises(one.constructor) for one in made):
                yield from self._differing(source, call, made, frozenset[str](given), types)

    def _differing(
        self,
        source: Source,
        call: ast.Call,
        made: list[Made],
        given: frozenset[str],
        types: frozenset[str],
    ) -> Iterator[Finding]:
        argument = call.args[0]
        if low(given) and types == {"float32"}:
            for cast in _casts(source, argument):
                yield self.finding(
                    source, cast,
                    f"the input is {low(given)}, but the model on line {call.lineno} is float32: "
                    "it raises",
                    self.fix("leave the input in float32", [_uncast(source, cast)], safe=False),
                )  # fmt: skip
        elif low(types) and given == {"float32"}:
            where = made[0].cast or made[0].constructor
            line = source.position(source.span(where)[0])[0]
            edit = source.edits.method(argument, _CASTS[low(types)])
            yield self.finding(
                source, call,
                f"the input is float32, but the model is {low(types)} by line {line}: it raises",
                self.fix("cast the input too", [edit], safe=False),
            )  # fmt: skip


def _may_be_autocast(source: Source, call: ast.Call) -> bool:
    regions = source.autocasts.reaching(call)
    if any(region is not None and not region.is_off for region in regions):
        return True
    return not regions and any(mode != "half" for mode in source.modes.found)


def _casts(source: Source, tensor: ast.expr) -> Iterator[ast.Call]:
    """The casts that gave a tensor its low type, behind names, views and sums."""
    for value in source.values.of(tensor):
        if isinstance(value, ast.BinOp):
            for side in (value.left, value.right):
                yield from _casts(source, side)
        elif isinstance(value, ast.Call):
            below = value.func.value if isinstance(value.func, ast.Attribute) else None
            kept = below is not None and not source.names.all_of(value.func)
            if below is not None and kept and source.tensors.of(below) <= LOW:
                yield from _casts(source, below)
            else:
                yield value


def _uncast(source: Source, cast: ast.Call) -> Edit | None:
    """The call without its cast: `x` for `x.half()`; no statement at all for `x = x.half()`."""
    function = cast.func
    types = [a for a in cast.args if source.tensors.types(a)]
    types += [k.value for k in cast.keywords if k.arg == "dtype"]
    if source.names.all_of(function) or len(cast.args) + len(cast.keywords) > 1:
        given = [a for a in (*cast.args, *cast.keywords)
                 if a in types or (isinstance(a, ast.keyword) and a.value in types)]  # fmt: skip
        return source.edits.remove_argument(cast, given[0]) if len(given) == 1 else None
    if not isinstance(function, ast.Attribute):
        return None
    statement = source.parents[cast]
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target = source.segment(statement.targets[0])
        if target == source.segment(function.value):
            return source.edits.delete(statement)
    start, _ = source.span(function)
    dot = source.segment(function).encode().rindex(b".")
    return Edit(start + dot, source.span(cast)[1], "")
