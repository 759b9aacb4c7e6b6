"""AMP404: an epsilon that float16 rounds to 0."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding, Fix
from ampconvert.lint.epsilons import UNDERFLOW, Epsilon, epsilons
from ampconvert.lint.rule import Case, Judged, Rule
from ampconvert.lint.running import told
from ampconvert.lint.settings import Mode, Settings
from ampconvert.lint.source import Source

_NORMS = {"normalize": 3, "cosine_similarity": 3}  # the position of eps


class EpsUnderflow(Rule):
    """An epsilon of at most 2**-25 (2.98e-8) is 0 in float16, so it guards nothing.

    The sum `x + 1e-8` has the type of x: where x is float16 the result is x, and an exact 0 stays
    0. Then `0 / (x + 1e-8)` is NaN, `log(x + 1e-8)` is -inf, the gradient of `sqrt(x + 1e-8)` is
    inf, and `x.clamp(min=1e-8)` is 0. Found are epsilons in divisors and in the arguments of
    logarithms, roots and negative powers, also through names, defaults and attributes, and those
    given to `F.normalize` and `F.cosine_similarity`.

    Under autocast on a GPU it matters where x was made: `sum`, `norm`, `softmax`, `exp` and `pow`
    give float32 and are not reported, matrix products, `mean`, `std`, `sigmoid` and `x * x` give
    float16. That log or rsqrt run in float32 there doesn't help: the sum before them does not.
    bfloat16 holds 1e-8. The `eps` of `nn.LayerNorm` and `nn.BatchNorm2d` is added in float32 and
    harmless. What makes a tensor in another file is not seen: it counts as float16 only under
    `assume-amp`.

    Sources: https://github.com/pytorch/pytorch/issues/41527
    and https://github.com/pytorch/pytorch/issues/32137
    """

    CODE = "AMP404"
    NAME = "eps-underflow"
    ADVICE = (
        "Compute the guarded tensor in float32 (x.float() + eps), or take an epsilon that float16 "
        "holds: 1e-4, or torch.finfo(x.dtype).tiny."
    )
    FIX = "unsafe"
    FIX_SAFETY = (
        "It casts the guarded tensor to float32, which changes nothing in FP32 training, but the "
        "result is float32 from there on. Offered where only autocast brings float16 in."
    )
    JUDGED = Judged(true=58, read=64)
    WORDS = ((b"torch",),)
    NEEDS_MODE = True
    VALID = (
        Case("""\
import torch

def normalized(x, w):
    with torch.autocast("cuda", dtype=torch.float16):
        y = x @ w
        return y / (y.norm(dim=-1, keepdim=True) + 1e-8)
"""),
        Case("""\
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8, eps=1e-12)

    def forward(self, x):
        return self.norm(x) / (x.std() + 1e-6)

net = Net().half()
"""),
        Case("""\
import torch

def train(model, x, seconds):
    with torch.autocast("cuda", dtype=torch.bfloat16):
        y = model(x)
        z = y / (y.std() + 1e-8)
    print(len(x) / (seconds + 1e-9))
    return z
"""),
        Case("""\
import torch

def loss(logits, target):
    p = torch.sigmoid(logits.float())
    return -(target * torch.log(p + 1e-8)).mean()

def train(model, x, target):
    with torch.autocast("cuda"):
        return loss(model(x), target)
"""),
    )
    INVALID = (
        Case(
            """\
import torch

def loss(logits, target, eps=1e-8):
    p = torch.sigmoid(logits)
    return -(target * torch.log(p + eps)).mean()  # AMP404

def train(model, x, target):
    with torch.autocast("cuda"):
        return loss(model(x), target)
""",
            """\
import torch

def loss(logits, target, eps=1e-8):
    p = torch.sigmoid(logits)
    return -(target * torch.log(p.float() + eps)).mean()  # AMP404

def train(model, x, target):
    with torch.autocast("cuda"):
        return loss(model(x), target)
""",
        ),
        Case(
            """\
import torch as th
from torch import nn
from torch.cuda.amp import autocast as ac

