"""A common mistake: inputs cast to float16 by hand before a float32 model, MSELoss and Adam."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import ampconvert
from benchmarks.training.dynamic import plain

STEPS, RATE = 300, 1e-2
SCRIPTS = ("float32", "inputs.half()", "inputs.half() and model.half()", "inputs.half(), prepared")


def measure(quick: bool = False) -> dict[str, Any]:
    """By script: first and last loss on a regression, or the exception that the user gets."""
    return {name: _told(name, STEPS // 10 if quick else STEPS) for name in SCRIPTS}


def _told(name: str, steps: int) -> dict[str, Any]:
    try:
        return _train(name, steps)
    except Exception as error:  # the finding
        return {"exception": f"{type(error).__name__}: {' '.join(str(error).split())}"}


def _train(name: str, steps: int) -> dict[str, Any]:
    torch.manual_seed(0)
    data = torch.randn(256, 8)
    targets = (data[:, :1] * data[:, 1:2]).tanh()
    model: nn.Module = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    if name.endswith("model.half()"):
        model, targets = model.half(), targets.half()
    if name.endswith("prepared"):
        model = ampconvert.prepare_training(model, dtype=torch.float16)
    criterion = nn.MSELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    if name.endswith("prepared"):
        ampconvert.skip_nonfinite_steps(optimizer, model)
    given: Callable[[torch.Tensor], torch.Tensor] = (
        torch.Tensor.float if name == "float32" else torch.Tensor.half
    )
    losses = []
    for _ in range(steps):
        inputs = given(data)
        optimizer.zero_grad()
        loss = criterion(model(inputs), targets)
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    return {"first": plain(losses[0]), "last": plain(losses[-1])}
