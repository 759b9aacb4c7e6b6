"""AMP110: in-place operators and out=, which autocast leaves alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Edit, Finding, Fix
from ampconvert.lint.forwards import in_forward, is_switched_off, under_autocast
from ampconvert.lint.modes import float32_operators, low_operators
from ampconvert.lint.patterns import operator
from ampconvert.lint.rule import Case, Rule
from ampconvert.lint.source import Source

_FLOAT32 = (
    "acos", "asin", "cosh", "cumprod", "cumsum", "erfinv", "exp", "expm1", "log", "log10", "log1p",
    "log2", "pow", "reciprocal", "renorm", "rsqrt", "sinh", "square", "tan",
)  # fmt: skip
_LOW = ("addbmm", "addmm", "addmv", "addr", "baddbmm")
_IN_PLACE = frozenset(f"{name}_" for name in (*_FLOAT32, *_LOW))


class InplaceUnderAutocast(Rule):
    """An in-place operator, or one with `out=`, runs in the type of its tensors under autocast.

    Autocast on a GPU takes exp, log, pow, rsqrt, cumsum and their like to float32, and matrix
    products to 16 bits, but not their in-place variants nor calls that write to a given tensor.
    `x.exp()` of a float16 tensor is float32, `x.exp_()` stays float16: it is infinite from 11.09 on
    and 0 below -17.3. A matrix product with `out=` runs in float32, or raises where one operand is
    low and another is not.

    Reported are tensors that may be low, in a region, or in a forward pass in a file that shows
    autocast on a GPU. What is float32 by a cast or as the result of softmax or a loss is not, and
    neither are tensors whose type shows nowhere in the file.

    Source: https://docs.pytorch.org/docs/stable/amp.html#op-eligibility
    """

    CODE = "AMP110"
    NAME = "inplace-under-autocast"
    ADVICE = "Use the variant that makes a new tensor: x = x.exp()."
    FIX = "unsafe"
    FIX_SAFETY = "Other names of the same tensor no longer see the change."
    WORDS = ((b"out", *(name.encode() for name in _IN_PLACE)),)
    NEEDS_MODE = True
    VALID = (
        Case("""\
import torch
import torch.nn.functional as F

with torch.autocast("cuda"):
    x = model(x).exp()
    loss = (-F.cross_entropy(x, y, reduction="none")).exp_()
    x = x.float().exp_()
    z = torch.softmax(x, -1).log_()
with torch.autocast("cuda", enabled=False):
    x.exp_()
x.exp_()
"""),
        Case("""\
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        with torch.no_grad():
            self.decay.log_()

    @torch.autocast("cuda")
    def forward(self, x):
        return x.add_(1).mul_(2).relu_()
"""),
        Case("""\
import torch


class Loss(torch.nn.Module):
    def forward(self, x):
        return x.exp_()
"""),
        Case("""\
import torch

with torch.autocast("cpu"):
    x = (a @ b).exp_()
"""),
    )
    INVALID = (
        Case(
            """\
import torch as th
from torch.cuda.amp import autocast as ac

with ac():
    scores = q @ k.transpose(-2, -1)
    scores.exp_()  # AMP110
    weights = (scores * 2).log_()  # AMP110
    third = scores.sqrt().rsqrt_().sum()  # AMP110
""",
            """\
import torch as th
from torch.cuda.amp import autocast as ac

with ac():
    scores = q @ k.transpose(-2, -1)
    scores = scores.exp()  # AMP110
    weights = (scores * 2).log()  # AMP110
    third = scores.sqrt().rsqrt().sum()  # AMP110
""",
        ),
        Case("""\
import torch


class Focal(torch.nn.Module):
    def forward(self, logits: torch.Tensor):
        return self.weigh(torch.sigmoid(logits))

    def weigh(self, p):
        q = p.pow_(2)  # AMP110
        return torch.exp_(q)  # AMP110


def train(loss, logits, net, x):
    with torch.autocast("cuda", dtype=torch.float16):
        y = net(x)
        torch.mm(y, logits, out=x)  # AMP110
    return loss(y)


scaler = torch.amp.GradScaler("cuda")
"""),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """In-place operators on tensors that may be low, and listed operators with out=."""
        for call in source.names.methods(*_IN_PLACE):
            assert isinstance(call.func, ast.Attribute)
            tensor = call.func.value
            if source.names.all_of(call.func):
                if not call.args or operator(source.names.of(call.func)) not in _IN_PLACE:
                    continue
                tensor = call.args[0]
            if _may_be_low(source, tensor) and _is_cast(source, call):
                name = call.func.attr
                what = "float32" if name[:-1] in _FLOAT32 else "a low type"
                message = f"{name} stays in its tensor's type; autocast takes {name[:-1]} to {what}"
                yield self.finding(source, call, message, self._anew(source, call))
        for keyword in source.nodes(ast.keyword):
            if keyword.arg == "out":
                yield from self._out(source, keyword)

    def _out(self, source: Source, keyword: ast.keyword) -> Iterator[Finding]:
        call = source.parents[keyword]
        if not isinstance(call, ast.Call) or source.values.constants(keyword.value):
            return
        name = operator(source.names.of(call.func))
        listed = low_operators("cuda-autocast") | float32_operators("cuda-autocast")
        running = source.running
        low = [a for a in call.args if running.may_be_low(a, "cuda-autocast", surely=True)]
        if name not in listed or not low:
            return
        if _is_cast(source, call):
            what = "float32" if name in float32_operators("cuda-autocast") else "a low type"
            message = f"with out=, autocast doesn't take {name} to {what}"
            yield self.finding(source, call, message)

    def _anew(self, source: Source, call: ast.Call) -> Fix | None:
        """The same without the underscore, where nothing else holds the tensor by name."""
        function, above = call.func, source.parents[call]
        if not isinstance(function, ast.Attribute) or source.names.all_of(function):
            return None
        _, end = source.span(function)
        edits = [Edit(end - 1, end, "")]
        if isinstance(function.value, ast.Name | ast.Attribute | ast.Subscript):
            if not isinstance(above, ast.Expr) or isinstance(function.value, ast.Subscript):
                return None
            edits.append(source.edits.before(call, f"{source.segment(function.value)} = "))
        return self.fix("make a new tensor", edits, safe=False)


def _may_be_low(source: Source, tensor: ast.expr) -> bool:
    found = source.running.types(tensor, "cuda-autocast")
    return bool(found) and found <= {"low", "tensor"}


def _is_cast(source: Source, call: ast.Call) -> bool:
    """Whether the variant that makes a new tensor would be cast here, on a GPU."""
    if "cuda-autocast" not in source.modes.at(call) or is_switched_off(source, call):
        return False
    return under_autocast(source, call) or in_forward(source, call)
