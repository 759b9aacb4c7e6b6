"""Time series and finance."""

from __future__ import annotations

import itertools
from typing import Any

from ..data import random_batches
from ..registry import Sample, batches_of, entry
from ..wrap import Outputs, settle


def _prices(i: int) -> Any:
    """Two geometric random walks of 64 days, from 30 to 30,000 a share, and volumes up to 1e7."""
    import torch

    make = torch.Generator().manual_seed(i)
    steps = torch.randn(2, 64, 1, generator=make) * 0.02
    price = torch.tensor([30.0, 30000.0]).view(2, 1, 1) * steps.cumsum(1).exp()
    volume = torch.rand(2, 64, 1, generator=make).pow(3) * 1e7
    return torch.cat([price, volume], 2)


@entry("lstm_prices", domain="finance")
def lstm_prices() -> Sample:
    """An LSTM over prices and volumes with its normalisation inside: variances pass 65504."""
    import torch
    from torch import nn

    class Forecaster(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(2, 64, 2, batch_first=True), nn.Linear(64, 5)

        def forward(self, x: torch.Tensor) -> Any:
            mean, std = x.mean(1, keepdim=True), x.std(1, keepdim=True)
            hidden = self.lstm((x - mean) / (std + 1e-8))[0][:, -1]
            return self.head(hidden) * std[:, :, 0] + mean[:, :, 0]

    return Sample(Forecaster(), batches_of(_prices))


@entry("nbeats", domain="finance")
def nbeats() -> Sample:
    """N-BEATS: doubly residual stacks of fully connected blocks."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            sizes = (64, 128, 128, 128)
            layers: list[nn.Module] = []
            for a, b in itertools.pairwise(sizes):
                layers += [nn.Linear(a, b), nn.ReLU()]
            self.body, self.theta = nn.Sequential(*layers), nn.Linear(128, 76)

        def forward(self, x: torch.Tensor) -> Any:
            return self.theta(self.body(x)).split([64, 12], 1)

    class NBeats(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Block() for _ in range(6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            level = x[:, -1:]
            x = x / level
            forecast = torch.zeros_like(x[:, :12])
            for block in self.blocks:
                back, ahead = block(x)
                x, forecast = x - back, forecast + ahead
            return forecast * level

    return Sample(NBeats(), batches_of(lambda i: _prices(i)[:, :, 0].contiguous()))


@entry("tcn", domain="finance")
def tcn() -> Sample:
    """A temporal convolutional network: weight-normalised, dilated, causal."""
    import torch
    from torch import nn
    from torch.nn.utils.parametrizations import weight_norm

    class Block(nn.Module):
        def __init__(self, wide: int, dilation: int) -> None:
            super().__init__()
            self.pad = 2 * dilation
            self.one = weight_norm(nn.Conv1d(wide, 32, 3, dilation=dilation))
            self.two = weight_norm(nn.Conv1d(32, 32, 3, dilation=dilation))
            self.skip = nn.Conv1d(wide, 32, 1)

        def forward(self, x: torch.Tensor) -> Any:
            y = self.one(nn.functional.pad(x, (self.pad, 0))).relu()
            y = self.two(nn.functional.pad(y, (self.pad, 0))).relu()
            return (y + self.skip(x)).relu()

    blocks = [Block(4 if d == 1 else 32, d) for d in (1, 2, 4, 8)]
    model = nn.Sequential(*blocks, nn.Conv1d(32, 1, 1))
    return Sample(model, random_batches((2, 4, 96)))


@entry("patchtst", domain="finance")
def patchtst() -> Sample:
    """PatchTST from transformers: patches of each channel, instance scaling, batch norm."""
    from transformers import PatchTSTConfig, PatchTSTForPrediction

    config = PatchTSTConfig(
        num_input_channels=2, context_length=64, patch_length=8, patch_stride=8,
        prediction_length=12, d_model=64, num_hidden_layers=3, num_attention_heads=4, ffn_dim=128,
    )  # fmt: skip
    module = Outputs(PatchTSTForPrediction(config), "prediction_outputs", names=("past_values",))
    return settle(Sample(module.eval(), batches_of(_prices)))


@entry("garch_risk", domain="finance")
def garch_risk() -> Sample:
    """A GARCH recursion and its value at risk: variances of 1e-5, below float16's normal range."""
    import torch
    from torch import nn

    class Garch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.raw = nn.Parameter(torch.tensor([-13.0, -2.0, 1.5]))

        def forward(self, returns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            omega = torch.nn.functional.softplus(self.raw[0])
            alpha, beta = torch.softmax(self.raw[1:], 0) * 0.99
            variance = returns.var(1)
            for t in range(32):
                variance = omega + alpha * returns[:, t] ** 2 + beta * variance
            sigma = variance.sqrt()
            density = -0.5 * (torch.log(2 * torch.pi * variance) + returns[:, -1] ** 2 / variance)
            return -2.326 * sigma, density

    def returns(i: int) -> torch.Tensor:
        return torch.randn(4, 32, generator=torch.Generator().manual_seed(i)) * 0.01

    return Sample(Garch(), batches_of(returns))
