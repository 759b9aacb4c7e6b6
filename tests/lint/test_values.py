"""What names, attributes, parameters and calls stand for, and of what kind things are."""

from __future__ import annotations

import ast
import math
from textwrap import dedent

import pytest
import torch

from ampconvert.lint.arithmetic import limit
from ampconvert.lint.kinds import Kind
from ampconvert.lint.source import Source


def asked(text: str) -> tuple[Source, ast.expr]:
    """A source, and the argument of its call of `ask`."""
    source = Source(dedent(text))
    (call,) = [
        c for c in source.nodes(ast.Call) if isinstance(c.func, ast.Name) and c.func.id == "ask"
    ]
    return source, call.args[0]


def values(text: str) -> set[str]:
    source, expression = asked(text)
    return {source.segment(value) for value in source.values.of(expression)}


def kinds(text: str) -> frozenset[Kind]:
    source, expression = asked(text)
    return source.kinds.of(expression)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1\nx = 2\nask(x)", {"2"}),
        ("x = 1\nif c:\n    x = 2\nask(x)", {"1", "2"}),
        ("if c:\n    x = 1\nelse:\n    x = 2\nask(x)", {"1", "2"}),
        ("x = 1\nfor i in y:\n    ask(x)\n    x = 2", {"1", "2"}),
        ("x = y = 3\nask(x)", {"3"}),
        ("a, (b, c) = 1, (2, 3)\nask(c)", {"3"}),
        ("pair = 1, 2\na, b = pair\nask(b)", {"2"}),
        ("a, *b = 1, 2, 3\nask(b)", {"b"}),
        ("ask(3 if c else None)", {"3", "None"}),
        ("x = c or 4\nask(x)", {"c", "4"}),
        ("if (n := 5):\n    ask(n)", {"5"}),
        ("for e in (1, 2):\n    ask(e)", {"1", "2"}),
        ("for n, e in [('a', 1), ('b', 2)]:\n    ask(e)", {"1", "2"}),
        ("for e in range(3):\n    ask(e)", {"e"}),
        ("d = {'eps': 1e-8, 'lr': 1}\nask(d['eps'])", {"1e-8"}),
        ("d = {'eps': 1e-8}\nask(d['lr'])", {"d['lr']"}),
        ("d = [1, 2]\nask(d[1])", {"2"}),
        ("with f() as x:\n    ask(x)", {"x"}),
    ],
)  # fmt: skip
def test_a_name_stands_for_what_was_bound_last(text: str, expected: set[str]) -> None:
    assert values(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("try:\n    from a import x\nexcept ImportError:\n    x = None\nask(x)", {"x", "None"}),
        ("x = 1\nif c:\n    x += 1\nask(x)", {"1", "x"}),
        ("if c:\n    x = 1\nelse:\n    x, y = f()\nask(x)", {"1", "x"}),
        ("x = f()\ny = x[0]\nask(y)", {"x[0]"}),
        ("a, b = f()\nask(a)", {"a"}),
        ("ask(unknown)", {"unknown"}),
    ],
)
def test_what_leads_nowhere_stands_for_itself(text: str, expected: set[str]) -> None:
    assert values(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "x = 0\nwhile c:\n    x = x + 1\nask(x)",
        "x = y\ny = x\nask(x)",
        "a, b = 1, 2\nwhile c:\n    a, b = b, a\nask(a)",
        "def f(x):\n    f(x)\n    ask(x)",
        "def f():\n    return f()\nask(f())",
        "class A:\n    def f(self):\n        self.x = self.y\n        self.y = self.x\n"
        "        ask(self.x)",
    ],
)
def test_circles_end(text: str) -> None:
    source, expression = asked(text)
    assert source.values.of(expression)
    source.values.numbers(expression)
    source.kinds.of(expression)


