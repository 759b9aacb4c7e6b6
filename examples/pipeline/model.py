"""The model that this pipeline converts: a small classifier with a normalisation written by hand.

Seeded, so that the plan beside it can be repeated; a real one would load its weights here.
"""

from __future__ import annotations

import torch
from torch import nn


class Classifier(nn.Module):
    """32 features to 8 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(32, 64)
        self.second = nn.Linear(64, 64)
        self.head = nn.Linear(64, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.first(x))
        hidden = hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + 1e-6)
        hidden = torch.relu(self.second(hidden))
        return torch.log_softmax(self.head(hidden), dim=-1)


def build_model() -> nn.Module:
    torch.manual_seed(0)
    return Classifier()


def example_inputs() -> tuple[torch.Tensor]:
    return (_batch(0),)


def calibration_data() -> list[torch.Tensor]:
    return [_batch(seed) for seed in range(1, 5)]


def _batch(seed: int) -> torch.Tensor:
    return torch.randn(16, 32, generator=torch.Generator().manual_seed(seed))
