"""AMP102: a dtype that autocast doesn't take, or an argument in the place of another."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Edit, Finding
from ampconvert.lint.autocasts import CONSTRUCTORS, Autocast
from ampconvert.lint.rule import Case, Rule
from ampconvert.lint.source import Source

_STRINGS = {
    "float16": "float16", "fp16": "float16", "half": "float16", "bfloat16": "bfloat16",
    "bf16": "bfloat16", "torch.float16": "float16", "torch.bfloat16": "bfloat16",
}  # fmt: skip
# What gives True or False.
_TESTS = ("torch.cuda.is_available", "torch.cuda.is_bf16_supported", "bool")


class AutocastDtype(Rule):
    """An autocast is given no low type where its `dtype` stands, or a type where `enabled` stands.

    `torch.autocast(device, dtype, enabled)` and `torch.cuda.amp.autocast(enabled, dtype)` differ in
    order. A switch in the place of the type raises a TypeError when the region is entered, and so
    does a string. A type in the place of the switch counts as True: `autocast(torch.bfloat16)` of
    torch.cuda.amp runs in float16, whose range ends at 65504.

    With dtype=torch.float32 a CPU warns and switches autocast off. A GPU casts the operands of
    matrix products and convolutions to float32, and leaves all else in the type it comes in. That
    is a warning for a CPU and information for a GPU, where nothing is said if the region casts to
    float32 by hand as well.

    A type that an option or a caller decides is not judged.

    Source: https://docs.pytorch.org/docs/stable/amp.html#torch.autocast
    """

    CODE = "AMP102"
    NAME = "autocast-dtype"
    SEVERITY = "error"
    ADVICE = (
        "Name the arguments: dtype=torch.float16 or dtype=torch.bfloat16, and enabled=False where "
        "nothing should be cast."
    )
    FIX = "sometimes safe"
    FIX_SAFETY = (
        "Safe where the call raises as it is. Unsafe for a type in the place of `enabled`: the "
        "region then runs in that type and no longer in the default one."
    )
    WORDS = ((b"autocast",),)
    VALID = (
        Case("""\
import torch

with torch.autocast("cuda", torch.bfloat16, False):
    pass
with torch.cuda.amp.autocast(False, torch.bfloat16):
    pass
"""),
        Case("""\
import torch


def region(options, low, on=True):
    with torch.autocast("cuda", options.dtype):
        pass
    with torch.autocast("cuda", torch.float16 if low else torch.float32):
        pass
    return torch.autocast("cuda", dtype=None, enabled=on)
"""),
        Case("""\
import torch



def rotate(pos, freqs):
    with torch.autocast(freqs.device.type, torch.float32):
        freqs = torch.einsum("nd,df->nf", pos.to(torch.float32), freqs.float())
    with torch.autocast("cuda", dtype=torch.float32, enabled=False):
        return freqs.cos()
"""),
        Case("""\
from mylib import autocast

with autocast("cuda", "float16"):
    pass
"""),
    )
    INVALID = (
        Case(
            """\
import torch as th

with th.autocast("cuda", False):  # AMP102
    pass
with th.autocast(  # AMP102
    "cuda",
    th.cuda.is_available(),  # as ever
):
    pass
""",
            """\
import torch as th

with th.autocast("cuda", enabled=False):  # AMP102
    pass
with th.autocast(  # AMP102
    "cuda",
    enabled=th.cuda.is_available(),  # as ever
):
    pass
""",
        ),
        Case(
            """\
import torch
from torch.cuda.amp import autocast as ac

low = torch.bfloat16
with ac(torch.float16):  # AMP102
    pass
with ac(low, cache_enabled=False):  # AMP102
    pass
""",
            """\
import torch
from torch.cuda.amp import autocast as ac

low = torch.bfloat16
with ac(dtype=torch.float16):  # AMP102
    pass
with ac(dtype=low, cache_enabled=False):  # AMP102
    pass
""",
        ),
        Case(
            """\
from torch import autocast


class Step:
    def __init__(self):
        self.dtype = "bf16"

    def forward(self, x):
        with autocast("cuda", dtype="float16"):  # AMP102
            pass
        with autocast("cuda", dtype=self.dtype):  # AMP102
            return x
""",
            """\
import torch
from torch import autocast


class Step:
    def __init__(self):
        self.dtype = "bf16"

    def forward(self, x):
        with autocast("cuda", dtype=torch.float16):  # AMP102
            pass
        with autocast("cuda", dtype=self.dtype):  # AMP102
            return x
""",
        ),
        Case("""\
import torch

with torch.autocast("cuda", dtype=torch.float32):  # AMP102
    pass
