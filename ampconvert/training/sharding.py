"""What sharding changes about a model that is to be captured.

The hooks of FSDP run outside of graphs: where a sharded module is called, a graph ends. If that
happens in a loop, Dynamo leaves the whole function around it to Python, and captures the functions
that are called there, but not torch's own: not that of nn.Linear or nn.TransformerEncoderLayer.
Such modules get a forward here that is like a user's function to Dynamo.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from ampconvert.errors import UserError


def unwrapped(model: nn.Module) -> nn.Module:
    """The user's model in DistributedDataParallel or FullyShardedDataParallel."""
    kinds: tuple[type[nn.Module], ...] = (nn.parallel.DistributedDataParallel,)
    if torch.distributed.is_available():
        from torch.distributed.fsdp import FullyShardedDataParallel

        kinds = (*kinds, FullyShardedDataParallel)
    while isinstance(model, kinds):
        inside = model.module
        assert isinstance(inside, nn.Module)
        model = inside
    return model


def refuse_policies(model: nn.Module) -> None:
    """Raises UserError where FSDP or DistributedDataParallel lowers the parameters before anyone
    can decide, or hides them from Dynamo. To be called when the model runs.
    """
    lowered = [p.dtype for p in model.parameters() if p.requires_grad]
    lowered += [dtype for module in model.modules() if (dtype := _policy(module)) is not None]
    low = next((dtype for dtype in lowered if dtype in (torch.float16, torch.bfloat16)), None)
    if low is not None:
        raise UserError(
            f"the parameters are {str(low).removeprefix('torch.')} when the model runs: leave "
            "param_dtype out of its mixed precision policy (fully_shard, FullyShardedDataParallel),"
            " so that ampconvert can lower what is safe"
        )
    if any(_is_hidden(module) for module in model.modules()):
        raise UserError(
            "torch.compile can't see the parameters of FullyShardedDataParallel modules, and the "
            "model would train in float32: give them use_orig_params=True, or use fully_shard"
        )


def let_parts_be_captured(model: nn.Module) -> list[nn.Module]:
    """Give the modules of torch that no graph may reach from outside a forward of their own, see
    `capture_alone`; these modules. Their classes and state_dicts stay as they were.
    """
    return capture_alone(_reached_alone(model))


def capture_alone(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Give modules of torch a forward that Dynamo captures by itself; those that got one."""
    codes: dict[Any, types.CodeType] = {}
    parts = [m for m in modules if _is_torchs(m) and "forward" not in vars(m)]
    for module in parts:
        # Dynamo keeps graphs with the code. Modules that are alike share one, as a user's do.
        shapes = tuple((name, p.shape) for name, p in module.named_parameters())
        key = type(module), shapes
        if key not in codes:
            name = f"{type(module).__name__}_{len(codes)}"
            codes[key] = _forward.__code__.replace(co_name=name)
        # A method, so that a copy of the module gets one that is bound to the copy.
        module.forward = types.MethodType(types.FunctionType(codes[key], globals()), module)
    return parts


def _forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return type(self).forward(self, *args, **kwargs)


def _reached_alone(model: nn.Module) -> Iterator[nn.Module]:
    """Modules of torch with parameters that are called by one with sharded modules inside."""
    torn = _around_sharded(model)
    for parent in torn:
        for child in parent.children():
            has_own = child not in torn and any(True for _ in child.parameters())
            if has_own:
                yield child


def _around_sharded(model: nn.Module) -> dict[nn.Module, None]:
    """Modules that have a sharded one inside, however deep, in order."""
    if not torch.distributed.is_available():
        return {}
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    found: dict[nn.Module, None] = {}
    for module in model.modules():
        inside = (m for m in module.modules() if m is not module)
        is_wrapper = isinstance(module, FullyShardedDataParallel)
        if is_wrapper or any(isinstance(m, FSDPModule | FullyShardedDataParallel) for m in inside):
            found[module] = None
    return found


def _is_torchs(module: nn.Module) -> bool:
    return type(module).forward.__module__.split(".")[0] == "torch"


def _policy(module: nn.Module) -> torch.dtype | None:
    """What `fully_shard` was told to make of a module's parameters while it runs."""
    # FSDPModule has a setter for everything but no getter; what isn't there refuses nothing.
    state = getattr(module, "_get_fsdp_state", lambda: None)()
    policy = getattr(state, "_mp_policy", None)
    dtype: torch.dtype | None = getattr(policy, "param_dtype", None)
    return dtype


def _is_hidden(module: nn.Module) -> bool:
    """Does it belong to a FullyShardedDataParallel with flat parameters? It says so to Dynamo."""
    is_managed = getattr(module, "_is_fsdp_managed_module", False)
    return bool(is_managed and not getattr(module, "_fsdp_use_orig_params", False))