def test_attributes_of_self_are_what_methods_of_the_class_and_its_bases_assign() -> None:
    text = """
    class Base:
        eps = 1e-6

        def __init__(self):
            self.scale, self.shift = 2, 3

    class A(Base):
        def __init__(self, flag):
            super().__init__()
            if flag:
                self.eps = 1e-8

        def f(self):
            ask({})

    class Other:
        def __init__(self):
            self.shift = 9
    """
    assert values(text.format("self.eps")) == {"1e-6", "1e-8"}
    assert values(text.format("self.shift")) == {"3"}
    assert values(text.format("self.other")) == {"self.other"}


def test_attributes_of_objects_of_this_file_are_found_by_how_they_are_made_or_annotated() -> None:
    text = """
    @dataclass
    class Config:
        eps: float = 1e-8

    class Net:
        def __init__(self, config: Config):
            self.eps = config.eps
            self.made = Config()

        def f(self):
            ask({})
    """
    assert values(text.format("self.eps")) == {"1e-8", "config.eps"}
    assert values(text.format("self.made.eps")) >= {"1e-8"}


def test_a_property_is_what_it_returns() -> None:
    text = """
    class A:
        @property
        def low(self):
            return -1e9

        def high(self):
            return 1e9

        def f(self):
            ask(self.{})
    """
    assert values(text.format("low")) == {"-1e9"}
    assert values(text.format("high")) == {"self.high"}
    assert values(text.format("high()")) == {"1e9"}


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ("", {"1e-5", "eps"}),
        ("f(x)", {"1e-5"}),
        ("f(x, 1e-8)", {"1e-8"}),
        ("f(x, 1e-8)\nf(eps=1e-7, x=x)\nf(x)", {"1e-8", "1e-7", "1e-5"}),
        ("f(*args)", {"1e-5"}),
    ],
)
def test_a_parameter_is_what_calls_give_or_its_default(calls: str, expected: set[str]) -> None:
    assert values(f"def f(x, eps=1e-5):\n    ask(eps)\n{calls}") == expected


@pytest.mark.parametrize(
    "text",
    [
        "def f(x):\n    ask(x)\n{}",
        "def f(x, *, y=None):\n    ask(x)\n{}",
    ],
)
def test_a_parameter_without_default_may_be_unknown(text: str) -> None:
    assert values(text.format("f(*a)")) == {"x"}
    assert values(text.format("f(1)\nf(*a)")) == {"1", "x"}


def test_parameters_of_methods_and_of_forward_are_seen() -> None:
    text = """
    class Net(nn.Module):
        def __init__(self, width):
            self.width = width

        @staticmethod
        def scaled(x, by):
            ask({})

        def helper(self, x, by):
            self.scaled(x, 3)
            return x

        def forward(self, x, mask=None):
            return self.helper(x, 2)

    class Wide(Net):
        def __init__(self):
            super().__init__(64)

    net = Net(8).to(device)
    net(image)
    """
    assert values(text.format("by")) == {"3"}
    assert values(text.replace("return x\n", "ask(by)\n").replace("ask({})", "pass")) == {"2"}
    asks = text.replace("ask({})", "pass")
    assert values(asks.replace("return self.helper(x, 2)", "ask(x)")) == {"image"}
    assert values(asks.replace("self.width = width", "ask(width)")) == {"8", "64"}


def test_elements_are_found_in_lists_and_module_lists() -> None:
    text = """
    import torch
    from torch import nn

    class Block(nn.Module):
        def forward(self, x):
            ask({})

    class Net(nn.Module):
        def __init__(self, n):
            self.blocks = nn.ModuleList([Block() for _ in range(n)])
            self.heads = nn.ModuleList([nn.Linear(1, 2), nn.Tanh()])

        def forward(self, x, y):
            for i, block in enumerate(self.blocks):
                block(x)
            for (a, b), head in zip(y, self.heads):
                pass
            {}
            self.blocks[i](y)
    """
    assert values(text.format("x", "pass")) == {"x", "y"}
    assert values(text.format("1", "pass").replace("ask(1)", "1").replace("pass", "ask(head)", 1)) \
        == {"nn.Linear(1, 2)", "nn.Tanh()"}  # fmt: skip
    assert values("for i, e in enumerate([1, 2]):\n    ask(i)") == {"i"}
    assert values("for e in reversed((1, 2)):\n    ask(e)") == {"1", "2"}


