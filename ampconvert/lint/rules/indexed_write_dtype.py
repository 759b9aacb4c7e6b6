"""AMP306: elements written into a tensor of another type."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding
from ampconvert.lint.rule import Case, Rule
from ampconvert.lint.running import told
from ampconvert.lint.settings import Mode, Settings
from ampconvert.lint.source import Source

# Function or method -> the place of the written tensor among the operands, and its name.
_WRITES = {
    "scatter": (3, "src"), "scatter_add": (3, "src"), "scatter_reduce": (3, "src"),
    "index_add": (3, "source"), "index_copy": (3, "source"), "index_reduce": (3, "source"),
    "masked_scatter": (2, "source"), "index_put": (2, "values"), "put": (2, "source"),
}  # fmt: skip
_METHODS = tuple(name + end for name in _WRITES for end in ("", "_"))
# Under autocast on a GPU these take the wider of both types, out of place only.
_PROMOTED = frozenset({"scatter_add", "index_put"})
# Operators that give indices or a mask with a dimension, and those that give one number.
_INDICES = frozenset({
    "nonzero", "arange", "randperm", "argsort", "isnan", "isinf", "isfinite", "eq", "ne", "lt",
    "le", "gt", "ge", "logical_not", "logical_and", "logical_or", "bool", "where", "topk", "tensor",
    "randint",
})  # fmt: skip
_VIEWS = frozenset({"squeeze", "unsqueeze", "view", "reshape", "flatten", "t", "long", "to", "cpu",
                    "cuda", "contiguous", "expand", "int"})  # fmt: skip
_REDUCTIONS = frozenset({"sum", "mean", "max", "min", "prod", "norm", "std", "var", "item"})


class IndexedWriteDtype(Rule):
    """A tensor is written into another of a different type by index, which raises.

    `buffer[mask] = y` with a float32 buffer and a float16 y raises "Index put requires the source
    and destination dtypes match", and so do `scatter_`, `scatter_add_`, `index_add_`,
    `index_copy_`, `masked_scatter` and `scatter_reduce`. The buffer is mostly `torch.zeros(...)`
    without a dtype, and y the output of a layer under autocast. Writing by number or slice
    (`buffer[0] = y`, `buffer[:, :n] = y`) casts, and so does writing a single number.

    Found where both types show: by casts, by `dtype=`, by the default of factories, and by what
    autocast makes of layers and matrix products. Out-of-place `scatter_add` and `index_put` are
    fine under autocast on a GPU.

    Sources: https://github.com/pytorch/pytorch/issues/41035 and https://github.com/pytorch/pytorch/issues/63935
    """

    CODE = "AMP306"
    NAME = "indexed-write-dtype"
    SEVERITY = "error"
    ADVICE = "Cast what is written, y.to(buffer.dtype), or make the buffer with y.new_zeros(...)."
    FIX = "unsafe"
    FIX_SAFETY = "It casts what is written to the type of the buffer: the code raised before."
    WORDS = ((b"] =", b"]=", b"scatter", b"index_", b"put_("), (b"torch",))
    NEEDS_MODE = True
    VALID = (
        Case("""\
import torch
from torch import nn

layer = nn.Linear(4, 4)

def gather(x, mask, ids):
    with torch.autocast("cuda"):
        y = layer(x)
        buffer = torch.zeros(8, 4, dtype=y.dtype)
        buffer[mask > 0] = y
        full = torch.zeros(8, 4)
        full[:4] = y
        full[0] = y[0]
        full[mask > 0] = y.float()
        full[mask > 0] = 0.5
        full = full.scatter_add(0, ids, y)
        return full.index_add_(0, ids, y.to(full.dtype))
"""),
        Case("""\
import torch

def sums(x, ids, w):
    with torch.autocast("cuda", dtype=torch.bfloat16):
        total = torch.zeros(8)
        return total.index_add_(0, ids, (x @ w).sum(-1))
"""),
        Case("""\
import torch

def outside(x, ids, w):
    total = torch.zeros(8, 4)
    total.index_add_(0, ids, x @ w)
    with torch.autocast("cuda"):
        return total @ w
"""),
    )
    INVALID = (
        Case(
            """\
import torch as th
from torch import nn
from torch.cuda.amp import autocast as ac

class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(4, 4)

    def forward(self, x, mask, ids):
        out = th.zeros(8, 4, device=x.device)
        chosen = th.nonzero(mask == 1).squeeze(1)
        out[chosen] = self.up(x)  # AMP306
        for _ in range(2):
            out.index_add_(0, ids, self.up(x) + 1)  # AMP306
        return out

with ac():
    Experts()(x, mask, ids)
""",
            """\
import torch as th
from torch import nn
from torch.cuda.amp import autocast as ac

class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(4, 4)

    def forward(self, x, mask, ids):
        out = th.zeros(8, 4, device=x.device)
        chosen = th.nonzero(mask == 1).squeeze(1)
        out[chosen] = self.up(x).to(out.dtype)  # AMP306
        for _ in range(2):
            out.index_add_(0, ids, (self.up(x) + 1).to(out.dtype))  # AMP306
        return out

with ac():
    Experts()(x, mask, ids)
""",
        ),
        Case(
            """\
import torch
from torch import scatter_reduce

def half(x):
    return x.half()

def spread(x, ids):
    base = torch.ones(4, 4)
    y = scatter_reduce(base, 0, ids, half(x), reduce="sum")  # AMP306
    x = half(x)
    x[:, [0, 2]] = base  # AMP306
    return x, y
