"""In what type a tensor is computed in each mode, as PyTorch does it."""

from __future__ import annotations

import ast

import pytest
import torch

from ampconvert.lint.epsilons import UNDERFLOW, epsilons
from ampconvert.lint.settings import Mode, Settings
from ampconvert.lint.source import Source

HEAD = """\
import math
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.ones(4))
        self.register_buffer("table", torch.ones(4))

    def forward(self, x, count: int):
"""


def types_of(expression: str, mode: Mode) -> frozenset[str]:
    source = Source(f"{HEAD}        return {expression}\n")
    node = source.nodes(ast.Return)[-1].value
    assert node is not None
    return source.running.types(node, mode)


@pytest.mark.parametrize(
    ("expression", "cuda", "half"),
    [
        ("x", "tensor", "tensor"),
        ("self.linear(x)", "low", "tensor"),
        ("x @ x", "low", "tensor"),
        ("x.half()", "low", "low"),
        ("x.float()", "full", "full"),
        ("F.softmax(self.linear(x), -1)", "full", "tensor"),
        ("torch.sigmoid(self.linear(x))", "low", "tensor"),
        ("self.linear(x).mean()", "low", "tensor"),
        ("self.linear(x).sum()", "full", "tensor"),
        ("self.linear(x) ** 2", "full", "tensor"),
        ("1 / self.linear(x)", "full", "tensor"),
        ("self.linear(x) + self.linear(x).float()", "full", "full"),
        ("torch.zeros(4) + x.half()", "full", "full"),
        ("torch.zeros_like(x.half())", "low", "low"),
        ("torch.zeros(4, dtype=x.dtype)", "tensor", "tensor"),
        ("x.float().type_as(x)", "tensor", "tensor"),
        ("self.scale", "full", "tensor"),
        ("self.table", "full", "tensor"),
        ("(x > 0).sum()", "integer", "integer"),
        ("count / 2", "plain", "plain"),
        ("math.sqrt(count)", "plain", "plain"),
        ("np.mean(count)", "plain", "plain"),
        ("x.mean().item()", "plain", "plain"),
    ],
)
def test_types(expression: str, cuda: str, half: str) -> None:
    assert types_of(expression, "cuda-autocast") == {cuda}
    assert types_of(expression, "half") == {half}


def test_cpu_autocast_agrees_with_running() -> None:
    x, y = torch.randn(4, 4), torch.randn(4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = x @ y
        real = {
            "x @ y": low.dtype, "(x @ y).sum()": low.sum().dtype,
            "torch.sigmoid(x @ y)": torch.sigmoid(low).dtype,
            "F.softmax(x @ y, -1)": torch.softmax(low, -1).dtype,
            "(x @ y).prod()": low.prod().dtype,
        }  # fmt: skip
    for expression, dtype in real.items():
        told = types_of(expression.replace("y", "x"), "cpu-autocast")
        assert told == {"low" if dtype is torch.bfloat16 else "full"}, expression


@pytest.mark.parametrize(
    ("statement", "seen"),
    [("model.half()", True), ("model = model.half()", True), ("y = model(x.half())", False),
     ("x = x.to(torch.float16)", False), ("m = T.from_pretrained('a', dtype=torch.float16)", True),
     ("x = torch.zeros(3, dtype=torch.float16)", False)],
)  # fmt: skip
def test_casts_of_models_are_told_from_casts_of_tensors(statement: str, seen: bool) -> None:
    text = (
        f"import torch\nfrom a import T\ndef f(model, x):\n    {statement}\n    return model(x)\n"
    )
    source = Source(text)
    assert source.modes.low_types == {"float16"}
    assert bool(source.modes.of_models) == seen


def test_where_only_a_tensor_is_cast_nothing_else_is_low() -> None:
    text = "import torch\ndef f(a, b):\n    a = a.half()\n    return torch.log(a), torch.log(b)\n"
    source = Source(text)
    first, second = source.operations.all("log")
    assert source.running.modes(first.node, first.operand) == ["half"]
    assert source.running.modes(second.node, second.operand) == []


def test_the_largest_epsilon_that_float16_loses() -> None:
    zero = torch.zeros((), dtype=torch.float16)
    above = float(torch.nextafter(torch.tensor(UNDERFLOW), torch.tensor(1.0)))
    assert (zero + UNDERFLOW).item() == zero.clamp(min=UNDERFLOW).item() == 0.0
    assert (zero + above).item() > 0 and zero.clamp(min=above).item() > 0


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("x / (y + 1e-8)", 1), ("x / (1e-8 + y)", 1), ("torch.log(y.clamp(min=1e-9))", 1),
        ("x / (y + y.abs() + 1e-8).unsqueeze(0)", 1), ("(y + 1e-10) ** -0.5", 1),
        ("x / (1 + y + 1e-8)", 0), ("x / (y.clamp(min=0.1) + 1e-8)", 0), ("x * (y + 1e-8)", 0),
        ("x / (y + 1e-4)", 0), ("(y + 1e-10) ** 2", 0), ("x / (y.softmax(-1).sum() + 1e-8)", 0),
        ("torch.nan_to_num(x / (y + 1e-8))", 0), ("x / (y.exp() + 1e-9)", 0),
    ],
)  # fmt: skip
def test_epsilons(expression: str, found: int) -> None:
    text = f"import torch\ndef f(x, y):\n    return {expression}\n"
    source = Source(text, settings=Settings(assume=frozenset({"half"})))
    assert len(list(epsilons(source, 0.0, UNDERFLOW))) == found
