"""AMP105: an autocast that nothing enters."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding, Fix
from ampconvert.lint.autocasts import CONSTRUCTORS
from ampconvert.lint.rule import Case, Rule
from ampconvert.lint.source import Source

Function = ast.FunctionDef | ast.AsyncFunctionDef


class AutocastNeverActive(Rule):
    """An autocast is made but no code runs under it.

    `torch.autocast(...)` is a context and a decorator: a call on a line of its own, or kept in a
    variable of the function that nothing reads, changes nothing. A decorator without parentheses
    gives an autocast object in place of the function, which raises a TypeError when it is called
    (torch.cuda.amp) or a ValueError at once (torch.amp), and so does `with autocast:`. On a
    generator or a coroutine the decorator covers the call that makes it, and not its body, which
    runs in float32.

    Variables of a module and attributes of self are not judged: other files may read them.

    Source: https://docs.pytorch.org/docs/stable/amp.html#torch.autocast
    """

    CODE = "AMP105"
    NAME = "autocast-never-active"
    SEVERITY = "error"
    ADVICE = (
        'Enter it: `with torch.autocast("cuda"):` around the code, or `@torch.autocast("cuda")`.'
    )
    FIX = "safe"
    FIX_SAFETY = "The code raises as it is; the parentheses make it what it was meant to be."
    WORDS = ((b"autocast",),)
    VALID = (
        Case("""\
import torch


@torch.autocast("cuda")
def forward(model, x):
    return model(x)


@torch.cuda.amp.autocast()
def step(model, x):
    return [model(y) for y in x]
"""),
        Case("""\
import torch


def run(model, x):
    ctx = torch.autocast("cuda")
    ctx.__enter__()
    amp = torch.autocast("cuda")

    def inner():
        with amp:
            return model(x)

    return inner, torch.autocast("cpu")
"""),
        Case("""\
import torch

ctx = torch.autocast("cuda")


class Trainer:
    def __init__(self):
        self.ctx = torch.autocast("cuda")
"""),
        Case("""\
from mylib import autocast


@autocast
def forward(model, x):
    autocast(x)
    return model(x)
"""),
    )
    INVALID = (
        Case(
            """\
import torch as th
from torch.cuda.amp import autocast as ac


class Net(th.nn.Module):
    @ac  # AMP105
    def forward(self, x):
        with ac:  # AMP105
            return x

    @th.autocast  # AMP105
    def infer(self, x):
        return x
""",
            """\
import torch as th
from torch.cuda.amp import autocast as ac


class Net(th.nn.Module):
    @ac()  # AMP105
    def forward(self, x):
        with ac():  # AMP105
            return x

    @th.autocast  # AMP105
    def infer(self, x):
        return x
""",
        ),
        Case("""\
import torch
from torch.cuda import amp


def main(model, data):
    torch.autocast("cuda", dtype=torch.bfloat16)  # AMP105
    amp.autocast()  # AMP105
    for x in data:
        model(x)
"""),
        Case("""\
import torch


def main(model, data):
    ctx = torch.autocast("cuda", dtype=torch.bfloat16)  # AMP105
    for x in data:
        model(x)
"""),
        Case("""\
import torch


@torch.autocast("cuda")  # AMP105
def outputs(model, data):
    for x in data:
        yield model(x)


@torch.autocast("cuda")  # AMP105
async def output(model, x):
    return model(x)
"""),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Bare names where a call belongs, and calls whose result nothing enters."""
        for reference in source.names.references(*CONSTRUCTORS):
            if source.names.all_of(reference) <= set(CONSTRUCTORS):
                yield from self._bare(source, reference)
        for autocast in source.autocasts.calls:
            above = source.parents[autocast.call]
            if isinstance(above, ast.Expr):
                message = "this autocast is made and thrown away: nothing runs under it"
                yield self.finding(source, autocast.call, message)
            elif isinstance(above, ast.Assign | ast.AnnAssign) and _is_unread(source, above):
                message = "nothing enters this autocast: the variable is never read"
                yield self.finding(source, autocast.call, message)
            elif isinstance(above, Function) and autocast.call in above.decorator_list:
                yield from self._late(source, autocast.call, above)

    def _bare(self, source: Source, reference: ast.expr) -> Iterator[Finding]:
        above = source.parents[reference]
        takes_none = "torch.amp.autocast" not in source.names.all_of(reference)
        fix: Fix | None = None
        if takes_none:
            edits = [source.edits.after(reference, "()")]
            fix = self.fix("add the parentheses", edits, safe=True)
        if isinstance(above, Function | ast.ClassDef) and reference in above.decorator_list:
            when = "when it is called" if takes_none else "at once"
            message = f"a decorator without parentheses: {above.name} raises {when}"
            yield self.finding(source, reference, message, fix)
        elif isinstance(above, ast.withitem) and above.context_expr is reference:
            message = "the class is entered and not an autocast: a TypeError"
            yield self.finding(source, reference, message, fix)

    def _late(self, source: Source, decorator: ast.Call, function: Function) -> Iterator[Finding]:
        """Functions whose body runs only after the decorator has left the region."""
        yields = any(isinstance(n, ast.Yield | ast.YieldFrom) for n in source.walk(function))
        if not yields and isinstance(function, ast.FunctionDef):
            return
        after = source.autocasts.regions
        if any(
            isinstance(n, ast.With | ast.AsyncWith) and n in after for n in source.walk(function)
        ):
            return
        kind = "generator" if yields else "coroutine"
        others = [d for d in function.decorator_list if d is not decorator]
        if not others:  # another one below may run the body: contextlib.contextmanager
            message = f"the body of a {kind} runs after its decorator: without autocast"
            yield self.finding(source, decorator, message, severity="warning")


def _is_unread(source: Source, assigned: ast.Assign | ast.AnnAssign) -> bool:
    """Whether it binds a local variable that nothing reads."""
    targets = assigned.targets if isinstance(assigned, ast.Assign) else [assigned.target]
    scope = source.scope(assigned)
    if not isinstance(scope, Function) or not all(isinstance(t, ast.Name) for t in targets):
        return False
    names = {t.id for t in targets if isinstance(t, ast.Name)}
    if any(source.scopes.owner(t) is not scope for t in targets if isinstance(t, ast.Name)):
        return False  # global or nonlocal
    return not any(
        isinstance(node, ast.Name) and (
            (node.id in names and isinstance(node.ctx, ast.Load)) or node.id in ("locals", "eval")
        )
        for node in source.walk(scope, functions=True)
    )  # fmt: skip
