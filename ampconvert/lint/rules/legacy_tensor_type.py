"""AMP305: torch.FloatTensor and its like, which fix an element type and a device."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Edit, Finding, Fix, Severity
from ampconvert.lint.rule import Case, Judged, Rule
from ampconvert.lint.source import Source

_TYPES = {"FloatTensor": "float32", "HalfTensor": "float16", "BFloat16Tensor": "bfloat16"}
_LEGACY = tuple(f"torch.{place}{name}" for place in ("", "cuda.") for name in _TYPES)
_RECAST = ("to", "type", "type_as", "half", "bfloat16", "float", "double", "long", "int", "bool")
_DATA = (ast.List, ast.Tuple, ast.ListComp)


class LegacyTensorType(Rule):
    """A legacy tensor type such as `torch.FloatTensor` fixes an element type and a device.

    `torch.FloatTensor(n)` is float32 on the CPU whatever the model is, and `x.type("torch.\
FloatTensor")` moves x to the CPU as well. Beside half tensors such a tensor makes elementwise
    results float32, and matrix products and indexed writes raise. `torch.set_default_tensor_type`
    is deprecated since PyTorch 2.1.

    Found are floating-point types: in `set_default_tensor_type` anywhere, and where a low type is
    at work in the file also constructors and `.type(...)` in the methods of a module. Tensors that
    are cast right away or written into another, counters (`FloatTensor([0.0])`), data that is made
    outside of modules, DoubleTensor and annotations are not reported.

    Sources: https://docs.pytorch.org/docs/stable/generated/torch.set_default_tensor_type.html and https://docs.pytorch.org/docs/stable/tensors.html
    """

    CODE = "AMP305"
    NAME = "legacy-tensor-type"
    SEVERITY = "info"
    ADVICE = (
        "Make the tensor with torch.tensor, torch.zeros or x.new_zeros and say dtype and device, "
        "best those of a tensor that it meets."
    )
    FIX = "sometimes safe"
    FIX_SAFETY = (
        "The same type and device are written out, which gives the same tensor: safe. For "
        "set_default_tensor_type with a type on the GPU it is unsafe, as the default device then "
        "holds for more functions. Not offered where size and data can't be told apart."
    )
    WORDS = ((b"FloatTensor", b"HalfTensor", b"BFloat16Tensor"), (b"torch",))
    JUDGED = Judged(true=12, read=12)
    VALID = (
        Case("""\
import torch

def forward(x: torch.FloatTensor, ids) -> torch.HalfTensor:
    ids = torch.LongTensor([1, 2])
    if isinstance(x, torch.FloatTensor):
        return x.half()
    return torch.tensor([1.0], dtype=x.dtype, device=x.device).type(torch.float16)
"""),
        Case("""\
import torch

def mask(sizes, images, half):
    sizes = torch.cuda.FloatTensor(sizes)
    return images.half().type(torch.HalfTensor if half else torch.FloatTensor) * sizes
"""),
        Case("""\
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.FloatTensor(8, 8).normal_())

    def fill(self, out, table):
        out[:, :4] = torch.FloatTensor(table)

    def forward(self, x):
        return x + torch.FloatTensor([1.0]).to(x)

def collate(rows):
    return torch.FloatTensor([row.value for row in rows])

with torch.autocast("cuda"):
    Net()(collate(rows))
"""),
    )
    INVALID = (
        Case(
            """\
import torch as th

class Noise(th.nn.Module):
    def forward(self, x, n, array):
        a = th.cuda.FloatTensor(n, 3).uniform_()  # AMP305
        b = th.FloatTensor([[0.1, 0.2]])  # AMP305
        c = th.cuda.FloatTensor(array)  # AMP305
        return x * a + b + c

Noise().half()
""",
            """\
import torch as th

class Noise(th.nn.Module):
    def forward(self, x, n, array):
        a = th.empty(n, 3, dtype=th.float32, device="cuda").uniform_()  # AMP305
        b = th.tensor([[0.1, 0.2]], dtype=th.float32)  # AMP305
        c = th.cuda.FloatTensor(array)  # AMP305
        return x * a + b + c

Noise().half()
""",
        ),
        Case(
            """\
import torch
from torch import HalfTensor, nn

class Scale(nn.Module):
    def forward(self, x, cuda):
        Tensor = torch.cuda.FloatTensor if cuda else torch.FloatTensor
        for _ in range(2):
            x = x.type("torch.cuda.FloatTensor")  # AMP305
        x = x.type(HalfTensor)  # AMP305
        return x.type(Tensor) * torch.FloatTensor(3).fill_(2.0)  # AMP305

with torch.autocast("cuda"):
    Scale()(x)
""",
            """\
import torch
from torch import HalfTensor, nn

class Scale(nn.Module):
    def forward(self, x, cuda):
        Tensor = torch.cuda.FloatTensor if cuda else torch.FloatTensor
        for _ in range(2):
            x = x.to("cuda", torch.float32)  # AMP305
        x = x.to("cpu", torch.float16)  # AMP305
        return x.type(Tensor) * torch.empty(3, dtype=torch.float32).fill_(2.0)  # AMP305

with torch.autocast("cuda"):
    Scale()(x)
""",
        ),
        Case(
            """\
import torch

if torch.cuda.is_available():
    torch.set_default_tensor_type(torch.cuda.HalfTensor)  # AMP305
else:
    torch.set_default_tensor_type("torch.FloatTensor")  # AMP305
""",
            """\
import torch

if torch.cuda.is_available():
    torch.set_default_dtype(torch.float16)  # AMP305
    torch.set_default_device("cuda")
