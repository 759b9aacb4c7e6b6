"""Accelerate, as docs/training.md says: prepare_training, accelerator.prepare, then the guard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from ampconvert.training.prepare import prepare_training
from ampconvert.training.steps import StepGuard, skip_nonfinite_steps

accelerate = pytest.importorskip("accelerate")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def fresh_state() -> Iterator[None]:
    """Accelerate's state belongs to the process."""
    yield
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_trains_as_a_plain_loop_does(dtype: str, accumulate: int) -> None:
    accelerator = accelerate.Accelerator(
        mixed_precision="no", cpu=True, gradient_accumulation_steps=accumulate
    )
    model, optimizer, loader, _ = made(accelerator, dtype)
    train(accelerator, model, optimizer, loader)
    assert_equal(accelerator.unwrap_model(model), plain(dtype, accumulate))


def test_saves_and_loads(tmp_path: Path) -> None:
    """Six steps, or three, a new process and three: the same, with a step skipped on the way."""
    accelerator = accelerate.Accelerator(cpu=True)
    model, optimizer, loader, guard = made(accelerator, "float16", bad=1)
    train(accelerator, model, optimizer, loader)
    accelerator.save_state(tmp_path)
    train(accelerator, model, optimizer, loader)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    assert (guard.skipped, guard.scale) == (2, 16384.0)

    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    again = accelerate.Accelerator(cpu=True)
    model, optimizer, loader, guard = made(again, "float16", bad=1, seed=1)
    again.load_state(tmp_path)
    assert (guard.skipped, guard.scale) == (1, 32768.0)
    train(again, model, optimizer, loader)
    assert (guard.skipped, guard.scale) == (2, 16384.0)
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_guarding_before_or_after_is_the_same() -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    model = prepare_training(network(), "float16")
    inner = torch.optim.AdamW(model.parameters())
    before = skip_nonfinite_steps(inner, model)
    model, optimizer = accelerator.prepare(model, inner)
    assert skip_nonfinite_steps(optimizer, model) is before


def made(
    accelerator: Any, dtype: str, bad: int | None = None, seed: int = 0
) -> tuple[nn.Module, Any, Any, StepGuard]:
    model = prepare_training(network(seed), dtype)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model, optimizer, loader = accelerator.prepare(model, optimizer, DataLoader(data(bad), 8))
    return model, optimizer, loader, skip_nonfinite_steps(optimizer, model)


def train(accelerator: Any, model: nn.Module, optimizer: Any, loader: Any) -> None:
    for x, y in loader:
        with accelerator.accumulate(model):
            accelerator.backward(F.cross_entropy(model(x), y))
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()


def plain(dtype: str, accumulate: int) -> nn.Module:
    model = prepare_training(network(), dtype)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    skip_nonfinite_steps(optimizer, model)
    for i, (x, y) in enumerate(DataLoader(data(), 8)):
        (F.cross_entropy(model(x), y) / accumulate).backward()
        if (i + 1) % accumulate == 0:
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()
    return model


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 4))


def data(bad: int | None = None) -> TensorDataset:
    """Six batches of eight; number `bad` has an infinity in it."""
    generator = torch.Generator().manual_seed(0)
    x: Tensor = torch.randn(48, 6, generator=generator)
    if bad is not None:
        x[8 * bad, 0] = torch.inf
    return TensorDataset(x, torch.randint(4, (48,), generator=generator))


def assert_equal(model: nn.Module, expected: nn.Module) -> None:
    for (name, value), (_, other) in zip(
        model.state_dict().items(), expected.state_dict().items(), strict=True
    ):
        assert torch.equal(value, other), name
