"""What is counted while a model trains: lost gradients, lost updates, casts, saved bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.training.tasks import Batch

# Operators that do nothing but copy elements; a result of another type is a cast. So is a product
# with a loss scale that is written straight into the low type.
COPIES = {"aten::_to_copy", "aten::copy", "prims::convert_element_type"}
COPY_LISTS = {"aten::_foreach_copy_", "aten::_foreach_copy"}
PRODUCTS = (
    "aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::convolution",
    "aten::_scaled_dot_product", "aten::mkldnn_rnn_layer", "aten::mkldnn_linear",
)  # fmt: skip
LOW = (torch.float16, torch.bfloat16)


@dataclass
class Share:
    """So many of so many."""

    part: int = 0
    whole: int = 0

    def add(self, part: Tensor, whole: Tensor) -> None:
        """Count the elements that are true in `part` and in `whole`."""
        self.part += int(part.sum())
        self.whole += int(whole.sum())

    @property
    def value(self) -> float | None:
        """The share; None of nothing."""
        return self.part / self.whole if self.whole else None


def count_flushed(share: Share, exact: Sequence[Tensor], given: Sequence[Tensor]) -> None:
    """Gradient elements that are nonzero in float32 (`exact`) and zero in `given`."""
    for true, held in zip(exact, given, strict=True):
        share.add((true != 0) & (held == 0), true != 0)


def count_lost(
    share: Share, before: Sequence[Tensor], after: Sequence[Tensor], gradients: Sequence[Tensor]
) -> None:
    """Weights that an optimizer's step left as they were, bit for bit, though they had a gradient:
    their update was below half a unit in their last place.
    """
    for old, new, gradient in zip(before, after, gradients, strict=True):
        wanted = (gradient != 0) & gradient.isfinite()
        share.add(wanted & (old == new), wanted)


@dataclass
class Probe:
    """Holds steps of a training run against float32 gradients on the same weights and batch.

    `reference` is a float32 copy of the network, made before the network was prepared.
    """

    reference: nn.Module
    flushed: Share = field(default_factory=Share)
    lost: Share = field(default_factory=Share)
    overflowed: int = 0  # steps that could not be compared: a gradient was not finite

    @contextlib.contextmanager
    def watch(
        self, module: nn.Module, loss_of: Callable[[Any, Batch], Tensor], batch: Batch
    ) -> Iterator[None]:
        """Around an optimizer's step, the gradients being in place and unscaled."""
        parameters = [p for p in module.parameters() if p.grad is not None]
        gradients = [p.grad.detach().clone() for p in parameters if p.grad is not None]
        before = [p.detach().clone() for p in parameters]
        if not all(g.isfinite().all() for g in gradients):
            self.overflowed += 1
            yield
            return
        count_flushed(self.flushed, self._exact(module, loss_of, batch), gradients)
        yield
        count_lost(self.lost, before, [p.detach() for p in parameters], gradients)

    def _exact(
        self, module: nn.Module, loss_of: Callable[[Any, Batch], Tensor], batch: Batch
    ) -> list[Tensor]:
        self.reference.load_state_dict(module.state_dict())
        self.reference.zero_grad()
        loss_of(self.reference, batch).backward()
        return [p.grad for p in self.reference.parameters() if p.grad is not None]


class Counter(TorchDispatchMode):
    """Counts, while it is entered, in the forward and the backward of eager code: `casts`, tensors
    copied from one float type to another; `products`, matrix products, convolutions and the like,
    and `low` of them, whose operands have a low type.
    """

    def __init__(self) -> None:
        super().__init__()
        self.casts = self.products = self.low = 0

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """True: Dynamo would otherwise run a compiled module's Python code instead."""
        return True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func._schema.name
        if name == "aten::copy_":
            self.casts += is_cast(args[1], args[0])
        elif name in COPY_LISTS:
            self.casts += sum(is_cast(s, t) for t, s in zip(args[0], args[1], strict=True))
        result = func(*args, **(kwargs or {}))
        if name in COPIES or (name == "aten::mul" and func._overloadname == "out"):
            self.casts += is_cast(args[0], result)
        if name.startswith(PRODUCTS):
            self.products += 1
            self.low += any(isinstance(a, Tensor) and a.dtype in LOW for a in args)
        return result


def is_cast(source: Any, target: Any) -> bool:
    """Whether copying `source` to `target` changes one float type into another."""
    both = (source, target)
    if not all(isinstance(t, Tensor) and t.is_floating_point() for t in both):
        return False
    return source.dtype != target.dtype


def saved_bytes(run: Callable[[], Any], excluded: Iterable[Tensor]) -> int:
    """The bytes that autograd keeps from `run` for the backward, each storage once, those of
    `excluded` (the parameters) left out. What `run` returns is held until it is counted.
    """
    known = {t.untyped_storage().data_ptr() for t in excluded}
    kept: dict[int, tuple[int, Tensor]] = {}  # holds the tensors: an address may be used again

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor.detach())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    total = sum(size for size, _ in kept.values())
    del result
    return total


def moved(batch: Batch, device: str) -> Batch:
    """The batch on that device."""
    if hasattr(batch, "__dataclass_fields__"):
        fields = (getattr(batch, name) for name in batch.__dataclass_fields__)
        return type(batch)(*(f.to(device) for f in fields))
    return pytree.tree_map_only(Tensor, lambda t: t.to(device), batch)