class Standardize(nn.Module):
    def __init__(self, eps: float = 1e-9):
        super().__init__()
        self.eps = eps

    @ac()
    def forward(self, x):
        centered = x - x.mean(-1, keepdim=True)
        variance = (centered * centered).mean(-1, keepdim=True)
        spread = th.sqrt(variance + self.eps)  # AMP404
        return centered / spread
""",
            """\
import torch as th
from torch import nn
from torch.cuda.amp import autocast as ac

class Standardize(nn.Module):
    def __init__(self, eps: float = 1e-9):
        super().__init__()
        self.eps = eps

    @ac()
    def forward(self, x):
        centered = x - x.mean(-1, keepdim=True)
        variance = (centered * centered).mean(-1, keepdim=True)
        spread = th.sqrt(variance.float() + self.eps)  # AMP404
        return centered / spread
""",
        ),
        Case("""\
import torch
import torch.nn.functional as F

def similarity(a, b):
    a, b = a.half(), b.half()
    total = a.sum(-1).clamp(min=1e-12)  # AMP404
    scaled = a / total.unsqueeze(-1)
    return F.cosine_similarity(scaled, b, dim=-1, eps=1e-8)  # AMP404
"""),
        Case(
            """\
import torch
from torch import nn

class Pool(nn.Module):
    def forward(self, x, mask):
        weights = torch.einsum("bnd,bn->bd", x, mask)
        weights /= x.abs().mean(1) + 1e-10  # AMP404
        return weights
""",
            """\
import torch
from torch import nn

class Pool(nn.Module):
    def forward(self, x, mask):
        weights = torch.einsum("bnd,bn->bd", x, mask)
        weights /= x.abs().mean(1).float() + 1e-10  # AMP404
        return weights
""",
            settings=Settings(assume=frozenset({"cuda-autocast"})),
        ),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Sums and clamps with an epsilon that is lost, before something that 0 breaks."""
        if "float16" not in source.modes.low_types:
            return
        # What a caller gives may come out of a softmax in FP32: only who assumes a mode for code
        # that others call wants to hear of it.
        lenient = bool(source.settings.assume)
        for found in epsilons(source, 0.0, UNDERFLOW):
            surely = lenient and found.must_be_tensor(source)
            modes = source.running.modes(found.node, found.guarded, surely=surely)
            if not lenient and "half" not in modes and _is_given(source, found.guarded):
                continue
            if modes:
                yield self.finding(
                    source, found.node,
                    f"{found.value:g} is 0 in float16 {told(modes)}: where the rest is 0, "
                    f"{found.outcome}",
                    self._upcast(source, found, modes),
                )  # fmt: skip
        yield from self._norms(source)

    def _norms(self, source: Source) -> Iterator[Finding]:
        for operation in source.operations.all(*_NORMS):
            given = operation.argument("eps", _NORMS[operation.name])
            numbers = source.values.numbers(given) if given is not None else set()
            if not numbers or not 0 < max(numbers) <= UNDERFLOW or min(numbers) <= 0:
                continue
            modes = source.running.modes(operation.node, operation.operand, operator=operation.name)
            if modes:
                yield self.finding(
                    source, operation.node,
                    f"{operation.name} with eps={max(numbers):g} in float16 {told(modes)}: it is "
                    "0 there, and a vector of zeros gives NaN",
                )  # fmt: skip

    def _upcast(self, source: Source, found: Epsilon, modes: list[Mode]) -> Fix | None:
        if "half" in modes or not isinstance(found.node, ast.BinOp | ast.Call):
            return None
        edit = source.edits.method(found.guarded, ".float()")
        return self.fix("add it in float32", [edit], safe=False)


def _is_given(source: Source, tensor: ast.expr) -> bool:
    """Whether a tensor is a parameter's, as it came or some of its elements."""
    while isinstance(tensor, ast.Subscript):
        tensor = tensor.value
    return any(
        isinstance(value, ast.Name)
        and any(binding.how == "parameter" for binding in source.scopes.bindings(value))
        for value in source.values.of(tensor)
    )
