"""AMP308: a bfloat16 tensor that is handed to NumPy."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding
from ampconvert.lint.rule import Case, Rule
from ampconvert.lint.source import Source

_MOVES = ("cpu", "cuda", "to", "detach", "squeeze", "contiguous", "clone")
_ARRAYS = ("numpy.array", "numpy.asarray", "numpy.ascontiguousarray")


class Bf16ToNumpy(Rule):
    """NumPy has no bfloat16: `.numpy()` of such a tensor raises.

    The error is "Got unsupported ScalarType BFloat16", and `numpy.asarray(x)` raises it as well.
    float16 has a NumPy type and is fine.

    Found where the type shows: by a cast or `dtype=`, or because a layer or a matrix product gives
    it under autocast with dtype=torch.bfloat16. The output of a whole model is not known and not
    reported, which is the most frequent case: the rule is off by default as it finds little.

    Source: https://github.com/pytorch/pytorch/issues/110285
    """

    CODE = "AMP308"
    NAME = "bf16-to-numpy"
    SEVERITY = "error"
    DEFAULT = False
    ADVICE = "Cast first: x.float().cpu().numpy()."
    FIX = "safe"
    FIX_SAFETY = "The tensor is bfloat16 here, which raises; float32 holds each of its numbers."
    WORDS = ((b"numpy",), (b"torch",))
    NEEDS_MODE = True
    VALID = (
        Case("""\
import torch

def arrays(x, w, ids):
    a = x.half().numpy()
    b = x.bfloat16().float().cpu().numpy()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        c = (x @ w).softmax(-1).cpu().numpy()
    return a, b, c, ids.numpy()
"""),
        Case("""\
import torch

def arrays(x, w, ids):
    with torch.autocast("cuda", dtype=torch.bfloat16):
        y = (x @ w).argmax(-1)
    x = x.to(torch.bfloat16 if x.is_cuda else torch.float32)
    return x.numpy(), y.numpy()
"""),
        Case("""\
import torch

def arrays(x, w):
    with torch.autocast("cuda", dtype=torch.float16):
        y = x @ w
    return y.cpu().numpy(), x.numpy()
"""),
    )
    INVALID = (
        Case(
            """\
import numpy as np
import torch as th

class Exporter:
    def __init__(self, x):
        self.low = x.to("cuda", th.bfloat16)

    def arrays(self):
        for _ in range(2):
            first = self.low.detach().cpu().numpy()  # AMP308
        return first, np.asarray(self.low * 2)  # AMP308
""",
            """\
import numpy as np
import torch as th

class Exporter:
    def __init__(self, x):
        self.low = x.to("cuda", th.bfloat16)

    def arrays(self):
        for _ in range(2):
            first = self.low.detach().cpu().float().numpy()  # AMP308
        return first, np.asarray((self.low * 2).float())  # AMP308
""",
        ),
        Case(
            """\
import torch
from torch.cuda.amp import autocast as ac

def scores(q, k):
    with ac(dtype=torch.bfloat16):
        found = torch.bmm(q, k)
    return found.cpu().numpy()  # AMP308
""",
            """\
import torch
from torch.cuda.amp import autocast as ac

def scores(q, k):
    with ac(dtype=torch.bfloat16):
        found = torch.bmm(q, k)
    return found.cpu().float().numpy()  # AMP308
""",
        ),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Conversions to arrays of tensors that are bfloat16."""
        if "bfloat16" not in source.modes.low_types:
            return
        for call in (*source.names.methods("numpy"), *source.names.calls(*_ARRAYS)):
            is_method = isinstance(call.func, ast.Attribute) and not source.names.all_of(call.func)
            if is_method == bool(call.args):
                continue
            tensor = call.func.value if isinstance(call.func, ast.Attribute) else call
            if not is_method:
                tensor = call.args[0]
            if _is_bfloat16(source, tensor):
                edit = source.edits.method(tensor, ".float()")
                yield self.finding(
                    source, call, "NumPy has no bfloat16: this raises",
                    self.fix("cast to float32", [edit], safe=True),
                )  # fmt: skip


def _is_bfloat16(source: Source, tensor: ast.expr) -> bool:
    explicit = source.tensors.of(tensor)
    if explicit and "unknown" not in explicit:
        return explicit == {"bfloat16"}
    made = list(_makers(source, tensor))
    for mode in source.modes.found:
        if mode != "half" and source.running.types(tensor, mode) == {"low"}:
            types = {t for one in made for t in source.modes.at(one).get(mode, {"unknown"})}
            return types == {"bfloat16"}
    return False


def _makers(source: Source, tensor: ast.expr) -> Iterator[ast.expr]:
    """The expressions that computed `tensor`, before it was moved or looked at otherwise."""
    for value in source.values.of(tensor):
        function = value.func if isinstance(value, ast.Call) else None
        if isinstance(function, ast.Attribute) and function.attr in _MOVES:
            yield from _makers(source, function.value)
        else:
            yield value
