"""AMP111: operands cast to float32 for a matrix product that autocast runs in 16 bits anyway."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding, Fix
from ampconvert.lint import blocks
from ampconvert.lint.forwards import in_forward, is_switched_off, under_autocast
from ampconvert.lint.modes import low_operators
from ampconvert.lint.patterns import Operation
from ampconvert.lint.rule import Case, Judged, Rule
from ampconvert.lint.settings import Settings
from ampconvert.lint.source import Source

_PRODUCTS = (
    "addbmm", "addmm", "baddbmm", "bmm", "conv1d", "conv2d", "conv3d", "einsum", "linear", "matmul",
    "mm", "mv", "scaled_dot_product_attention",
)  # fmt: skip
# How many of the operands are tensors: the rest are strides and flags.
_TENSORS = {"addbmm": 3, "addmm": 3, "baddbmm": 3, "scaled_dot_product_attention": 3}


_KEYWORDS = {"weight", "mat2", "other"}


class FloatCastIneffective(Rule):
    """Operands are cast to float32 before a matrix product that autocast casts back.

    Under autocast `a.float() @ b.float()` runs in 16 bits, whatever its operands are: positions of
    65536, 65537 and 65700 become infinite in float16 and all three 65536 in bfloat16. So do einsum,
    linear, bmm and convolutions.

    Reported are products all of whose operands are float32, at least one by an explicit cast, in a
    region, or in a forward pass of a file that shows autocast or switches it off somewhere else.
    Calls of modules (`self.gate(x.float())`) are not judged: there the cast may serve the type of
    the weights. A region that a caller in another file switches off isn't seen.

    Sources: https://docs.pytorch.org/docs/stable/amp.html#autocast-op-reference
    and https://github.com/huggingface/transformers/pull/29285
    """

    CODE = "AMP111"
    NAME = "float-cast-ineffective"
    ADVICE = "Compute it within `with torch.autocast(x.device.type, enabled=False):`."
    FIX = "unsafe"
    FIX_SAFETY = "The product then runs in float32: slower, and with other results."
    WORDS = ((b"float",),)
    NEEDS_MODE = True
    JUDGED = Judged(5, 5)
    VALID = (
        Case("""\
import torch

with torch.autocast("cuda", enabled=False):
    freqs = inv_freq.float() @ positions.float()
with torch.autocast("cuda"):
    scores = (q @ k).float().softmax(-1)
    scale = q.float() * k.float()
    mixed = q.float() @ k
    with torch.autocast("cuda", enabled=False):
        freqs = inv_freq.float() @ positions.float()
freqs = inv_freq.float() @ positions.float()
"""),
        Case("""\
import torch

from ..utils import maybe_autocast


class Rotary(torch.nn.Module):
    def forward(self, x, positions):
        with maybe_autocast(device_type=x.device.type, enabled=False):
            return self.freqs.float() @ positions.float()


class Outer(torch.nn.Module):
    def forward(self, x, positions):
        with torch.autocast("cuda", enabled=False):
            return self.angles(x)

    def angles(self, x):
        return x.float() @ self.freqs.float()
"""),
        Case("""\
import torch


class Net(torch.nn.Module):
    def forward(self, x):
        return x.float() @ self.weight.float()
"""),
        Case("""\
import torch


class Gate(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = torch.nn.Linear(4, 4)

    @torch.autocast("cuda")
    def forward(self, x):
        return self.gate(x.float())
"""),
    )
    INVALID = (
        Case(
            """\
import torch as th
from torch.cuda.amp import autocast as ac


@ac()
def angles(inv_freq, positions):
    inv_freq = inv_freq[None, :, None].float()
    freqs = (inv_freq @ positions.float()).transpose(1, 2)  # AMP111
    return th.einsum(  # AMP111
        "bi,bj->bij",
        positions.to(th.float32),  # exact
        th.arange(4).float(),
    )
""",
            """\
import torch as th
from torch.cuda.amp import autocast as ac


@ac()
def angles(inv_freq, positions):
    inv_freq = inv_freq[None, :, None].float()
    with th.autocast(inv_freq.device.type, enabled=False):
        freqs = (inv_freq @ positions.float()).transpose(1, 2)  # AMP111
    with th.autocast(positions.device.type, enabled=False):
        return th.einsum(  # AMP111
            "bi,bj->bij",
            positions.to(th.float32),  # exact
            th.arange(4).float(),
        )
""",
        ),
        Case(
            """\
import torch
import torch.nn.functional as F


class Router(torch.nn.Module):
    def __init__(self, bias):
        super().__init__()
        self.register_buffer("bias", bias)

    def forward(self, x):
        with torch.autocast("cuda", enabled=False):
            x = x.float() @ self.down.float()
        return self.scores(x)

    def scores(self, x):
        bias = torch.outer(self.bias, self.bias) @ x.float()  # AMP111
        return F.linear(x.type(torch.float32), self.weight.float()) + bias  # AMP111
""",
            """\
import torch
import torch.nn.functional as F


class Router(torch.nn.Module):
    def __init__(self, bias):
        super().__init__()
        self.register_buffer("bias", bias)

    def forward(self, x):
        with torch.autocast("cuda", enabled=False):
            x = x.float() @ self.down.float()
        return self.scores(x)

    def scores(self, x):
        with torch.autocast(x.device.type, enabled=False):
            bias = torch.outer(self.bias, self.bias) @ x.float()  # AMP111
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.type(torch.float32), self.weight.float()) + bias  # AMP111
""",
        ),
        Case(
            """\
