"""What test_distributed_training plays with sharded models."""

from __future__ import annotations

import shutil
import tempfile
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.nn import functional as F

from ampconvert.errors import UserError
from ampconvert.training.prepare import unprepare_training
from ampconvert.training.steps import skip_nonfinite_steps
from tests.training.ranks import (
    LOW,
    Net,
    Outcome,
    Recomputed,
    Transformer,
    batches,
    beside_one_process,
    device,
    flat,
    forward_overflow,
    guarded,
    low_calls,
    made,
    one_bad_rank,
    prepared,
    shard,
    train,
)


def fsdp(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    return shard(prepared(model, dtype))


def after_fsdp(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    return prepared(shard(model), dtype)


def fsdp_parts() -> Outcome:
    return beside_one_process(fsdp)


def fsdp_after() -> Outcome:
    return beside_one_process(after_fsdp)


def fsdp_whole() -> Outcome:
    """One group of parameters: one graph, as in one process."""
    mesh = init_device_mesh(device().type, (dist.get_world_size(),))
    return beside_one_process(
        lambda m, dtype: fully_shard(prepared(m, dtype), mesh=mesh), same=True
    )


def fsdp_bfloat16() -> Outcome:
    return beside_one_process(fsdp, dtype=torch.bfloat16)


def fsdp_transformer() -> Outcome:
    """The sharded layers are torch's own, which Dynamo captures nowhere by themselves."""
    return beside_one_process(fsdp, make=Transformer)


def fsdp_recomputed() -> Outcome:
    return beside_one_process(fsdp, make=Recomputed)


def fsdp_keeps_parameters() -> Outcome:
    return beside_one_process(
        lambda m, dtype: shard(prepared(m, dtype), reshard_after_forward=False)
    )


def fsdp_bf16_reduced() -> Outcome:
    """Gradients that travel in bfloat16 are rounded to it."""
    policy = MixedPrecisionPolicy(reduce_dtype=torch.bfloat16)
    return beside_one_process(lambda m, dtype: shard(prepared(m, dtype), mp_policy=policy))


def fsdp_replicated() -> Outcome:
    """Pairs that share parameters, and copies of the pairs."""
    mesh = init_device_mesh(device().type, (dist.get_world_size() // 2, 2),
                            mesh_dim_names=("replicas", "shards"))  # fmt: skip
    return beside_one_process(lambda m, dtype: shard(prepared(m, dtype), mesh))


def fsdp_aot_eager() -> Outcome:
    return beside_one_process(lambda m, dtype: shard(prepared(m, dtype, inner="aot_eager")))


def fsdp_one_bad_rank() -> Outcome:
    return one_bad_rank(fsdp)


def fsdp_forward_overflow() -> Outcome:
    return forward_overflow(lambda model: fsdp(model, LOW))


def fsdp_accumulated() -> Outcome:
    """Two batches for a step, reduced with the second, beside one process."""
    found = []
    for wrap in (lambda m: m, shard):
        model = wrap(prepared(made(Net), LOW))
        optimizer, _ = guarded(model, process_group=None if wrap is shard else False)
        data = iter(batches(0))
        for x, y in data:
            optimizer.zero_grad()
            if wrap is shard:
                model.set_requires_gradient_sync(False)
            F.cross_entropy(model(x), y).backward()
            if wrap is shard:
                model.set_requires_gradient_sync(True)
            x, y = next(data)
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        found.append(flat(model))
    moved = found[0] - flat(made(Net))
    return {"off": float((found[1] - found[0]).norm() / moved.norm())}


def fsdp_checkpoint() -> Outcome:
    """What torch.distributed.checkpoint saved goes on bit for bit, the guard's state with it."""
    data = batches(dist.get_rank(), 6)
    model, optimizer, guard = _with_adam()
    guard.trainings[0].scaling.set("", 2.0**10)
    train(model, data[:3], optimizer)
    folder = [tempfile.mkdtemp() if dist.get_rank() == 0 else ""]
    dist.broadcast_object_list(folder)
    states = get_state_dict(model, optimizer)
    dcp.save(dict(zip(("model", "optimizer"), states, strict=True)), checkpoint_id=folder[0])
    train(model, data[3:], optimizer)

    other, optimizer, new_guard = _with_adam()
    train(other, data[:1], optimizer)
    states = get_state_dict(other, optimizer)
    loaded = dict(zip(("model", "optimizer"), states, strict=True))
    dcp.load(loaded, checkpoint_id=folder[0])
    dist.barrier()
    if dist.get_rank() == 0:
        shutil.rmtree(folder[0])
    set_state_dict(
        other, optimizer, model_state_dict=loaded["model"], optim_state_dict=loaded["optimizer"]
    )
    resumed = [new_guard.scale, new_guard.steps]
    train(other, data[3:], optimizer)
    return {
        "resumed": resumed,
        "guards": [guard.state_dict() == new_guard.state_dict(), new_guard.steps],
        "equal": torch.equal(flat(model), flat(other)),
    }


def fsdp1() -> Outcome:
    """FullyShardedDataParallel, prepared before and after, beside one process."""
    found: Outcome = {}
    data = batches(0)
    alone = prepared(made(Net), LOW)
    train(alone, data, guarded(alone, process_group=False)[0])
    for name in ("before", "after"):
        model = made(Net)
        if name == "before":
            prepared(model, LOW)
        model = FullyShardedDataParallel(model, use_orig_params=True, device_id=device())
        if name == "after":
            prepared(model, LOW)
        train(model, data, guarded(model)[0])
        with FullyShardedDataParallel.summon_full_params(model):
            off = float((flat(model) - flat(alone)).norm() / flat(alone).norm())
        found[name] = {"off": off, "low": low_calls(model)}
    return found


def refused() -> Outcome:
    """Policies that lower parameters by themselves, or hide them."""
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    mesh = init_device_mesh(device().type, (dist.get_world_size(),))
    x, _ = batches(0, 1)[0]
    found = {}
    for name, wrap in {
        "fully_shard": lambda m: shard(m, mp_policy=policy),
        "block": lambda m: [fully_shard(m.blocks[0], mesh=mesh, mp_policy=policy), m][1],
        "flat": lambda m: FullyShardedDataParallel(m, device_id=device()),
    }.items():
        try:
            wrap(prepared(made(Net), LOW))(x)
        except UserError as error:
            found[name] = str(error)
    return found


def unprepared() -> Outcome:
    """Afterwards no module has a forward of its own."""
    model = fsdp(made(Transformer), LOW)
    train(model, batches(dist.get_rank(), 1))
    during = sum("forward" in vars(m) for m in model.modules())
    unprepare_training(model)
    return {"during": during, "after": sum("forward" in vars(m) for m in model.modules())}


def _with_adam() -> tuple[nn.Module, Any, Any]:
    model = fsdp(made(Net), LOW)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    return model, optimizer, skip_nonfinite_steps(optimizer, model)
