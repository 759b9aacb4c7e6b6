"""AMP403: a constant beyond the low type that a tensor is given."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from ampconvert.findings import Finding
from ampconvert.lint.modes import LOW
from ampconvert.lint.ranges import becomes_inf, beyond, largest
from ampconvert.lint.rule import Case, Rule
from ampconvert.lint.settings import Settings
from ampconvert.lint.source import Source

# Function or method -> the places of its constants: position (of a method, the tensor is operand 0)
# and name.
_Places = tuple[tuple[int, str], ...]
_OPERATORS: dict[str, _Places] = {
    "clamp": ((1, "min"), (2, "max")), "clamp_": ((1, "min"), (2, "max")),
    "clamp_min": ((1, "min"),), "clamp_min_": ((1, "min"),),
    "clamp_max": ((1, "max"),), "clamp_max_": ((1, "max"),),
    "hardtanh": ((1, "min_val"), (2, "max_val")), "pad": ((3, "value"),),
    "threshold": ((2, "value"),), "index_fill": ((3, "value"),),
}  # fmt: skip
_METHODS: dict[str, _Places] = {
    "fill_": ((1, "value"),), "index_fill_": ((3, "value"),), "index_fill": ((3, "value"),),
    "clamp_min_": ((1, "min"),), "clamp_max_": ((1, "max"),),
}  # fmt: skip
# Factories that raise, with the constant's position and name.
_FACTORIES = {
    "torch.full": (1, "fill_value"), "torch.full_like": (1, "fill_value"),
    "torch.linspace": (1, "end"),
}  # fmt: skip
_COPIES = ("torch.tensor", "torch.as_tensor", "torch.scalar_tensor")
_LEGACY = ("torch.HalfTensor", "torch.cuda.HalfTensor")


@dataclass(frozen=True, eq=False)
class _Use:
    node: ast.Call
    what: str
    values: tuple[ast.expr, ...]
    types: frozenset[str]
    raises: bool


class HalfConstantOverflow(Rule):
    """A constant beyond the largest number of the type it is put into: 65504 for float16.

    `torch.tensor(65536.0, dtype=torch.float16)` is inf without a word, and so is
    `torch.tensor(1e5).half()`. `torch.full(size, 1e5, dtype=torch.float16)`, `x.clamp(max=1e5)`,
    `x.fill_(1e5)` and `F.pad(x, (1, 1), value=-1e9)` of a float16 tensor raise "value cannot be
    converted to type c10::Half without overflow". bfloat16 reaches 3.39e38.

    Found where the type shows in the file: by a cast, by `dtype=`, or because autocast makes the
    tensor float16. Mask constants in `masked_fill` and `where` are AMP401.

    Source: https://docs.pytorch.org/docs/stable/type_info.html
    """

    CODE = "AMP403"
    NAME = "half-constant-overflow"
    SEVERITY = "error"
    ADVICE = "Take a constant that the type holds, torch.finfo(dtype).max, or keep it in float32."
    WORDS = (
        (b"tensor", b"full", b"clamp", b"clip", b"fill_", b"pad", b"linspace", b"hardtanh",
         b"threshold", b"HalfTensor"),
        (b"torch",),
    )  # fmt: skip
    NEEDS_MODE = True
    VALID = (
        Case("""\
import torch

a = torch.tensor(65504.0, dtype=torch.float16)
b = torch.tensor(65536.0, dtype=torch.bfloat16)
c = torch.full((2,), 1e5)
d = torch.full((2,), float("inf"), dtype=torch.half)
e = torch.tensor([1, 100000])
"""),
        Case("""\
import torch

def limited(x, w, dtype=torch.float16):
    top = 6e4 if dtype == torch.float16 else 1e9
    x = x.to(dtype).clamp(max=top)
    return x.float().clamp(-1e9, 1e9)
"""),
        Case("""\
import torch

def limited(x, w):
    with torch.autocast("cuda", dtype=torch.bfloat16):
        y = (x @ w).clamp(max=1e5)
    with torch.autocast("cuda", dtype=torch.float16):
        return y, (x @ w).softmax(-1).clamp(max=1e5), x.clamp(max=1e5)
"""),
    )
    INVALID = (
        Case("""\
import torch as th

LIMIT = 1e5

def constants(x, low=th.half):
    a = th.tensor([1.0, LIMIT], dtype=low)  # AMP403
    b = th.full((2, 2), 2**17, dtype=th.float16)  # AMP403
    c = th.tensor(70000.0).half()  # AMP403
    d = x.half().clamp(max=LIMIT)  # AMP403
    return a, b, c, d
"""),
        Case("""\
import torch
import torch.nn.functional as F
from torch import nn
from torch.cuda.amp import autocast as ac

class Scores(nn.Module):
    def __init__(self):
        super().__init__()
        self.project = nn.Linear(8, 8)
        self.lowest = -1e6

    def forward(self, x):
        scores = self.project(x)
        scores = torch.clamp(scores, min=self.lowest)  # AMP403
        for _ in range(2):
            scores = F.pad(scores, (0, 1), value=-1e9)  # AMP403
        return scores

