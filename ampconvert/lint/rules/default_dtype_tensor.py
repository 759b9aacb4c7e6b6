"""AMP304: a tensor that forward makes without saying its type."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding, Fix
from ampconvert.lint.patterns import Operation
from ampconvert.lint.rule import Case, Judged, Rule
from ampconvert.lint.source import Source
from ampconvert.lint.tensors import FACTORIES

_SIGNS = ("add", "sub", "mul", "div", "matmul")
_MEETINGS = (*_SIGNS, "bmm", "mm", "baddbmm", "linear")
_JOINS = ("torch.cat", "torch.concat", "torch.stack", "torch.hstack", "torch.vstack")
_RAISING = frozenset({"matmul", "bmm", "mm", "baddbmm", "linear"})


class DefaultDtypeTensor(Rule):
    """`forward` makes a float32 tensor and combines it with its input, which may be half.

    `torch.zeros(n, device=x.device)` is float32 whatever x is. In a half model the sum, product or
    `torch.cat` with x is float32 then, and the next layer raises "mat1 and mat2 must have the same
    dtype"; a matrix product with it raises itself. Autocast hides most of this.

    Found in the `forward` of modules, for factories without `dtype` whose result meets a tensor of
    unknown or low type in the same function, where the file shows a half model. Not seen are
    results that are passed on, and types that callers change. The rule is off by default.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.zeros.html
    """

    CODE = "AMP304"
    NAME = "default-dtype-tensor"
    SEVERITY = "info"
    DEFAULT = False
    ADVICE = "Give it the type of what it meets: dtype=x.dtype, or x.new_zeros(...)."
    FIX = "unsafe"
    FIX_SAFETY = "It takes the type of the tensor that gives the device, which may be another one."
    WORDS = (
        (b"zeros", b"ones", b"empty", b"full", b"rand", b"eye", b"linspace", b"logspace", b"normal",
         b"window"),
        (b"torch",), (b"forward",),
    )  # fmt: skip
    NEEDS_MODE = True
    JUDGED = Judged(true=4, read=8)
    VALID = (
        Case("""\
import torch
from torch import nn

class Net(nn.Module):
    def forward(self, x):
        a = x + torch.zeros(4, device=x.device, dtype=x.dtype)
        b = a + torch.randn(4, device=x.device).to(x.dtype)
        c = x.float() * torch.ones(4)
        mask = torch.ones(4, 4).triu().bool()
        return a + b + c + mask

Net().half()
"""),
        Case("""\
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4))
        self.scale = torch.ones(4) * self.weight

    def forward(self, x):
        return x + torch.zeros(4, device=x.device)

with torch.autocast("cuda"):
    Net()(x)
"""),
        Case("""\
import torch
from torch import nn

class Net(nn.Module):
    def forward(self, x):
        out = torch.zeros(4, 4, device=x.device)
        out[:, 0] = x
        x[:, 0] = x[:, 0] + torch.rand(4)
        return torch.full((4,), 2) + x

def other(x):
    return x + torch.zeros(4)

Net().half()
"""),
    )
    INVALID = (
        Case(
            """\
import torch as th
from torch import nn, randn

class Net(nn.Module):
    def forward(self, x):
        noise = randn(4, device=x.device)  # AMP304
        for _ in range(2):
            x = x + noise * 0.1
        pad = th.zeros(1, 4)  # AMP304
        return th.cat([pad, x])

Net().to(th.float16)
""",
            """\
import torch as th
from torch import nn, randn

class Net(nn.Module):
    def forward(self, x):
        noise = randn(4, device=x.device, dtype=x.dtype)  # AMP304
        for _ in range(2):
            x = x + noise * 0.1
        pad = th.zeros(1, 4)  # AMP304
        return th.cat([pad, x])

Net().to(th.float16)
""",
        ),
        Case(
            """\
import torch
from torch import nn

class Attend(nn.Module):
    def forward(self, query):
        keys = torch.ones(4, 8, device=query.device)  # AMP304
        return torch.matmul(query, keys)

Attend().half()
""",
            """\
import torch
from torch import nn

class Attend(nn.Module):
    def forward(self, query):
        keys = torch.ones(4, 8, device=query.device, dtype=query.dtype)  # AMP304
        return torch.matmul(query, keys)

Attend().half()
""",
        ),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Factories without a type in forward, whose result meets a tensor that may be half."""
        if "half" not in source.modes.found:
            return
        made = [call for call in source.names.calls(*FACTORIES) if _is_default(source, call)]
        meetings = list(_meetings(source)) if made else []
        for call in made:
            if "half" not in source.modes.at(call):
                continue
            for node, name, operands in meetings:
                others = [o for o in operands if not _holds(source, o, call)]
                if len(others) < len(operands) and _may_be_half(source, others):
                    outcome = "raises" if name in _RAISING else "is float32"
                    yield self.finding(
                        source, call,
                        f"float32: in a half model {name} on line {node.lineno} {outcome}",
                        self._typed(source, call),
                    )  # fmt: skip
                    break

    def _typed(self, source: Source, call: ast.Call) -> Fix | None:
        devices = [k.value for k in call.keywords if k.arg == "device"]
        device = devices[0] if devices else None
        if not isinstance(device, ast.Attribute) or device.attr != "device":
            return None
        if not source.running.types(device.value, "half") & {"low", "tensor"}:
            return None
        text = f"dtype={source.segment(device.value)}.dtype"
        edit = source.edits.add_keyword(call, text)
        return self.fix("give it that tensor's type", [edit], safe=False)


def _is_default(source: Source, call: ast.Call) -> bool:
    """Whether the call makes a float32 tensor in a forward, which is not cast right away."""
    if any(k.arg in ("dtype", None) for k in call.keywords):
        return False
    function, owner = source.function(call), source.class_of(call)
    if function is None or owner is None or function.name != "forward":
        return False
    if "module" not in source.kinds.of_class(owner):
        return False
    if source.names.of(call.func) == "torch.full":
        numbers = [a.value for a in call.args[1:2] if isinstance(a, ast.Constant)]
        return bool(numbers) and isinstance(numbers[0], float)
    return True


def _meetings(source: Source) -> Iterator[tuple[ast.expr, str, list[ast.expr]]]:
    """Operators that combine tensors, with these."""
    found: list[Operation] = source.operations.all(*_MEETINGS)
    for operation in found:
        above = source.parents[operation.node]
        if isinstance(above, ast.Assign) and isinstance(above.targets[0], ast.Subscript):
            continue  # written into a tensor, which casts
        yield operation.node, operation.name, list(operation.operands)
    for call in source.names.calls(*_JOINS):
        if call.args and isinstance(call.args[0], ast.List | ast.Tuple):
            name = source.names.of(call.func).rpartition(".")[2]
            yield call, name, list(call.args[0].elts)


def _holds(source: Source, operand: ast.expr, call: ast.Call) -> bool:
    """Whether `operand` is what `call` made, as it is, negated or scaled by numbers."""
    for value in source.values.of(operand):
        if value is call:
            return True
        sides = [value.left, value.right] if isinstance(value, ast.BinOp) else []
        numbers = [s for s in sides if source.values.numbers(s)]
        if numbers and any(_holds(source, s, call) for s in sides if s not in numbers):
            return True
    return False


def _may_be_half(source: Source, others: list[ast.expr]) -> bool:
    """Whether one of them is a tensor that takes the model's type."""
    return any(source.running.types(one, "half") & {"low", "tensor"} for one in others)