""",
            """\
import torch
from torch import scatter_reduce

def half(x):
    return x.half()

def spread(x, ids):
    base = torch.ones(4, 4)
    y = scatter_reduce(base, 0, ids, half(x).to(base.dtype), reduce="sum")  # AMP306
    x = half(x)
    x[:, [0, 2]] = base.to(x.dtype)  # AMP306
    return x, y
""",
        ),
        Case(
            """\
import torch

def merge(text, image, w):
    embeds = torch.zeros(2, 8, dtype=torch.float32)
    return embeds.masked_scatter(text.bool(), image @ w)  # AMP306
""",
            """\
import torch

def merge(text, image, w):
    embeds = torch.zeros(2, 8, dtype=torch.float32)
    return embeds.masked_scatter(text.bool(), (image @ w).to(embeds.dtype))  # AMP306
""",
            settings=Settings(assume=frozenset({"cuda-autocast"})),
        ),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Indexed writes of a low tensor into a full one, or the other way."""
        if not source.modes.low_types:
            return
        for node, at, name, buffer, value in _writes(source):
            modes = _differing(source, name, at, value, buffer)
            sides = "float32", "the low type"
            if not modes:
                modes, sides = _differing(source, name, at, buffer, value), sides[::-1]
            if not modes or _is_one_number(source, value):
                continue
            fix = None
            if isinstance(buffer, ast.Name):
                edit = source.edits.method(value, f".to({buffer.id}.dtype)")
                fix = self.fix("cast what is written", [edit], safe=False)
            yield self.finding(
                source, node,
                f"{name or 'the assignment'} raises {told(modes)}: the buffer is {sides[0]}, what "
                f"is written {sides[1]}",
                fix,
            )  # fmt: skip


def _writes(source: Source) -> Iterator[tuple[ast.AST, ast.expr, str, ast.expr, ast.expr]]:
    """What is found, where it stands, the operator, the buffer, and what is written."""
    for call in source.names.methods(*_METHODS):
        assert isinstance(call.func, ast.Attribute)
        dotted = source.names.of(call.func)
        yield from _called(call, call.func.attr, None if dotted else call.func.value, dotted)
    for call in source.names.calls(*(f"torch.{name}" for name in _WRITES)):
        if isinstance(call.func, ast.Name):
            dotted = source.names.of(call.func)
            yield from _called(call, dotted.rpartition(".")[2], None, dotted)
    for assigned in source.nodes(ast.Assign):
        target = assigned.targets[0]
        if isinstance(target, ast.Subscript) and _has_tensor_index(source, target.slice):
            yield assigned, target, "", target.value, assigned.value


def _called(
    call: ast.Call, name: str, receiver: ast.expr | None, dotted: str
) -> Iterator[tuple[ast.AST, ast.expr, str, ast.expr, ast.expr]]:
    if (dotted and not dotted.startswith("torch.")) or any(
        isinstance(a, ast.Starred) for a in call.args
    ):
        return
    operands = [*([] if receiver is None else [receiver]), *call.args]
    position, keyword = _WRITES[name.removesuffix("_")]
    given = [k.value for k in call.keywords if k.arg == keyword] + operands[position:]
    if operands and given:
        yield call, call, name, operands[0], given[0]


def _differing(
    source: Source, name: str, at: ast.expr, low: ast.expr, full: ast.expr
) -> list[Mode]:
    """The modes in which the one is sure to be low and the other float32."""
    return [
        mode
        for mode in source.running.surely(at, low)
        if source.running.types(full, mode) == {"full"}
        and not (name in _PROMOTED and mode == "cuda-autocast")
    ]


def _has_tensor_index(source: Source, index: ast.expr) -> bool:
    """Whether `buffer[index]` takes a mask or a list of indices, and no slice or number."""
    if isinstance(index, ast.Tuple):
        return any(_has_tensor_index(source, one) for one in index.elts)
    return any(_is_indices(source, value) for value in source.values.of(index))


def _is_indices(source: Source, value: ast.expr) -> bool:
    if isinstance(value, ast.List):
        return True
    if isinstance(value, ast.Compare):
        sides = (value.left, *value.comparators)
        return any(source.running.types(s, "half") & {"low", "full", "tensor", "integer"}
                   for s in sides) or _is_of_forward(source, value.left)  # fmt: skip
    if isinstance(value, ast.UnaryOp) and isinstance(value.op, ast.Invert):
        return True
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.BitAnd | ast.BitOr):
        return True
    if isinstance(value, ast.Subscript):
        return _has_tensor_index(source, value.value)  # torch.where(mask)[0]
    operation = source.operations.of(value)
    if operation is not None:
        return operation.name in _INDICES or (
            operation.name in _VIEWS and _has_tensor_index(source, operation.operand)
        )
    if not isinstance(value, ast.Call) or not isinstance(value.func, ast.Attribute):
        return False
    if value.func.attr in _VIEWS:
        return _has_tensor_index(source, value.func.value)
    return value.func.attr in _INDICES and not source.names.all_of(value.func)


def _is_of_forward(source: Source, value: ast.expr) -> bool:
    """Whether `value` is an argument that isn't known to be a number."""
    return any(isinstance(one, ast.Name) for one in source.values.of(value))


def _is_one_number(source: Source, value: ast.expr) -> bool:
    """Whether what is written has no dimensions, so that its type doesn't matter."""
    operation = source.operations.of(value)
    return (
        operation is not None
        and operation.name in _REDUCTIONS
        and len(operation.operands) == 1
        and not operation.keywords
    )
