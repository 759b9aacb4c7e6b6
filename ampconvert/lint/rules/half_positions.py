"""AMP416: positions counted in 16 bits."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding
from ampconvert.lint.rule import Case, Judged, Rule
from ampconvert.lint.source import Source

# The first integer that a type doesn't hold is one more.
_EXACT = {"float16": 2048, "bfloat16": 256}
_CASTS = {"half": "float16", "bfloat16": "bfloat16"}


class HalfPositions(Rule):
    """Integers above 2048 in float16, and above 256 in bfloat16, are rounded to a neighbour.

    `torch.arange(n, dtype=torch.float16)` counts 2047, 2048, 2048, 2050, 2052, 2052: positions
    share their embedding, rotary angles are wrong, indices hit twice. bfloat16 does so from 256 on.

    Reported are ranges with a low type by `dtype=`, `.half()`, `.bfloat16()` or `.to(...)`, unless
    their end is a number that the type holds, or the step is 2 and the end unknown (the channels of
    an encoding); and ranges that take the type of a buffer of their
    module (`positions.type_as(self.inv_freq)`) where the file shows `.half()` or the like, for that
    casts buffers too. A type that only the caller knows (`dtype=x.dtype`) is not reported.

    Sources: https://github.com/vllm-project/vllm/issues/863
    and https://github.com/NVIDIA/Megatron-LM/issues/535
    """

    CODE = "AMP416"
    NAME = "half-positions"
    ADVICE = "Count in integers or float32, and cast what is computed from the positions."
    JUDGED = Judged(true=4, read=4)
    WORDS = ((b"arange",),)
    NEEDS_MODE = True
    VALID = (
        Case("""\
import torch

def angles(n, frequencies):
    positions = torch.arange(n, dtype=torch.float32)
    return torch.outer(positions, frequencies).cos().half()
"""),
        Case("""\
import torch

levels = torch.arange(16, dtype=torch.float16)
steps = torch.arange(0, 2048, 2).half()
weights = torch.arange(256).to(torch.bfloat16)

def frequencies(dim):
    return 10000 ** -(torch.arange(0, dim, 2, dtype=torch.bfloat16) / dim)
"""),
        Case("""\
import numpy as np
import torch

table = np.arange(5000, dtype=np.float16)
mask = torch.arange(5000)[None, :] < 10
row = mask.half()
"""),
        Case("""\
import torch
from torch import nn

class Rotary(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.register_buffer("frequencies", 10000 ** -(torch.arange(0, dim, 2).float() / dim))

    def forward(self, n, x):
        with torch.autocast("cuda"):
            return torch.outer(torch.arange(n).type_as(self.frequencies), self.frequencies)
"""),
    )
    INVALID = (
        Case("""\
import torch

def positions(n, x):
    return torch.arange(n, dtype=torch.float16, device=x.device)  # AMP416
"""),
        Case("""\
import torch as th
from torch import nn

class Embedding(nn.Module):
    def __init__(self, size: int = 4096):
        super().__init__()
        self.size = size
        self.dtype = th.bfloat16

    def forward(self, x):
        time = th.arange(self.size).to(device=x.device, dtype=self.dtype)  # AMP416
        index = th.arange(0, 300, device=x.device).bfloat16()  # AMP416
        return time, index
"""),
        Case("""\
from torch import arange, half

grid = arange(0, 5000, 1, dtype=half)  # AMP416
rows = arange(len(grid))
rows = rows.half()  # AMP416
"""),
        Case("""\
import torch
from torch import nn

class Rotary(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.register_buffer("frequencies", 10000 ** -(torch.arange(0, dim, 2).float() / dim))

    def forward(self, n, x):
        positions = torch.arange(n, device=x.device).type_as(self.frequencies)  # AMP416
        return torch.outer(positions, self.frequencies)

rotary = Rotary(64).half()
"""),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """torch.arange in a low type that doesn't hold its end."""
        for call, outer in _ranges(source):
            place, types = _cast(source, call, outer)
            if not types or not types <= set(_EXACT):
                types = _of_buffer(source, call, outer)
            if not types:
                continue
            low = min(types, key=_EXACT.__getitem__)
            ends = _ends(source, call)
            if ends and max(ends) <= _EXACT[low]:
                continue
            if not ends and _counts_channels(source, call):
                continue
            yield self.finding(
                source, place,
                f"positions in {low}, which rounds integers above {_EXACT[low]}",
            )  # fmt: skip


def _ranges(source: Source) -> Iterator[tuple[ast.Call, ast.Call | None]]:
    """Each torch.arange, with the method that is called on it, there or through a name."""
    ranges = source.operations.all("arange")
    for operation in ranges:
        if isinstance(operation.node, ast.Call):
            yield operation.node, _method(source, operation.node)
    for call in source.names.methods(*_CASTS, "to", "type", "type_as") if ranges else ():
        if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
            found = source.operations.behind(call.func.value, "arange")
            if found is not None and isinstance(found.node, ast.Call):
                yield found.node, call


def _cast(
    source: Source, call: ast.Call, outer: ast.Call | None
) -> tuple[ast.Call, frozenset[str]]:
    """Where a range gets its type, and which: in the call, or by a cast right behind it."""
    asked = next((k.value for k in call.keywords if k.arg == "dtype"), None)
    if asked is not None:
        return call, source.tensors.types(asked)
    if outer is None:
        return call, frozenset()
    assert isinstance(outer.func, ast.Attribute)
    if outer.func.attr in _CASTS and not outer.args:
        return outer, frozenset({_CASTS[outer.func.attr]})
    if outer.func.attr in ("to", "type"):
        given = [*outer.args, *(k.value for k in outer.keywords if k.arg == "dtype")]
        return outer, frozenset().union(*(source.tensors.types(one) for one in given))
    return call, frozenset()


def _of_buffer(source: Source, call: ast.Call, outer: ast.Call | None) -> frozenset[str]:
    """The low types that a buffer may have from which a range takes its type."""
    given = [k.value for one in (call, outer) if one is not None
             for k in one.keywords if k.arg == "dtype"]  # fmt: skip
    if outer is not None:
        assert isinstance(outer.func, ast.Attribute)
        if outer.func.attr == "type_as" and outer.args:
            given.append(ast.Attribute(outer.args[0], "dtype", ast.Load()))
        elif outer.func.attr == "to":
            given += outer.args
    for one in given:
        if not isinstance(one, ast.Attribute) or one.attr != "dtype":
            continue
        if source.running.is_buffer(one.value):
            return source.modes.of_models & set(_EXACT)
    return frozenset()


def _method(source: Source, call: ast.Call) -> ast.Call | None:
    """The call of a method of what `call` gives."""
    attribute = source.parents[call]
    outer = source.parents.get(attribute)
    if isinstance(attribute, ast.Attribute) and isinstance(outer, ast.Call):
        return outer if outer.func is attribute else None
    return None


def _counts_channels(source: Source, call: ast.Call) -> bool:
    """Whether this looks like the channels of an encoding, arange(0, dim, 2), which are few."""
    step = next((k.value for k in call.keywords if k.arg == "step"), None)
    if step is None and len(call.args) > 2:
        step = call.args[2]
    return step is not None and source.values.numbers(step) == {2.0}


def _ends(source: Source, call: ast.Call) -> set[float]:
    """What the range's end may be; empty where that can't be seen."""
    by_keyword = next((k.value for k in call.keywords if k.arg == "end"), None)
    positional = call.args[1] if len(call.args) > 1 else (call.args[0] if call.args else None)
    end = by_keyword if by_keyword is not None else positional
    return source.values.numbers(end) if end is not None else set()
