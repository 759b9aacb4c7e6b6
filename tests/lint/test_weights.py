"""What type a model's parameters have where it is called, through casts on the way and in place."""

from __future__ import annotations

import ast
from textwrap import dedent, indent

import pytest

from ampconvert.lint.source import Source
from ampconvert.lint.weights import Weights

START = """
import torch
from torch import nn
from torchvision.models import resnet18
from transformers import AutoModel

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x)

class Casting(Net):
    def forward(self, x):
        return self.layer(x.to(self.layer.weight.dtype))
"""


def called(text: str) -> tuple[Weights, ast.Call]:
    """The weights of a source, and its call of `model` or `self.model`."""
    source = Source(START + dedent(text))
    calls = [c for c in source.nodes(ast.Call) if source.segment(c.func) in ("model", "self.model")]
    return Weights(source), calls[-1]


def types(text: str) -> set[str]:
    weights, call = called(text)
    return {name for made in weights.sure(call.func, call) for name in made.types}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model = Net()", {"float32"}),
        ("model = Net().cuda().eval()", {"float32"}),
        ("model = Net().half()", {"float16"}),
        ("model = torch.compile(Net().to('cuda', torch.bfloat16))", {"bfloat16"}),
        ("model = Net().half().float()", {"float32"}),
        ("model = nn.Linear(4, 4, dtype=torch.float16)", {"float16"}),
        ("model = nn.Linear(4, 4, dtype=dtype)", set()),
        ("model = resnet18().to(device=device, dtype=torch.half)", {"float16"}),
        ("model = AutoModel.from_pretrained('x')", set()),
        ("model = AutoModel.from_pretrained('x', torch_dtype=torch.float16)", {"float16"}),
        ("model = Net()\nmodel.half()", {"float16"}),
        ("model = Net()\nmodel.half()\nmodel.float()", {"float32"}),
        ("model = Net()\nif c:\n    model.half()", set()),
        ("model = Net()\nfor n in names:\n    model.half()", set()),
        ("model = Net()\nother = model\nother.half()", {"float16"}),
        ("model = Net()\nother = Net()\nother.half()", {"float32"}),
        ("model = Net()\ndef cast(m):\n    m.half()\ncast(model)", set()),
        ("model = Net().half() if c else Net()", {"float16", "float32"}),
        ("model = make()", set()),
        ("model = Net()\nmodel = wrap(model)", set()),
        ("model = Net().to(device)", {"float32"}),
        ("model = Net().to(dtype)", set()),
        ("torch.set_default_dtype(torch.float16)\nmodel = Net()", set()),
    ],
)
def test_the_type_where_the_model_is_called(text: str, expected: set[str]) -> None:
    assert types(f"{text}\nmodel(x)") == expected


def test_a_cast_after_the_call_does_not_count() -> None:
    assert types("model = Net()\nmodel(x)\nmodel.half()") == {"float32"}
    assert types("model = Net()\nfor x in data:\n    model(x)\n    model.half()") == set()


def test_a_cast_in_the_caller_or_the_constructor_counts() -> None:
    text = """
    def run(model, x):
        return model(x)

    net = Net()
    {}
    """
    assert types(text.format("net.half()\nrun(net, x)".replace("\n", "\n    "))) == {"float16"}
    assert types(text.format("run(net, x)\nnet.half()".replace("\n", "\n    "))) == set()
    trainer = """
    class Trainer:
        def __init__(self):
            self.model = Net()
            {}

        def step(self, x):
            return self.model(x)
    """
    assert types(trainer.format("self.model.half()")) == {"float16"}
    assert types(trainer.format("self.model = self.model.to(torch.bfloat16)")) == {"bfloat16"}
    assert types(trainer.format("pass")) == {"float32"}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("nn.Linear(1, 1)", True),
        ("nn.LayerNorm(4)", False),
        ("nn.Sequential(nn.ReLU(), nn.Conv2d(1, 1, 1))", True),
        ("nn.Sequential(nn.ReLU())", False),
        ("Net()", True),
        ("Casting()", False),
        ("resnet18()", True),
    ],
)
def test_which_models_insist_on_their_type(model: str, expected: bool) -> None:
    weights, call = called(f"model = {model}\nmodel(x)")
    (made,) = weights.sure(call.func, call)
    assert weights.mixing_raises(made.constructor) == expected


def test_a_part_of_a_module_may_be_cast_with_the_whole() -> None:
    text = indent("self.model = nn.Linear(4, 4)\nself.model(x)", "        ")
    assert types(f"class Part(nn.Module):\n    def __init__(self, x):\n{text}") == set()
