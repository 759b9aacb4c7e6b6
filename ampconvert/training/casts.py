"""The casts of a converted graph: between float32 and `low`, with the loss scale S on the way back.

Gradients of low values are S times the true ones, gradients of float32 values are true. So each
cast changes its gradient's scale as well as its type (Micikevicius et al. 2018, arXiv 1710.03740,
with the scale at the borders of the low regions and not on the loss):

    to_low    float32 -> low        gradient: low -> float32, divided by S; flags what isn't finite
    kept      float32, in a low op  gradient: divided by S, and flagged in the same way
    to_full   low -> float32        gradient: float32 times S -> low
    rescale   low -> low            gradient times S of the producer over S of the reader

They are plain functions on tensors, called from an fx.GraphModule that has the tensors of S
(`scaling.Scale`) as buffers. They run under PyTorch's autograd as they are, and AOTAutograd traces
through them, so "aot_eager" and "inductor" compile them. A compiled backward graph may not write an
input that another one holds, so there the flag is a leaf whose gradient says it. S is read when
gradients flow, not when the cast runs: a step may change it between a forward pass and its backward
pass.

Differentiating twice keeps the rule that what belongs to a low value is scaled. The derivative of
"divide by S and raise" is then a cast down, and that of "multiply by S and lower" a cast up: the
same two pairs again, to any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

_MEMORY = {Tensor, torch.nn.Parameter}


def to_low(
    dtype: torch.dtype, factor: Tensor | None, overflowed: Tensor | None, *tensors: Tensor
) -> tuple[Tensor, ...]:
    """`tensors` in the low type `dtype`, in one call for many.

    `factor` is S, float32 [1]. A gradient that comes back with an element that is not finite sets
    `overflowed`, float32 [1], to 1; where that requires a gradient, the flag is its gradient.
    Without them the casts are plain, as bfloat16 wants them.
    """
    if factor is None or not torch.is_grad_enabled():
        return tuple(_cast(tensors, dtype))
    return _call(_ToLow, dtype, factor, overflowed, *tensors)  # type: ignore[no-any-return]


def kept(factor: Tensor, overflowed: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    """float32 tensors that a low op reads as they are, as batch norms do their weights: what comes
    back for them is S times the true gradient in float32, and is divided by S as in `to_low`.
    """
    return to_low(torch.float32, factor, overflowed, *tensors)


def to_full(factor: Tensor | None, x: Tensor) -> Tensor:
    """A low tensor in float32; its gradient is multiplied by S, float32 [1], and lowered again."""
    if factor is None or not torch.is_grad_enabled():
        return x.to(torch.float32)
    return _call(_ToFull, factor, x)  # type: ignore[no-any-return]


def rescale(x: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
    """`x`, made where S is `inner` and read where it is `outer`, both float32 [1]."""
    if not torch.is_grad_enabled():
        return x
    return _call(_Rescale, inner, outer, x)  # type: ignore[no-any-return]


class _ToLow(Function):
    @staticmethod
    def forward(
        ctx: Any, dtype: torch.dtype, factor: Tensor, overflowed: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)  # an unused output has no gradient, so nor has its input
        ctx.scale = factor, overflowed
        return _differentiable(ctx, tensors, _cast(tensors, dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        some = [grad for grad in grads if grad is not None]
        factor, overflowed = ctx.scale
        if torch.is_grad_enabled() and some:
            true = iter(_call(_Unscale, factor, overflowed, *some))
        else:
            true = iter(_unscaled(factor, overflowed, some) if some else ())
        flag = _any_non_finite(some) if overflowed.requires_grad and some else None
        return None, None, flag, *(grad if grad is None else next(true) for grad in grads)


class _Unscale(Function):
    """The gradient of `_ToLow`, itself differentiable."""

    @staticmethod
    def forward(ctx: Any, factor: Tensor, overflowed: Tensor, *grads: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.scale = factor, overflowed
        ctx.dtype = grads[0].dtype
        return _differentiable(ctx, grads, _unscaled(factor, overflowed, grads))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        some = [grad for grad in grads if grad is not None]
        low = iter(to_low(ctx.dtype, *ctx.scale, *some) if some else ())
        return None, None, *(grad if grad is None else next(low) for grad in grads)


class _ToFull(Function):
    @staticmethod
    def forward(ctx: Any, factor: Tensor, x: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.factor, ctx.dtype = factor, x.dtype
        return x.to(torch.float32)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Any:
        if grad is None:
            return None, None
        if torch.is_grad_enabled():
            return None, _call(_Scale, ctx.factor, ctx.dtype, grad)
        return None, _scaled(ctx.factor, ctx.dtype, grad)


class _Scale(Function):
    """The gradient of `_ToFull`, itself differentiable."""

    @staticmethod
    def forward(ctx: Any, factor: Tensor, dtype: torch.dtype, grad: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.factor = factor
        return _scaled(factor, dtype, grad)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Any:
        return None, None, None if grad is None else to_full(ctx.factor, grad)


class _Rescale(Function):
    @staticmethod
    def forward(ctx: Any, inner: Tensor, outer: Tensor, x: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.scales = inner, outer
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Any:
        if grad is None:
            return None, None, None
        if torch.is_grad_enabled():
            return None, None, _call(_Regrade, *ctx.scales, grad)
        inner, outer = ctx.scales
        return None, None, _rescaled(inner, outer, grad)


class _Regrade(Function):
    """The gradient of `_Rescale`, itself differentiable."""

    @staticmethod
    def forward(ctx: Any, inner: Tensor, outer: Tensor, grad: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.scales = inner, outer
        return _rescaled(inner, outer, grad)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Any:
        return None, None, None if grad is None else rescale(grad, *ctx.scales)


def _call(function: type[Function], *arguments: object) -> Any:
    return function.apply(*arguments)  # type: ignore[no-untyped-call]


def _differentiable(
    ctx: Any, tensors: Sequence[Tensor], results: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """The results, of which those of frozen tensors have no gradient: without a word autograd
    computes one for each as soon as one needs it, and what isn't finite in it would count.
    """
    needed = ctx.needs_input_grad[-len(tensors) :]
    if not all(needed):
        frozen = [x for x, needs in zip(results, needed, strict=True) if not needs]
        ctx.mark_non_differentiable(*frozen)
    return tuple(results)


def _cast(tensors: Sequence[Tensor], dtype: torch.dtype) -> Sequence[Tensor]:
    """One kernel for many tensors on a GPU, and fewer calls everywhere."""
    if dtype == tensors[0].dtype:
        return [x.view_as(x) for x in tensors]
    if len(tensors) < 2 or torch.is_grad_enabled() or not _plain(*tensors):
        return [x.to(dtype) for x in tensors]
    low = [torch.empty_like(x, dtype=dtype) for x in tensors]
    torch._foreach_copy_(low, list(tensors))
    return low


def _unscaled(factor: Tensor, overflowed: Tensor, grads: Sequence[Tensor]) -> Sequence[Tensor]:
    """Low gradients as true float32 ones; sets `overflowed` if an element is not finite."""
    if _plain(overflowed, *grads) and not overflowed.requires_grad:
        is_full = grads[0].dtype == torch.float32  # and may belong to others too
        true = [x.clone() for x in grads] if is_full else list(_cast(grads, torch.float32))
        # GradScaler's own kernel: one launch that divides and checks them all.
        torch._amp_foreach_non_finite_check_and_unscale_(true, overflowed, factor.reciprocal())
        return true
    if not overflowed.requires_grad:
        overflowed.copy_(torch.maximum(overflowed, _any_non_finite(grads)))
    # What a compiler can fuse with the operators around. No value here depends on S alone: such a
    # one might be computed in the forward graph, and S be another when the backward graph runs.
    return [x.to(torch.float32) / _shaped(factor, x) for x in grads]


def _any_non_finite(grads: Sequence[Tensor]) -> Tensor:
    """1 where an element is not finite, else 0; float32 [1]."""
    bad = torch.stack([x.isfinite().logical_not().any() for x in grads]).any()
    return bad.to(torch.float32).view(1)


def _scaled(factor: Tensor, dtype: torch.dtype, grad: Tensor) -> Tensor:
    """A true gradient times S, in the low type."""
    factor = _shaped(factor, grad)
    if _plain(grad) and grad.dtype == torch.float32:
        return torch.mul(grad, factor, out=torch.empty_like(grad, dtype=dtype))
    return (grad * factor).to(dtype)


def _rescaled(inner: Tensor, outer: Tensor, grad: Tensor) -> Tensor:
    full = grad.to(torch.float32)
    return (full * _shaped(inner, full) / _shaped(outer, full)).to(grad.dtype)


def _shaped(factor: Tensor, x: Tensor) -> Tensor:
    """S such that x times S has x's shape, also where x has no dimension."""
    return factor if x.dim() else factor.view(())


def _plain(*tensors: Tensor) -> bool:
    """Are these tensors with memory of their own, neither traced nor distributed?"""
    return not set(map(type, tensors)) - _MEMORY