def test_calls_give_what_functions_return() -> None:
    text = """
    def make(n):
        if n:
            return Net(n), 1e-8
        return Other(n), 1e-7

    def stream():
        yield 1
        return 2

    model, eps = make(3)
    ask({})
    """
    assert values(text.format("model")) == {"Net(n)", "Other(n)"}
    assert values(text.format("eps")) == {"1e-8", "1e-7"}
    assert values(text.format("stream()")) == {"stream()"}


def test_prepare_gives_back_its_arguments_in_their_order() -> None:
    text = """
    model, optimizer = Net(), Adam()
    model, optimizer, loader = accelerator.prepare(model, optimizer, data)
    ask({})
    """
    assert values(text.format("model")) == {"Net()"}
    assert values(text.format("optimizer")) == {"Adam()"}
    assert values(text.format("loader")) == {"data"}
    assert values("model = fabric.setup(Net())\nask(model)") == {"Net()"}
    assert values("a, b = accelerator.prepare(*things)\nask(b)") == {"b"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ask(-1e9)", {-1e9}),
        ("ask(10 ** -8)", {1e-8}),
        ("ask(10**-8 * 2)", {2e-8}),
        ("ask(-2**32 + 1)", {-(2.0**32) + 1}),
        ("ask(1 << 16)", {65536.0}),
        ("x = 0\nx = x + 1\nask(x)", {1.0}),
        ("ask(1 / 0)", set()),
        ("ask(10.0 ** 400)", set()),
        ("ask(True)", set()),
        ("ask('1e-8')", set()),
        ("ask(float('-inf'))", {-math.inf}),
        ("ask(float(eps))\neps = 1", {1.0}),
        ("import numpy as np\nask(-np.inf)", {-math.inf}),
        ("from math import inf\nask(inf)", {math.inf}),
        ("import torch\nask(torch.finfo(torch.float16).min)", {-65504.0}),
        ("import torch as th\ninfo = th.finfo(th.half)\nask(info.max)", {65504.0}),
        ("import torch\nask(torch.finfo(x.dtype).min)", set()),
        ("import numpy as np\nask(np.finfo(np.float32).tiny)", {2.0**-126}),
        ("class A:\n    def __init__(self, eps=1e-8):\n        self.eps = eps\n"
         "    def f(self):\n        ask(2 * self.eps)", {2e-8}),
    ],
)  # fmt: skip
def test_numbers(text: str, expected: set[float]) -> None:
    source, expression = asked(text)
    assert source.values.numbers(expression) == expected


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("which", ["min", "max", "eps", "tiny", "smallest_normal"])
def test_the_limits_of_types_are_torchs(name: str, which: str) -> None:
    assert limit(name, which) == getattr(torch.finfo(getattr(torch, name)), which)


