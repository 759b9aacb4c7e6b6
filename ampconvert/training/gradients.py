"""Whether the gradients of an optimizer are finite: one kernel for all of one type and device."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

# What the kernel below can read.
_KERNEL = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def gradients_of(optimizer: Any) -> list[Tensor]:
    """What memory of this process holds of the gradients of an optimizer's parameters: the local
    shard of a distributed one, the values of a sparse one. Without those that have no element.
    """
    grads = (p.grad for group in optimizer.param_groups for p in group["params"])
    return [
        local for grad in grads if grad is not None for local in [_local(grad)] if local.numel()
    ]


def non_finite(grads: Iterable[Tensor], inverse: Tensor | None = None) -> list[Tensor]:
    """One tensor per device, float32 [1]: not 0 where a gradient has an element that is not finite.

    With `inverse`, float32 [1], the gradients are multiplied by it in place. Waits for no device.
    """
    by_kind: defaultdict[tuple[torch.device, torch.dtype], list[Tensor]] = defaultdict(list)
    for grad in grads:
        by_kind[grad.device, grad.dtype].append(grad)
    found: dict[torch.device, Tensor] = {}
    for (device, dtype), some in by_kind.items():
        flag = found.setdefault(device, torch.zeros(1, device=device))
        factor = torch.ones_like(flag) if inverse is None else inverse.to(device)
        if dtype in _KERNEL and all(type(x) is Tensor and _apart(x) for x in some):
            # GradScaler's own kernel; on a CPU 30 times faster than reading the largest element.
            torch._amp_foreach_non_finite_check_and_unscale_(some, flag, factor)
            continue
        for grad in some:
            flag.copy_(torch.maximum(flag, grad.isfinite().all().logical_not().to(flag.dtype)))
            if inverse is not None:
                grad.mul_(factor.to(grad.dtype) if grad.dim() else factor.view(()))
    return list(found.values())


def all_zero(grads: Sequence[Tensor]) -> bool:
    """Is no element other than 0? Waits for the device."""
    return not any(bool(grad.count_nonzero()) for grad in grads)


def _local(grad: Tensor) -> Tensor:
    """The memory behind a gradient, under a version counter of its own: the check writes back what
    it read, which autograd must not take for a change.
    """
    if type(grad) is not Tensor:
        if hasattr(grad, "to_local"):  # DTensor
            grad = grad.to_local()
        if hasattr(grad, "wait"):  # a collective that still runs
            grad = grad.wait()
    if grad.layout == torch.sparse_coo:
        # Small numbers that are summed to one too large for float16 overflow in the step, as
        # GradScaler knows; in float32 they don't.
        grad = grad.coalesce().values() if grad.dtype == torch.float16 else grad._values()
    elif grad.layout != torch.strided:
        grad = grad.values()
    grad = grad.data
    return torch.view_as_real(grad.resolve_conj()) if grad.is_complex() else grad


def _apart(x: Tensor) -> bool:
    """Does each element have memory of its own? An expanded tensor can't be written."""
    return x.is_contiguous() or all(
        step > 0 for step, size in zip(x.stride(), x.shape, strict=True) if size > 1
    )
