"""What test_distributed_training plays with DistributedDataParallel."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn import functional as F

from ampconvert.training.steps import skip_nonfinite_steps
from tests.training.ranks import (
    LOW,
    Convolutions,
    Net,
    Outcome,
    Recomputed,
    Transformer,
    Wrap,
    batches,
    beside_one_process,
    ddp,
    flat,
    forward_overflow,
    guarded,
    low_calls,
    made,
    one_bad_rank,
    prepared,
    train,
)


def ddp_of(**options: Any) -> Wrap:
    return lambda model, dtype: ddp(prepared(model, dtype), **options)


def after_ddp(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    return prepared(ddp(model), dtype)


class Branches(nn.Module):
    """Parts that are used always, sometimes, never, or for a result that nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.some, self.none, self.dropped = (nn.Linear(5, 3) for _ in range(4))

    def forward(self, x: Tensor, some: bool) -> Tensor:
        """Scores."""
        self.dropped(x)
        return self.used(x) + self.some(x) if some else self.used(x)


# DistributedDataParallel


def ddp_same_rows() -> Outcome:
    return beside_one_process(ddp_of(), same=True)


def ddp_parts() -> Outcome:
    return beside_one_process(ddp_of(gradient_as_bucket_view=True))


def ddp_after() -> Outcome:
    return beside_one_process(after_ddp, same=True, bare=True)


def ddp_bfloat16() -> Outcome:
    return beside_one_process(ddp_of(), dtype=torch.bfloat16)


def ddp_static_graph() -> Outcome:
    return beside_one_process(ddp_of(static_graph=True), make=Recomputed, same=True)


def ddp_batch_norm() -> Outcome:
    return beside_one_process(ddp_of(gradient_as_bucket_view=True), make=Convolutions, same=True)


def ddp_batch_norm_parts() -> Outcome:
    """In eval mode statistics are constants, so that parts of a batch see those of the whole."""
    return beside_one_process(ddp_of(), make=lambda: Convolutions().eval())


def ddp_transformer() -> Outcome:
    return beside_one_process(ddp_of(), make=Transformer)


def ddp_find_unused() -> Outcome:
    return beside_one_process(ddp_of(find_unused_parameters=True), same=True)


def ddp_aot_eager() -> Outcome:
    """Where a compiler runs the graphs, Dynamo cuts them at the buckets."""

    def wrap(model: nn.Module, dtype: torch.dtype) -> nn.Module:
        return ddp(prepared(model, dtype, inner="aot_eager"), bucket_cap_mb=1)

    return beside_one_process(wrap, make=lambda: Net(256))


def ddp_fp16_hook() -> Outcome:
    return beside_one_process(_hooked(torch.float16), same=True, rounded=torch.float16)


def ddp_bf16_hook() -> Outcome:
    return beside_one_process(_hooked(torch.bfloat16), same=True, rounded=torch.bfloat16)


def ddp_one_bad_rank() -> Outcome:
    return one_bad_rank(ddp_of())


def ddp_zero() -> Outcome:
    """Each rank holds a part of the optimizer's state."""
    alone = prepared(made(Net), LOW)
    data = batches(0, 4)
    make = partial(torch.optim.AdamW, lr=0.01)
    optimizer = make(alone.parameters())
    skip_nonfinite_steps(optimizer, alone, process_group=False)
    train(alone, data, optimizer)
    model = ddp(prepared(made(Net), LOW))
    optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW, lr=0.01)
    skip_nonfinite_steps(optimizer, model)
    train(model, data, optimizer)
    return {"equal": torch.equal(flat(alone), flat(model)), "low": low_calls(model)}


def ddp_no_sync() -> Outcome:
    """Two batches for a step; the gradients of the first stay where they are."""
    found = []
    for wrap in (lambda m: m, ddp):
        model = wrap(prepared(made(Net), LOW))
        optimizer, _ = guarded(model, process_group=None if wrap is ddp else False)
        data = iter(batches(0))
        for x, y in data:
            optimizer.zero_grad()
            quiet = model.no_sync() if wrap is ddp else contextlib.nullcontext()
            with quiet:
                F.cross_entropy(model(x), y).backward()
            x, y = next(data)
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        found.append(flat(model))
    return {"equal": torch.equal(*found), "moved": not torch.equal(found[1], flat(made(Net)))}


def ddp_unused() -> Outcome:
    """A part of the model that some ranks use, one that none uses, one whose result is dropped."""
    rank = dist.get_rank()
    model = ddp(prepared(made(Branches), LOW), find_unused_parameters=True)
    reference = ddp(made(Branches), find_unused_parameters=True)
    parts, found = ("used", "some", "none", "dropped"), {}
    x, y = batches(0)[0]
    for name, net in (("ours", model), ("float32", reference)):
        F.cross_entropy(net(x, rank == 0), y).backward()
        grads = [getattr(net.module, part).weight.grad for part in parts]
        found[name] = [None if g is None else g.norm().item() for g in grads]
    return found


def ddp_overlap() -> Outcome:
    """Gradients that leave before the last of them is known; the graph is whole."""
    model = ddp(prepared(made(lambda: Net(768)), LOW), bucket_cap_mb=5)
    guarded(model)
    log: list[str] = []

    # Without annotations, which DistributedDataParallel reads and wants to be types, not strings.
    def hook(log, bucket):  # type: ignore[no-untyped-def]
        log.append("bucket")
        return _reduced(bucket.buffer().div_(dist.get_world_size()))

    model.register_comm_hook(log, hook)
    for x, y in batches(dist.get_rank(), 3):
        log.clear()
        model.module.first.weight.register_hook(lambda grad: log.append("first layer"))
        F.cross_entropy(model(x), y).backward()
    return {"order": log[: log.index("first layer") + 1], "graphs": len(low_calls(model))}


def ddp_forward_overflow() -> Outcome:
    return forward_overflow(lambda model: ddp(prepared(model, LOW)))


def ddp_other_shapes() -> Outcome:
    """Ranks may have captured other graphs: here for other numbers of rows."""
    model = ddp(prepared(made(Net), LOW))
    _, guard = (pair := guarded(model))
    for x, y in batches(dist.get_rank(), 4):
        rows = 3 + dist.get_rank()
        train(model, [(x[:rows], y[:rows])], pair[0])
        train(model, [(x, y)], pair[0])
    return {"all": flat(model).tolist(), "guard": [guard.scale, guard.steps, guard.skipped]}


def ddp_compiled_outside() -> Outcome:
    """torch.compile around it all sees through what is prepared."""

    def wrap(model: nn.Module, dtype: torch.dtype) -> nn.Module:
        return torch.compile(ddp(prepared(model, dtype)), backend="aot_eager")

    return beside_one_process(wrap)


def _hooked(dtype: torch.dtype) -> Wrap:
    """A communication hook that sends gradients in a low type. PyTorch's own for bfloat16 wants a
    GPU; this is what it does.
    """

    def hook(_, bucket):  # type: ignore[no-untyped-def]
        low = bucket.buffer().to(dtype).div_(dist.get_world_size())
        sent = dist.all_reduce(low, async_op=True).get_future()
        return sent.then(lambda done: bucket.buffer().copy_(done.value()[0]))

    def wrap(model: nn.Module, low: torch.dtype) -> nn.Module:
        model = ddp(prepared(model, low))
        model.register_comm_hook(None, hook)
        return model

    return wrap


def _reduced(tensor: Tensor) -> torch.futures.Future[Tensor]:
    sent = dist.all_reduce(tensor, async_op=True).get_future()
    return sent.then(lambda done: done.value()[0])
