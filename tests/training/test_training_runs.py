"""Whole runs with guards, observation and adaptation: what is watched learns as what is not."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import ampconvert
from tests.training.models import MODELS, prepared

STEPS = 6


def run(name: str, **options: Any) -> list[float]:
    """Losses of a few steps; "float32" as `dtype` leaves the model as it is."""
    torch.manual_seed(0)
    make, data = MODELS[name]
    model, x = make(), data(8)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    guard = None
    if options.pop("dtype", "") != "float32":
        prepared(model, torch.float16, **options)
        guard = ampconvert.skip_nonfinite_steps(optimizer, model, init_scale=256.0)
    losses = []
    torch.manual_seed(1)
    for _ in range(STEPS):
        loss = model(x).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert guard is None or (guard.steps, guard.skipped) == (STEPS, 0)
    return losses


@pytest.mark.parametrize("name", MODELS)
def test_a_run_follows_float32(name: str) -> None:
    assert run(name) == pytest.approx(run(name, dtype="float32"), rel=0.02)


@pytest.mark.parametrize("name", MODELS)
def test_an_observed_step_is_the_same_step(name: str) -> None:
    """The first step is observed: the graph runs node by node, and nothing else may change."""
    assert run(name, adapt=True) == run(name, adapt=False)


def test_metrics_tell_of_a_run() -> None:
    torch.manual_seed(0)
    make, data = MODELS["cnn"]
    model = make()
    prepared(model, torch.float16)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    ampconvert.skip_nonfinite_steps(optimizer, model)
    before = copy.deepcopy(model.state_dict())
    for factor in (1e-3, float("inf")):
        (model(data(4)).square().mean() * factor).backward()
        optimizer.step()
        optimizer.zero_grad()
    found = ampconvert.training_metrics(model)
    assert (found["steps"], found["skipped"], found["loss_scale"]) == (2, 1, 32768.0)
    assert found["underflow"] is not None
    assert found["underflow"] < 0.5
    assert not torch.equal(before["head.weight"], model.state_dict()["head.weight"])
