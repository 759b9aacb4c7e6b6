"""Operators are recognized in every form of call, and expressions compared as they are bound."""

from __future__ import annotations

import ast

import pytest

from ampconvert.lint.source import Source

HEAD = """\
import numpy as np
import torch
import torch as th
import torch.nn.functional as F
from torch import nn
from torch.nn.functional import softmax as sm

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.soft = nn.Softmax(dim=1)

    def forward(self, x, y, logger, shape):
"""


def last(expression: str) -> tuple[Source, ast.expr]:
    """The expression in a method, and its source."""
    source = Source(f"{HEAD}        return {expression}\n")
    return source, source.nodes(ast.Return)[-1].value  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("expression", "name"),
    [
        ("torch.exp(x)", "exp"), ("th.exp(input=x)", "exp"), ("x.exp()", "exp"),
        ("x.exp_()", "exp_"), ("torch.special.expm1(x)", "expm1"), ("sm(x, 1)", "softmax"),
        ("F.softmax(x, dim=-1)", "softmax"), ("self.soft(x)", "softmax"),
        ("nn.Softmax(1)(x)", "softmax"), ("x @ y", "matmul"), ("x ** 2", "pow"),
        ("torch.linalg.norm(x)", "linalg_norm"), ("torch.clip(x, 0)", "clamp"),
        ("x.clip(0)", "clamp"), ("x.view(*shape)", "view"),
    ],
)  # fmt: skip
def test_every_form_is_the_operator(expression: str, name: str) -> None:
    source, node = last(expression)
    found = source.operations.of(node)
    assert found is not None and found.name == name
    assert node in [one.node for one in source.operations.all(name)]
    assert isinstance(found.operand, ast.Name) and found.operand.id == "x"


@pytest.mark.parametrize(
    "expression",
    ["np.exp(x)", "logger.log(1, x)", "self.log(x)", "super().sum(x)", "torch.nn.Softmax(1)",
     "x.foo()", "torch.sum(*shape)"],
)  # fmt: skip
def test_what_is_no_operator(expression: str) -> None:
    source, node = last(expression)
    assert source.operations.of(node) is None


def test_a_modules_arguments_follow_its_operands() -> None:
    source, node = last("self.soft(x)")
    found = source.operations.of(node)
    assert found is not None
    dim = found.argument("dim", 1)
    assert isinstance(dim, ast.Constant) and dim.value == 1


@pytest.mark.parametrize(
    ("expression", "squared"),
    [("x * x", True), ("x.pow(2)", True), ("torch.square(x)", True), ("x ** 2.0", True),
     ("x * y", False), ("x ** 3", False), ("x.pow(y)", False)],
)  # fmt: skip
def test_squares(expression: str, squared: bool) -> None:
    source, node = last(expression)
    assert (source.operations.squared(node) is not None) == squared


def test_equal_text_with_another_binding_is_not_the_same() -> None:
    source = Source("def f(x):\n    a = x + 1\n    x = x * 2\n    b = x + 1\n    c = x + 1\n")
    a, _, b, c = (statement.value for statement in source.nodes(ast.Assign))
    assert source.operations.same(b, c)
    assert not source.operations.same(a, b)


def test_what_an_expression_is_made_of() -> None:
    source, node = last("torch.relu(x.sum(1)) / self.soft(y[0])")
    assert source.operations.made_of(node) == {"x", "y"}
