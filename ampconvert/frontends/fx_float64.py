"""A float32 program run in float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree


class Float64(fx.Interpreter):
    """Runs a float32 program in float64: type arguments are raised, and results that are float32
    all the same. Inputs come through `doubled`.
    """

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One call, with what it makes raised."""
        args, kwargs = pytree.tree_map_only(torch.dtype, _raised, (args, kwargs))
        return doubled(super().call_function(target, args, kwargs))


def doubled(tree: Any) -> Any:
    """`tree` with its float32 tensors in float64."""
    return pytree.tree_map_only(
        torch.Tensor, lambda t: t.double() if t.dtype == torch.float32 else t, tree
    )


def _raised(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float32 else dtype
