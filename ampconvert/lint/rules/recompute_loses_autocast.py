"""AMP108: a hand-written checkpoint that computes its forward pass anew without autocast."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding
from ampconvert.lint.rule import Case, Rule
from ampconvert.lint.source import Source

_GRAD = ("torch.enable_grad", "torch.set_grad_enabled", "torch.autograd.enable_grad")
_KEEPING = ("torch.amp.custom_bwd", "torch.cuda.amp.custom_bwd")

Function = ast.FunctionDef | ast.AsyncFunctionDef


class RecomputeLosesAutocast(Rule):
    """A backward method runs a stored function once more, without the autocast of its forward pass.

    Autocast is off while gradients are computed. What ran in 16 bits in the forward pass is then
    computed anew in float32: slower, with twice the memory, with other activations than those
    behind the loss, and with a dtype error where an operator meets tensors that were saved in 16
    bits.

    A `custom_bwd` decorator, or a region in the backward method, says that the state is restored.
    Only functions and modules that the context object keeps are looked at: elementwise operators
    that a backward method repeats are not affected. A recomputation in a method that the backward
    method calls is not found.

    Sources: https://docs.pytorch.org/docs/stable/checkpoint.html
    and https://github.com/pytorch/pytorch/issues/71124
    """

    CODE = "AMP108"
    NAME = "recompute-loses-autocast"
    ADVICE = (
        "Use torch.utils.checkpoint.checkpoint, which keeps autocast's state, or keep "
        "torch.is_autocast_enabled() and torch.get_autocast_dtype() in forward and open a region."
    )
    WORDS = ((b"Function",), (b"enable_grad", b"set_grad_enabled"), (b"backward",))
    VALID = (
        Case("""\
import torch


class Checkpoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx, run, x):
        ctx.run, ctx.kwargs = run, {"enabled": torch.is_autocast_enabled("cuda")}
        ctx.save_for_backward(x)
        with torch.no_grad():
            return run(x)

    @staticmethod
    def backward(ctx, grad):
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad(), torch.autocast("cuda", **ctx.kwargs):
            y = ctx.run(x)
        return None, torch.autograd.grad(y, x, grad)[0]
"""),
        Case("""\
import torch
from torch.amp import custom_bwd, custom_fwd


class Checkpoint(torch.autograd.Function):
    @staticmethod
    @custom_fwd(device_type="cuda")
    def forward(ctx, run, x):
        ctx.run = run
        return run(x)

    @staticmethod
    @custom_bwd(device_type="cuda")
    def backward(ctx, grad):
        with torch.enable_grad():
            return None, ctx.run(grad)
"""),
        Case("""\
import torch
from torch.nn import functional as F


class Gelu(torch.autograd.Function):
    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            y = F.gelu(x)
        return torch.autograd.grad(y, x, grad)[0]
"""),
        Case("""\
import torch


class Layer(torch.nn.Module):
    def backward(self, x, grad):
        with torch.enable_grad():
            return self.run(x)
"""),
    )
    INVALID = (
        Case("""\
import torch


class CheckpointFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, run_function, length, *args):
        ctx.run_function = run_function
        ctx.input_tensors = list(args[:length])
        with torch.no_grad():
            return ctx.run_function(*ctx.input_tensors)

    @staticmethod
    def backward(ctx, *output_grads):
        with torch.enable_grad():
            shallow = [x.view_as(x) for x in ctx.input_tensors]
            outputs = ctx.run_function(*shallow)  # AMP108
        return torch.autograd.grad(outputs, ctx.input_tensors, output_grads)
"""),
        Case("""\
import torch as th
from torch.autograd import Function as F


class Reversible(F):
    @staticmethod
    def backward(context, grad):
        blocks = context.blocks
        with th.set_grad_enabled(True):
            y = blocks(grad)  # AMP108
        y.backward(grad)
        return y
"""),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Calls of what the context keeps, under enable_grad in a backward method."""
        for defined in source.nodes(ast.ClassDef):
            if "function" not in source.kinds.of_class(defined):
                continue
            for method in defined.body:
                if isinstance(method, Function) and method.name == "backward":
                    yield from self._recomputed(source, method)

    def _recomputed(self, source: Source, backward: Function) -> Iterator[Finding]:
        if any(_keeps(source, decorator) for decorator in backward.decorator_list):
            return
        context = next((a.arg for a in backward.args.args), "")
        for call in source.walk(backward):
            if not isinstance(call, ast.Call) or not _is_kept(source, call.func, context):
                continue
            if source.autocasts.around(call) is None and _has_grad(source, call, backward):
                message = "this forward pass is computed anew without its autocast"
                yield self.finding(source, call, message)


def _keeps(source: Source, decorator: ast.expr) -> bool:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return source.names.is_one(called, *_KEEPING)


def _is_kept(source: Source, function: ast.expr, context: str) -> bool:
    """Whether this is an attribute of the context object, in one step: `ctx.run`, not `ctx.x.y`."""
    return any(
        isinstance(value, ast.Attribute)
        and isinstance(value.value, ast.Name)
        and value.value.id == context
        for value in source.values.of(function)
    )


def _has_grad(source: Source, call: ast.Call, backward: Function) -> bool:
    """Whether the call stands in a `with torch.enable_grad():` of the method."""
    for above in source.ancestors(call):
        if above is backward:
            return False
        if isinstance(above, ast.With) and any(
            isinstance(item.context_expr, ast.Call)
            and source.names.is_one(item.context_expr.func, *_GRAD)
            and not any(source.values.constants(a) == {False} for a in item.context_expr.args)
            for item in above.items
        ):
            return True
    return False