net = Scores()
with ac():
    net(x)
"""),
        Case(
            """\
import torch

def reset(cache):
    cache = cache.to(torch.bfloat16)
    cache.fill_(torch.finfo(torch.float32).min)  # AMP403
    return cache
""",
            settings=Settings(assume=frozenset({"half"})),
        ),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Factories, copies and operators whose constant is too large for the type they have."""
        if not source.modes.low_types:
            return
        for use in (*_made(source), *_operated(source)):
            for low in sorted(use.types & LOW, reverse=True):
                found = [n for v in use.values if (n := beyond(source, v, low)) is not None]
                if not use.raises:
                    found = [n for n in found if becomes_inf(n, low)]
                if found:
                    outcome = "raises" if use.raises else "gives inf"
                    yield self.finding(
                        source, use.node,
                        f"{found[0]:g} is beyond {low}'s largest number, {largest(low):g}: "
                        f"{use.what} {outcome}",
                        severity="error" if use.raises else "warning",
                    )  # fmt: skip
                    break


def _made(source: Source) -> Iterator[_Use]:
    """Tensors that are made of constants in a low type."""
    for call in source.names.calls(*_FACTORIES):
        name = source.names.of(call.func)
        position, keyword = _FACTORIES.get(name, (1, ""))
        values = _arguments(call, ((position, keyword),), 0)
        yield _Use(call, name.rpartition(".")[2], values, _asked(source, call), True)
    for call in source.names.methods("new_full"):
        values = _arguments(call, ((1, "fill_value"),), 0)
        yield _Use(call, "new_full", values, _asked(source, call), True)
    for call in source.names.calls(*_COPIES):
        if call.args:
            what = source.names.of(call.func).rpartition(".")[2]
            around, types = _cast(source, call)
            yield _Use(around, what, _elements(call.args[0]), types, False)
    for call in source.names.calls(*_LEGACY):
        if len(call.args) == 1 and isinstance(call.args[0], ast.List | ast.Tuple):
            yield _Use(call, "HalfTensor", _elements(call.args[0]), frozenset({"float16"}), False)


def _operated(source: Source) -> Iterator[_Use]:
    """Operators that check that their constants fit the type of their tensor."""
    for found in source.operations.all(*_OPERATORS):
        places = _OPERATORS[found.name]
        given = [found.argument(name, position) for position, name in places]
        values = tuple(v for v in given if v is not None)
        if values and isinstance(found.node, ast.Call):
            yield _Use(
                found.node, found.name, values, _types(source, found.node, found.operand), True
            )
    for call in source.names.methods(*_METHODS):
        assert isinstance(call.func, ast.Attribute)
        values = _arguments(call, _METHODS[call.func.attr], 1)
        if values and not source.names.all_of(call.func):
            types = _types(source, call, call.func.value)
            yield _Use(call, call.func.attr, values, types, True)


def _types(source: Source, node: ast.expr, tensor: ast.expr) -> frozenset[str]:
    """The low types that `tensor` is known to have: by a cast, or by what autocast makes."""
    explicit = frozenset[str](source.tensors.of(tensor))
    if explicit and "unknown" not in explicit:
        return explicit if explicit <= LOW else frozenset()
    types = source.modes.at(node)
    modes = [mode for mode in source.running.surely(node, tensor) if mode != "half"]
    return frozenset[str]().union(*(types[mode] for mode in modes))


def _asked(source: Source, call: ast.Call) -> frozenset[str]:
    """The types of `dtype=`."""
    dtype = next((k.value for k in call.keywords if k.arg == "dtype"), None)
    return frozenset() if dtype is None else source.tensors.types(dtype)


def _cast(source: Source, call: ast.Call) -> tuple[ast.Call, frozenset[str]]:
    """The types of `torch.tensor(x, dtype=...)`, `torch.tensor(x).half()`, and that whole call."""
    asked = _asked(source, call)
    if asked:
        return call, asked
    attribute = source.parents[call]
    after = source.parents[attribute]
    if isinstance(attribute, ast.Attribute) and isinstance(after, ast.Call):
        types = frozenset[str](source.tensors.of(after))
        return after, types if types <= LOW else frozenset()
    return call, frozenset()


def _arguments(call: ast.Call, places: _Places, bound: int) -> tuple[ast.expr, ...]:
    """The constants of a call; positions count from the tensor where that is `bound`."""
    found = [k.value for k in call.keywords for _, name in places if k.arg == name]
    if any(isinstance(a, ast.Starred) for a in call.args):
        return tuple(found)
    at = [position - bound for position, _ in places]
    return (*found, *(call.args[i] for i in at if i < len(call.args)))


def _elements(data: ast.expr) -> tuple[ast.expr, ...]:
    """The numbers in `[1.0, [2.0, x]]`."""
    if isinstance(data, ast.List | ast.Tuple):
        return tuple(element for one in data.elts for element in _elements(one))
    return (data,)