else:
    torch.set_default_dtype(torch.float32)  # AMP305
""",
        ),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Constructors, casts and defaults of legacy types."""
        defaults = source.names.calls("torch.set_default_tensor_type")
        for call in defaults:
            named = _named(source, call.args[0]) if call.args else set()
            if named:
                yield self._found(
                    source, call, named, self._default(source, call, named), "warning"
                )
        halves = any(_named(source, c.args[0]) & _HALVES for c in defaults if c.args)
        if not source.modes.low_types and not halves:
            return
        for call in source.names.calls(*_LEGACY):
            if not _meets_a_model(source, call) or _is_counter(call):
                continue
            named = set(source.names.all_of(call.func) & set(_LEGACY))
            yield self._found(source, call, named, self._made(source, call, named), "info")
        for call in source.names.methods("type"):
            named = _named(source, call.args[0]) if len(call.args) == 1 else set()
            plain = not call.keywords and not source.names.all_of(call.func)
            if named and plain and _meets_a_model(source, call):
                yield self._found(source, call, named, self._cast(source, call, named), "info")

    def _found(
        self, source: Source, call: ast.Call, named: set[str], fix: Fix | None, severity: Severity
    ) -> Finding:
        names = " or ".join(sorted(named))
        types = " or ".join(sorted({_TYPES[n.rpartition(".")[2]] for n in named}))
        return self.finding(
            source, call, f"{names} fixes the type, {types}, and the device", fix, severity
        )

    def _made(self, source: Source, call: ast.Call, named: set[str]) -> Fix | None:
        """`torch.tensor([...], dtype=...)` or `torch.empty(2, 3, dtype=...)`."""
        starred = any(isinstance(a, ast.Starred) for a in call.args)
        if len(named) != 1 or call.keywords or starred:
            return None
        maker = "torch.empty"
        if len(call.args) == 1 and not source.values.numbers(call.args[0]):
            if not isinstance(call.args[0], _DATA):
                return None  # a size, a list, a tensor
            maker = "torch.tensor"
        made, imports = source.edits.spelled(maker, call)
        dtype, more = _dtype(source, named, call)
        words = [*(source.segment(a) for a in call.args or ()), f"dtype={dtype}"]
        if not call.args:
            words.insert(0, "0")
        if ".cuda." in next(iter(named)):
            words.append('device="cuda"')
        edit = source.edits.replace(call, f"{made}({', '.join(words)})")
        return self.fix(f"call {made}", [*imports, *more, edit], safe=True)

    def _cast(self, source: Source, call: ast.Call, named: set[str]) -> Fix | None:
        """`.to("cpu", torch.float32)`."""
        if len(named) != 1 or len(source.values.of(call.args[0])) != 1:
            return None
        device = "cuda" if ".cuda." in next(iter(named)) else "cpu"
        dtype, imports = _dtype(source, named, call)
        function, (_, end) = call.func, source.span(call)
        at = source.span(function)[1] - len("type")
        edit = Edit(at, end, f'to("{device}", {dtype})')
        return self.fix("write out the device and the type", [*imports, edit], safe=True)

    def _default(self, source: Source, call: ast.Call, named: set[str]) -> Fix | None:
        """`torch.set_default_dtype(...)`, and the device if that is a GPU."""
        statement = source.parents[call]
        if len(named) != 1 or not isinstance(statement, ast.Expr):
            return None
        setter, imports = source.edits.spelled("torch.set_default_dtype", call)
        dtype, more = _dtype(source, named, call)
        edits: list[Edit | None] = [source.edits.replace(call, f"{setter}({dtype})")]
        on_gpu = ".cuda." in next(iter(named))
        if on_gpu:
            other, also = source.edits.spelled("torch.set_default_device", call)
            edits += [*also, source.edits.line_after(statement, f'{other}("cuda")')]
        return self.fix(f"call {setter}", [*imports, *more, *edits], safe=not on_gpu)


def _meets_a_model(source: Source, call: ast.Call) -> bool:
    """Whether a method of a module makes the tensor and computes with it as it is."""
    above, below = source.parents[call], call
    while isinstance(above, ast.Attribute | ast.Call):
        if isinstance(above, ast.Attribute) and above.attr in _RECAST:
            return False
        above = source.parents[above]
    if isinstance(above, ast.Assign) and isinstance(above.targets[0], ast.Subscript):
        return False  # written into a tensor, which casts
    function, owner = source.function(below), source.class_of(below)
    if function is None or owner is None or function.name.startswith("__"):
        return False
    return "module" in source.kinds.of_class(owner)


def _is_counter(call: ast.Call) -> bool:
    """Whether the tensor is one number that is written out, as totals and counters begin."""
    data = call.args[0] if len(call.args) == 1 else None
    return isinstance(data, ast.List) and len(data.elts) == 1 and isinstance(
        data.elts[0], ast.Constant
    )  # fmt: skip


_HALVES = {f"torch.{place}{name}" for place in ("", "cuda.")
           for name in ("HalfTensor", "BFloat16Tensor")}  # fmt: skip


def _named(source: Source, argument: ast.expr) -> set[str]:
    """The legacy types that `torch.FloatTensor` or "torch.FloatTensor" names."""
    found = {name for value in source.values.of(argument) for name in source.names.all_of(value)}
    texts = {text for text in source.values.constants(argument) if isinstance(text, str)}
    return (found | texts | source.names.all_of(argument)) & set(_LEGACY)


def _dtype(source: Source, named: set[str], at: ast.AST) -> tuple[str, tuple[Edit, ...]]:
    return source.edits.spelled(f"torch.{_TYPES[next(iter(named)).rpartition('.')[2]]}", at)
