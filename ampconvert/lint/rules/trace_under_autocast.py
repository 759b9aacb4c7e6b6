"""AMP109: torch.jit.trace in an autocast region that keeps low copies of the weights."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Edit, Finding, Fix
from ampconvert.lint.autocasts import CONSTRUCTORS, Region
from ampconvert.lint.rule import Case, Rule
from ampconvert.lint.source import Source

_TRACES = ("torch.jit.trace", "torch.jit.trace_module")
_INFERENCE = "torch.inference_mode"


class TraceUnderAutocast(Rule):
    """A model is traced in an autocast region whose cache is on, and the trace's check fails.

    Autocast keeps the low copy of every weight that requires a gradient until the region ends. The
    second trace, which checks the first, meets these copies and takes them for constants: a
    RuntimeError, "Cannot insert a Tensor that requires grad as a constant". torch.no_grad() doesn't
    help.

    With check_trace=False the first trace is kept and works. Under torch.inference_mode(), and for
    a module whose weights are frozen by requires_grad_(False) in the same file, nothing is cached
    and nothing is said. A model that is frozen in another file is reported all the same.

    Sources: https://github.com/pytorch/pytorch/pull/63552
    and https://docs.pytorch.org/docs/stable/amp.html#torch.autocast
    """

    CODE = "AMP109"
    NAME = "trace-under-autocast"
    SEVERITY = "error"
    ADVICE = "Pass cache_enabled=False to the autocast around torch.jit.trace."
    FIX = "safe"
    FIX_SAFETY = "The cache saves casts and changes no result."
    WORDS = ((b"autocast",), (b"trace",))
    VALID = (
        Case("""\
import torch

with torch.autocast("cpu", cache_enabled=False):
    traced = torch.jit.trace(model, x)
with torch.autocast("cpu"), torch.no_grad():
    traced = torch.jit.trace(model, x, check_trace=False)
with torch.autocast("cpu", enabled=False):
    traced = torch.jit.trace(model, x)
"""),
        Case("""\
import torch

with torch.autocast("cpu"), torch.inference_mode():
    traced = torch.jit.trace(model, x)
traced = torch.jit.trace(model, x)
"""),
        Case("""\
import torch

model.requires_grad_(False)
with torch.autocast("cpu"):
    traced = torch.jit.trace(model.eval(), x)
"""),
        Case("""\
import torch

with torch.autocast("cpu"):
    scripted = torch.jit.script(model)
    total = torch.trace(x)
"""),
    )
    INVALID = (
        Case(
            """\
import torch as th
from torch.jit import trace

with th.no_grad(), th.autocast(
    "cpu",
    dtype=th.bfloat16,  # for the CPU
):
    traced = trace(model, x)  # AMP109
""",
            """\
import torch as th
from torch.jit import trace

with th.no_grad(), th.autocast(
    "cpu",
    dtype=th.bfloat16, cache_enabled=False,  # for the CPU
):
    traced = trace(model, x)  # AMP109
""",
        ),
        Case(
            """\
import torch
from torch.cuda.amp import autocast as ac


class Exporter:
    def run(self, x):
        ctx = ac(cache_enabled=True)
        with ctx:
            return self.trace(x)

    def trace(self, x):
        return torch.jit.trace_module(self.model, {"forward": x})  # AMP109
""",
            """\
import torch
from torch.cuda.amp import autocast as ac


class Exporter:
    def run(self, x):
        ctx = ac(cache_enabled=False)
        with ctx:
            return self.trace(x)

    def trace(self, x):
        return torch.jit.trace_module(self.model, {"forward": x})  # AMP109
""",
        ),
        Case(
            """\
import torch


@torch.cpu.amp.autocast()
def export(model, x):
    return torch.jit.trace(model, x)  # AMP109
""",
            """\
import torch


@torch.cpu.amp.autocast(cache_enabled=False)
def export(model, x):
    return torch.jit.trace(model, x)  # AMP109
""",
        ),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Every trace that checks itself in a region with its cache on."""
        for call in source.names.calls(*_TRACES):
            if _is_unchecked(source, call) or _is_frozen(source, call):
                continue
            regions = [r for r in source.autocasts.reaching(call) if r is not None]
            region = next((r for r in regions if _caches(source, r)), None)
            if region is None or _is_in_inference_mode(source, call):
                continue
            message = "the trace's check fails on weights that autocast has cached"
            yield self.finding(source, call, message, self._without_cache(source, region))

    def _without_cache(self, source: Source, region: Region) -> Fix | None:
        autocast = region.autocast
        if autocast.name not in CONSTRUCTORS:
            return None
        given = autocast.argument("cache_enabled")
        edit: Edit
        if given is not None:
            if not isinstance(given, ast.Constant):
                return None
            edit = source.edits.replace(given, "False")
        else:
            edit = source.edits.add_keyword(autocast.call, "cache_enabled=False")
        return self.fix("switch the cache off", [edit], safe=True)


def _caches(source: Source, region: Region) -> bool:
    given = region.autocast.argument("cache_enabled")
    off = given is not None and source.values.constants(given) != {True}
    return region.is_on and not off


def _is_unchecked(source: Source, call: ast.Call) -> bool:
    """Whether the trace is given check_trace=False, or may be."""
    return any(
        keyword.arg is None
        or (keyword.arg == "check_trace" and source.values.constants(keyword.value) != {True})
        for keyword in call.keywords
    )


def _is_frozen(source: Source, call: ast.Call) -> bool:
    """Whether weights of what is traced are frozen in this file, as far as names show."""
    if not call.args:
        return False
    traced = _root(call.args[0])
    return any(
        isinstance(freeze.func, ast.Attribute)
        and freeze.args
        and source.values.constants(freeze.args[0]) == {False}
        and source.operations.same(_root(freeze.func.value), traced)
        for freeze in source.names.methods("requires_grad_")
    )


def _is_in_inference_mode(source: Source, call: ast.Call) -> bool:
    """Whether a block or decorator around the call, or around its callers, says so."""
    for mode in source.names.references(_INFERENCE):
        above = set(source.ancestors(mode))
        function = source.function(call)
        if function in above or any(one in above for one in source.ancestors(call)
                                    if isinstance(one, ast.With)):  # fmt: skip
            return True
    return False


def _root(expression: ast.expr) -> ast.expr:
    """`model` of `model.eval().to("cpu")`."""
    while isinstance(expression, ast.Call) and isinstance(expression.func, ast.Attribute):
        expression = expression.func.value
    return expression
