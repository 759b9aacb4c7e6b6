"""Modules around models whose own forward takes or gives more than tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .registry import Sample


class Outputs(nn.Module):
    """`model(**{names: inputs}, **fixed)` and of its result the attributes `wanted`, as a tuple."""

    def __init__(
        self, model: nn.Module, *wanted: str, names: tuple[str, ...], **fixed: Any
    ) -> None:
        super().__init__()
        self.model, self.wanted, self.names, self.fixed = model, wanted, names, fixed

    def forward(self, *inputs: torch.Tensor) -> Any:
        """The wanted tensors; a single one comes bare."""
        result = self.model(**dict(zip(self.names, inputs, strict=True)), **self.fixed)
        found = tuple(getattr(result, name) for name in self.wanted)
        return found[0] if len(found) == 1 else found


class Call(nn.Module):
    """`function(model, *inputs)`: for what no attribute of a result says."""

    def __init__(self, model: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Whatever `function` gives."""
        return self.function(self.model, *inputs)


def settle(sample: Sample) -> Sample:
    """The same sample with its batch norms' statistics taken from its own data.

    A network whose batch norms never saw data lets its activations fade or grow layer by layer;
    ranges of that kind are met in no trained model.
    """
    norms = [m for m in sample.module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over what comes
        norm.train()
    joined = [
        torch.cat(column) for column in zip(*(args for args, _ in sample.batches), strict=True)
    ]
    with torch.no_grad():
        sample.module(*joined)
    for norm in norms:
        norm.eval()
    return sample