import torch


class Net(torch.nn.Module):
    def forward(self, a):
        for b in self.parts:
            if b is not None: a = torch.bmm(a.float(), b.float())  # AMP111
        return a
""",
            settings=Settings(assume=frozenset({"cuda-autocast"})),
        ),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Products of float32 operands that autocast may take to 16 bits."""
        shown = {"cuda-autocast", "cpu-autocast"} & source.modes.found.keys()
        if not (shown or source.autocasts.regions):
            return
        for product in source.operations.all(*_PRODUCTS):
            tensors = _tensors(source, product)
            if len(tensors) < 2 or not all(_is_full(source, one) for one in tensors):
                continue
            cast = next((c for one in tensors for c in _casts(source, one)), None)
            if cast is not None and _may_be_cast(source, product):
                message = f"autocast runs {product.name} in 16 bits though its operands are float32"
                yield self.finding(source, product.node, message, self._off(source, product, cast))

    def _off(self, source: Source, product: Operation, cast: ast.Call) -> Fix | None:
        """The statement in a region that is off; None where it is one of several on its line."""
        tensor = _root(cast)
        statement = source.statement(product.node)
        if tensor is None or not isinstance(statement, ast.Assign | ast.Return | ast.AugAssign):
            return None
        if source.function(tensor) is not source.function(statement):
            return None
        text, imports = source.edits.spelled("torch.autocast", statement)
        header = f"with {text}({source.segment(tensor)}.device.type, enabled=False):"
        edits = blocks.wrapped(source, statement, header)
        if edits is None:
            return None
        return self.fix("switch autocast off for it", [*edits, *imports], safe=False)


def _is_full(source: Source, tensor: ast.expr) -> bool:
    """Whether a tensor is float32 under autocast: by a cast, or as a parameter or buffer."""
    if source.tensors.of(tensor) == {"float32"}:
        return True
    return source.running.types(tensor, "cuda-autocast") == {"full"}


def _tensors(source: Source, product: Operation) -> list[ast.expr]:
    """The operands that are tensors; none for the call of a module."""
    call = product.node
    if isinstance(call, ast.Call) and not source.names.of(call.func):
        function = call.func
        if not (isinstance(function, ast.Attribute) and function.value is product.operand):
            return []
    operands = [
        *product.operands,
        *(product.keywords[k] for k in _KEYWORDS & product.keywords.keys()),
    ]
    if product.name == "einsum":
        return operands[1:]
    return operands[: _TENSORS.get(product.name, 2)]


def _casts(source: Source, tensor: ast.expr) -> Iterator[ast.Call]:
    """The casts to float32 that made `tensor`, through views of it; none if one way has none."""
    found: list[ast.Call] = []
    for value in source.values.of(tensor):
        below = value
        while True:
            if isinstance(below, ast.Call) and _is_cast(source, below):
                found.append(below)
                break
            if isinstance(below, ast.Call) and isinstance(below.func, ast.Attribute):
                below = below.func.value
            elif isinstance(below, ast.Subscript):
                below = below.value
            elif isinstance(below, ast.Name) and len(source.values.of(below)) == 1:
                (further,) = source.values.of(below)
                if further is below:
                    return
                below = further
            else:
                return
    yield from found


def _is_cast(source: Source, call: ast.Call) -> bool:
    """Whether this is `x.float()`, `x.to(torch.float32)` or the like."""
    function = call.func
    if not isinstance(function, ast.Attribute) or source.names.all_of(function):
        return False
    if function.attr == "float":
        return not call.args
    given = [*call.args, *(k.value for k in call.keywords if k.arg == "dtype")]
    types = frozenset(t for one in given for t in source.tensors.types(one))
    return function.attr in ("to", "type") and types == {"float32"}


def _root(cast: ast.Call) -> ast.expr | None:
    """The name or attribute that is cast: `x` of `x[None, :].float()`."""
    below: ast.expr = cast
    while not isinstance(below, ast.Name):
        if isinstance(below, ast.Call) and isinstance(below.func, ast.Attribute):
            below = below.func.value
        elif isinstance(below, ast.Subscript):
            below = below.value
        elif isinstance(below, ast.Attribute):
            return below
        else:
            return None
    return below


def _may_be_cast(source: Source, product: Operation) -> bool:
    node = product.node
    if under_autocast(source, node):
        return product.name in low_operators("cuda-autocast")
    if is_switched_off(source, node) or not in_forward(source, node):
        return False
    if {"cuda-autocast", "cpu-autocast"} & source.modes.at(node).keys():
        return True
    return any(region.is_off for region in source.autocasts.regions.values())