IMPORTS = """
import functools
import torch
import torch as th
from torch import nn, optim
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.optim import lr_scheduler
from transformers import AutoModel, AutoTokenizer, get_scheduler

class Net(nn.Module):
    pass

class Mine(optim.Optimizer):
    pass

def build():
    return Net(), optim.SGD(p, 0.1)

def step(x):
    return x
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ask(Net())", {"module"}),
        ("ask(DDP(Net().cuda(), device_ids=[0]))", {"module"}),
        ("m = Net()\nm = torch.compile(m)\nask(m)", {"module"}),
        ("ask(torch.compile(step))", set()),
        ("m = DDP(Net())\nask(m.module)", {"module"}),
        ("net = Net().to(device).half().eval()\nask(net)", {"module"}),
        ("m, o = build()\nask(m)", {"module"}),
        ("m, o = build()\nask(o)", {"optimizer"}),
        ("m, o = build()\nm, o = accelerator.prepare(m, o)\nask(o)", {"optimizer"}),
        ("m, o = build()\nm, o = accelerator.prepare(m, o)\nask(m)", {"module"}),
        ("make = functools.partial(optim.AdamW, lr=1)\nask(make(p))", {"optimizer"}),
        ("make = functools.partial(Net, width=1)\nask(make())", {"module"}),
        ("ask(getattr(torch.optim, name)(p))", {"optimizer"}),
        ("table = {'a': optim.Adam, 'm': Mine}\nask(table[name](p))", {"optimizer"}),
        ("ask(Mine(p))", {"optimizer"}),
        ("ask(lr_scheduler.StepLR(o, 1))", {"scheduler"}),
        ("ask(get_scheduler('cosine', o))", {"scheduler"}),
        ("ask(optim.swa_utils.AveragedModel(m))", {"module"}),
        ("ask(nn.Parameter(t))", set()),
        ("ask(nn.Linear(1, 2))", {"module"}),
        ("ask(AutoModel.from_pretrained('x'))", {"module"}),
        ("ask(AutoTokenizer.from_pretrained('x'))", set()),
        ("ask(th.amp.GradScaler('cuda'))", {"scaler"}),
        ("o = optim.Adam(p) if c else None\nask(o)", {"optimizer"}),
        ("layers = nn.ModuleList([Net()])\nask(layers[0])", {"module"}),
        ("layers = nn.ModuleList([Net()])\nfor layer in layers:\n    ask(layer)", {"module"}),
        ("for i, m in enumerate(nn.Sequential()):\n    ask(m)", {"module"}),
        ("for p in Net().parameters():\n    ask(p)", set()),
    ],
)  # fmt: skip
def test_kinds_by_what_made_them(text: str, expected: set[str]) -> None:
    assert kinds(IMPORTS + text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def f(s):\n    s.scale(loss).backward()\n    ask(s)", {"scaler"}),
        ("def f(s, o):\n    s.unscale_(o)\n    ask(s)", {"scaler"}),
        ("def f(o):\n    o.zero_grad()\n    o.step()\n    ask(o)", {"optimizer"}),
        ("def f(o=None):\n    o.zero_grad()\n    o.step()\n    ask(o)", {"optimizer"}),
        ("def f(engine):\n    engine.zero_grad()\n    engine.backward(l)\n    engine.step()\n"
         "    ask(engine)", set()),
        ("def f(s):\n    s.step()\n    s.get_last_lr()\n    ask(s)", {"scheduler"}),
        ("def f(m, x):\n    m.train()\n    m(x)\n    ask(m)", {"module"}),
        ("def f(m, x):\n    m.train()\n    ask(m)", set()),
        ("net = make()\nopt = Lookahead(net.parameters())\nask(net)", {"module"}),
        ("def f(o: optim.Optimizer):\n    ask(o)", {"optimizer"}),
        ("def f(m: 'Net | None', n: Net):\n    ask(n)", {"module"}),
        ("def f(o):\n    ask(o)\nf(unknown())", set()),
        ("def f(o):\n    o.zero_grad()\n    o.step()\n    ask(o)\nf(make())", {"optimizer"}),
        ("class T:\n    def f(self):\n        self.opt = make()\n        self.opt.zero_grad()\n"
         "        self.opt.step()\n        ask(self.opt)", {"optimizer"}),
        ("class T:\n    def f(self):\n        self.o.zero_grad()\n        self.o.step()\n"
         "class U:\n    def f(self):\n        ask(self.o)", set()),
        ("def f(o):\n    o.zero_grad()\n    o.step()\ndef g(o):\n    ask(o)", set()),
        ("class M(nn.Module):\n    def f(self):\n        ask(self)", {"module"}),
    ],
)  # fmt: skip
def test_kinds_by_annotation_and_use(text: str, expected: set[str]) -> None:
    assert kinds(IMPORTS + text) == expected