with torch.cpu.amp.autocast(dtype=torch.float64):  # AMP102
    pass
"""),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Every autocast whose type is none, and every type that is taken for a switch."""
        for autocast in source.autocasts.calls:
            if autocast.framework or autocast.enabled is False:
                continue
            dtype, switch = autocast.argument("dtype"), autocast.argument("enabled")
            if dtype is not None:
                yield from self._type(source, autocast, dtype)
            if switch is not None and _is_type(source, switch):
                message = "this type stands where `enabled` belongs, and counts as True"
                if _is_default(source, autocast, switch):
                    message += "; the region runs in float16 all the same"
                else:
                    message += f"; the region runs in {_default(autocast)}"
                edits = _named(source, autocast, switch, "dtype")
                yield self.finding(
                    source, autocast.call, message,
                    None if autocast.argument("dtype") is not None
                    else self.fix("name the argument dtype", edits, safe=False),
                )  # fmt: skip

    def _type(self, source: Source, autocast: Autocast, dtype: ast.expr) -> Iterator[Finding]:
        call = autocast.call
        if _is_switch(source, dtype):
            message = "a switch stands where `dtype` belongs: a TypeError when it is entered"
            fix = None
            if autocast.argument("enabled") is None:
                edits = _named(source, autocast, dtype, "enabled")
                fix = self.fix("name the argument enabled", edits, safe=True)
            yield self.finding(source, call, message, fix)
        elif _is_string(source, dtype):
            message = "dtype is a torch.dtype: a string raises a TypeError when it is entered"
            fix = None
            if isinstance(dtype, ast.Constant) and dtype.value in _STRINGS:
                text, imports = source.edits.spelled(f"torch.{_STRINGS[str(dtype.value)]}", dtype)
                edits = [source.edits.replace(dtype, text), *imports]
                fix = self.fix(f"say {text}", edits, safe=True)
            yield self.finding(source, call, message, fix)
        elif autocast.dtypes and autocast.dtypes <= {"float32", "float64"}:
            name = " or ".join(sorted(autocast.dtypes))
            if autocast.devices == {"cpu"}:
                message = f"autocast to {name} is switched off on a CPU, with a warning"
                yield self.finding(source, call, message, severity="warning")
            elif not _casts_by_hand(source, autocast):
                message = f"autocast to {name} casts matrix products and convolutions only"
                if autocast.devices != {"cuda"}:
                    message += ", and on a CPU nothing"
                yield self.finding(source, call, message, severity="info")


def _casts_by_hand(source: Source, autocast: Autocast) -> bool:
    """Whether the region takes its tensors to float32 itself, so that nothing is left out."""
    casts = source.names.methods("float", "double", "to", "type")
    return any(
        region.autocast is autocast and source.tensors.is_full(call)
        for call in casts
        if (region := source.autocasts.around(call)) is not None
    )


def _is_switch(source: Source, expression: ast.expr) -> bool:
    """Whether this is True or False in every case."""
    return all(
        (isinstance(value, ast.Constant) and isinstance(value.value, bool))
        or isinstance(value, ast.Compare)
        or (isinstance(value, ast.UnaryOp) and isinstance(value.op, ast.Not))
        or (isinstance(value, ast.Call) and source.names.is_one(value.func, *_TESTS))
        for value in source.values.of(expression)
    )


def _is_string(source: Source, expression: ast.expr) -> bool:
    return all(
        isinstance(value, ast.Constant) and isinstance(value.value, str)
        and not isinstance(source.parents[value], ast.arguments)  # callers may give another
        for value in source.values.of(expression)
    )  # fmt: skip


def _is_type(source: Source, expression: ast.expr) -> bool:
    return all(
        isinstance(value, ast.Attribute | ast.Name) and bool(source.tensors.types(value))
        for value in source.values.of(expression)
    )


def _is_default(source: Source, autocast: Autocast, switch: ast.expr) -> bool:
    return source.tensors.types(switch) == {"float16"} and _default(autocast) == "float16"


def _default(autocast: Autocast) -> str:
    return "bfloat16" if autocast.devices == {"cpu"} else "float16"


def _named(source: Source, autocast: Autocast, value: ast.expr, name: str) -> list[Edit | None]:
    """Edits that give `value` as `name` instead; [None] where arguments after it would move."""
    call = autocast.call
    for keyword in call.keywords:
        if keyword.value is value and keyword.arg is not None:
            start, _ = source.span(keyword)
            return [Edit(start, start + len(keyword.arg), name)]
    if value not in call.args or value is not call.args[-1] or autocast.name not in CONSTRUCTORS:
        return [None]
    start = source.edits.argument_start(call, value)
    return [Edit(start, start, f"{name}=")]
