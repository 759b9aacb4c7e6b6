"""Ranks that train one model agree on whether to step: what one of them found, all of them know."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")
Groups = Sequence[Any]  # process groups, one after the other


def groups_of(
    chosen: Any | Literal[False] | None, models: Iterable[nn.Module], optimizer: Any
) -> Groups:
    """The process groups whose ranks step together.

    `chosen` is a group, False for none, or None for: the groups of the meshes that the optimizer's
    parameters lie on (FSDP2, tensor parallel); else those of DistributedDataParallel or FSDP
    modules; else the default group, where it has more than one rank.
    """
    if chosen is False or not (dist.is_available() and dist.is_initialized()):
        return ()
    if chosen is not None:
        return (chosen,)
    meshes = _meshes(optimizer)
    found = [group for mesh in meshes for group in mesh.get_all_groups()]
    if not found:
        modules = (module for model in models for module in model.modules())
        found = [m.process_group for m in modules if _averages_gradients(m)]
    if not found and dist.get_world_size() > 1:
        return (dist.group.WORLD,)
    unique = {id(group): group for group in found}
    return tuple(group for group in unique.values() if dist.get_world_size(group) > 1)


def agree(
    bad: Sequence[Tensor],
    flags: Sequence[Sequence[tuple[str, Tensor]]],
    groups: Groups,
    device: torch.device,
) -> tuple[bool, list[set[str]]]:
    """Whether any of `bad` is set on any rank, and for each model the names whose flag is set on
    any rank. All tensors are float32 [1], on any devices; `device` is where they meet, the same on
    all ranks.

    Waits for the device once, and ranks exchange one tensor; where a flag is set they tell each
    other its name, since they may have seen other graphs and have other flags.
    """
    own = [list(bad), *([flag for _, flag in some] for some in flags)]
    here = [flag.to(device) for some in own for flag in some]
    if not groups and not here:
        return False, [set() for _ in flags]
    if groups:
        here += [_largest(torch.cat([_any(some, device) for some in own]), groups).to(device)]
    numbers = iter(torch.cat(here).tolist())
    found = sum(next(numbers) for _ in bad) > 0
    names = [{name for name, _ in some if next(numbers) > 0} for some in flags]
    if groups:
        found = next(numbers) > 0
        names = [set().union(*gathered(own, groups)) if next(numbers) > 0 else own for own in names]
    return found, names


def gathered(own: T, groups: Groups) -> list[T]:
    """What all ranks give, the same list on each. All of them must call it."""
    found = [own]
    for group in groups:
        parts: list[Any] = [None] * dist.get_world_size(group)
        dist.all_gather_object(parts, found, group=group)
        found = [value for part in parts for value in part]
    return found


def _largest(own: Tensor, groups: Groups) -> Tensor:
    """The largest of each element over all ranks."""
    for group in groups:
        own = own.to(_device(group, own.device))
        dist.all_reduce(own, dist.ReduceOp.MAX, group=group)
    return own


def _any(flags: Sequence[Tensor], device: torch.device) -> Tensor:
    """The largest of flags, float32 [1], on `device`; 0 without any."""
    if not flags:
        return torch.zeros(1, device=device)
    return torch.cat([flag.to(device) for flag in flags]).amax(0, keepdim=True)


def meeting_place(optimizer: Any) -> torch.device:
    """A device for what is found out about an optimizer's gradients: that of its parameters, an
    accelerator before the CPU.
    """
    parameters = (p for group in optimizer.param_groups for p in group["params"])
    devices = {p.device: None for p in parameters if isinstance(p, Tensor)}
    return min(devices, key=lambda device: device.type == "cpu", default=torch.device("cpu"))


def _meshes(optimizer: Any) -> list[Any]:
    """Device meshes of an optimizer's distributed parameters, each once."""
    parameters = (p for group in optimizer.param_groups for p in group["params"])
    meshes = {mesh: None for p in parameters if (mesh := getattr(p, "device_mesh", None))}
    return list(meshes)


def _averages_gradients(module: nn.Module) -> bool:
    """Is it DistributedDataParallel or FullyShardedDataParallel? Others may have a process_group
    too, SyncBatchNorm for one, that says nothing of who steps.
    """
    from torch.distributed.fsdp import FullyShardedDataParallel

    return isinstance(module, nn.parallel.DistributedDataParallel | FullyShardedDataParallel)


def _device(group: Any, device: torch.device) -> torch.device:
    """A device whose tensors a group can exchange: NCCL takes none in the CPU's memory."""
    types = [part.split(":")[0] for part in dist.get_backend_config(group).split(",")]
    return device if device.type in types else torch.device(types[0])
