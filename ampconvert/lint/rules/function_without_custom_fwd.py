"""AMP112: a custom autograd function with matrix products and without custom_fwd, custom_bwd."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Edit, Finding, Fix
from ampconvert.lint.modes import low_operators
from ampconvert.lint.rule import Case, Rule
from ampconvert.lint.source import Source

_FORWARD = ("torch.amp.custom_fwd", "torch.cuda.amp.custom_fwd")
_BACKWARD = ("torch.amp.custom_bwd", "torch.cuda.amp.custom_bwd")
_CASTS = ("to", "type", "type_as", "float", "half", "bfloat16", "double")

Function = ast.FunctionDef | ast.AsyncFunctionDef


class FunctionWithoutCustomFwd(Rule):
    """A custom autograd function computes matrix products in both passes, without custom_fwd and
    custom_bwd.

    Its forward method runs under the caller's autocast: `x @ w.t()` gives 16 bits. Its backward
    method runs without autocast, so that the gradient comes in 16 bits and meets saved tensors of
    float32: a RuntimeError, "expected m1 and m2 to have the same dtype". With custom_bwd and
    without custom_fwd the backward method raises an AttributeError, under autocast or not.

    Reported are functions in files that show autocast, whose backward method casts nothing itself.
    Nothing is said of functions whose products are hidden in extensions, of elementwise ones, which
    need no decorators, and of those with setup_context. A function that is given low tensors only
    does no harm and is reported all the same.

    Source: https://docs.pytorch.org/docs/stable/notes/amp_examples.html#functions-with-multiple-inputs-or-autocastable-ops
    """

    CODE = "AMP112"
    NAME = "function-without-custom-fwd"
    ADVICE = (
        'Decorate forward with torch.amp.custom_fwd(device_type="cuda") and backward with '
        'torch.amp.custom_bwd(device_type="cuda").'
    )
    FIX = "unsafe"
    FIX_SAFETY = "The decorators are for one type of device: cuda, or the one that the file shows."
    WORDS = ((b"Function",), (b"backward",))
    VALID = (
        Case("""\
import torch
from torch.amp import custom_bwd, custom_fwd


class Product(torch.autograd.Function):
    @staticmethod
    @custom_fwd(device_type="cuda")
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x @ w

    @staticmethod
    @custom_bwd(device_type="cuda")
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return g @ w.t(), x.t() @ g


with torch.autocast("cuda"):
    Product.apply(x, w)
"""),
        Case("""\
import torch


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, g):
        return g


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x @ w

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return g @ w.t().to(g.dtype), x.t().to(g.dtype) @ g


with torch.autocast("cuda"):
    Product.apply(Straight.apply(x), w)
"""),
        Case("""\
import torch


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x @ w

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return g @ w.t(), x.t() @ g
"""),
        Case("""\
import torch
from torch.cuda.amp import custom_bwd, custom_fwd


class Product(torch.autograd.Function):
    @staticmethod
    @custom_fwd(cast_inputs=torch.float32)
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x @ w

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return g @ w.t(), x.t() @ g


with torch.autocast("cuda"):
    Product.apply(x, w)
"""),
    )
    INVALID = (
        Case(
            """\
import torch
from torch.autograd import Function as Fn
from torch.cuda.amp import autocast as ac


class Product(Fn):  # AMP112
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x.matmul(w)

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return g @ w.t(), torch.mm(x.t(), g)


with ac():
    Product.apply(x, w)
""",
            """\
import torch
from torch.autograd import Function as Fn
from torch.cuda.amp import autocast as ac


class Product(Fn):  # AMP112
    @staticmethod
    @torch.amp.custom_fwd(device_type="cuda")
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x.matmul(w)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cuda")
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return g @ w.t(), torch.mm(x.t(), g)


with ac():
    Product.apply(x, w)
""",
        ),
        Case(
            """\
import torch as th
from torch.amp import custom_bwd


class Product(th.autograd.Function):  # AMP112
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    @custom_bwd(device_type="cpu")
    def backward(ctx, g):
        return 2 * g


with th.autocast("cpu"):
    y = Product.apply(x)
""",
            """\
import torch as th
from torch.amp import custom_bwd


class Product(th.autograd.Function):  # AMP112
    @staticmethod
    @th.amp.custom_fwd(device_type="cpu")
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    @custom_bwd(device_type="cpu")
    def backward(ctx, g):
        return 2 * g


with th.autocast("cpu"):
    y = Product.apply(x)
""",
        ),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Functions with products in both methods, and those with custom_bwd alone."""
        modes = source.modes.found
        for defined in source.nodes(ast.ClassDef):
            if "function" not in source.kinds.of_class(defined):
                continue
            methods = {one.name: one for one in defined.body if isinstance(one, Function)}
            forward, backward = methods.get("forward"), methods.get("backward")
            if forward is None or backward is None or "setup_context" in methods:
                continue
            entered = _decorator(source, forward, _FORWARD)
            left = _decorator(source, backward, _BACKWARD)
            if left is not None and entered is None:
                message = f"backward of {defined.name} raises: custom_bwd needs custom_fwd"
                fix = self._decorated(source, [(forward, "custom_fwd")])
                yield self.finding(source, defined, message, fix, "error")
            elif left is None and {"cuda-autocast", "cpu-autocast"} & modes.keys():
                if _casts_inputs(entered) or not _multiplies(source, forward):
                    continue
                if _multiplies(source, backward) and not _casts(source, backward):
                    message = f"{defined.name} multiplies in its backward pass without autocast"
                    missing = [(backward, "custom_bwd")]
                    if entered is None:
                        missing.insert(0, (forward, "custom_fwd"))
                    fix = self._decorated(source, missing)
                    yield self.finding(source, defined, message, fix)

    def _decorated(self, source: Source, missing: list[tuple[Function, str]]) -> Fix | None:
        old = source.settings.torch < (2, 4)
        device = "cpu" if source.modes.found.keys() == {"cpu-autocast"} else "cuda"
        if old and device == "cpu":
            return None
        edits: list[Edit] = []
        for method, name in missing:
            dotted = f"torch.cuda.amp.{name}" if old else f"torch.amp.{name}"
            text, imports = source.edits.spelled(dotted, method)
            call = text if old else f'{text}(device_type="{device}")'
            at = source.line_starts[method.lineno - 1]
            line = f"{source.edits.indent(method)}@{call}{source.edits.newline}"
            edits += [Edit(at, at, line), *imports]
        return self.fix("decorate both methods", edits, safe=False)


def _decorator(source: Source, method: Function, names: tuple[str, ...]) -> ast.expr | None:
    for decorator in method.decorator_list:
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        if source.names.is_one(called, *names):
            return decorator
    return None


def _casts_inputs(decorator: ast.expr | None) -> bool:
    """Whether a custom_fwd casts its inputs, and so runs without autocast as well."""
    return isinstance(decorator, ast.Call) and any(
        keyword.arg == "cast_inputs" for keyword in decorator.keywords
    )


def _multiplies(source: Source, method: Function) -> bool:
    """Whether a method calls what autocast takes to a low type, outside of any region."""
    low = low_operators("cuda-autocast")
    for node in source.walk(method):
        if isinstance(node, ast.Call | ast.BinOp):
            operation = source.operations.of(node)
            if operation is not None and operation.name in low:
                return source.autocasts.around(node) is None
    return False


def _casts(source: Source, method: Function) -> bool:
    return any(
        isinstance(node, ast.Attribute) and (node.attr in _CASTS or node.attr == "dtype")
        for node in source.walk(method)
    )
