"""Prepared models in the loops that people write, and what is refused."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ampconvert.errors import UserError
from ampconvert.training.prepare import prepare_training
from tests.training.models import ROOM, distance, gradients, prepared


def test_frozen_parameters_have_no_gradient() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 3))
    model[0].weight.requires_grad_(False)
    reference = copy.deepcopy(model)
    prepared(model)
    x = torch.randn(5, 3)
    found = gradients(model, x)
    assert set(found) == {"0.bias", "2.weight", "2.bias"}
    assert distance(found, gradients(reference, x)) < ROOM[torch.float16]


def test_microbatches_add_up() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3))
    reference = copy.deepcopy(model)
    prepared(model)
    x = torch.randn(8, 3)
    for half in x.chunk(2):
        model(half).square().sum().backward()
    reference(x).square().sum().backward()
    grads = [{n: p.grad for n, p in m.named_parameters()} for m in (model, reference)]
    assert distance(*grads) < ROOM[torch.float16]


def test_several_losses_share_one_graph() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    prepared(model)
    out = model(torch.randn(4, 3))
    out[:, 0].sum().backward(retain_graph=True)
    first = model.weight.grad.clone()
    out[:, 1].sum().backward()
    assert not torch.equal(first, model.weight.grad)
    assert torch.equal(first[0], model.weight.grad[0])


def test_gradients_of_inputs_and_of_gradients() -> None:
    """A gradient penalty differentiates twice."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    reference = copy.deepcopy(model)
    prepared(model)
    x = torch.randn(4, 3)
    found = []
    for net in (model, reference):
        y = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(net(y).sum(), y, create_graph=True)
        (gradient.norm(dim=1) - 1).square().mean().backward()
        found.append({n: p.grad for n, p in net.named_parameters() if p.grad is not None})
    assert distance(*({n: g for n, g in f.items() if n != "2.bias"} for f in found)) < 0.05


def test_inputs_in_16_bits_are_raised_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Linear(3, 2)
    prepared(model)
    x = torch.randn(4, 3)
    with caplog.at_level(logging.WARNING, "ampconvert.training"):
        out = model(x.half())
        model(x.half())
    assert out.dtype == torch.float32
    assert torch.allclose(out, model(x), atol=0.05)
    assert sum("rounded to 16 bits" in r.message for r in caplog.records) == 1


def test_autocast_around_it_changes_nothing() -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
    prepared(model)
    x = torch.randn(4, 3)
    expected = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(x), expected)


def test_a_loop_with_gradscaler_trains_the_same() -> None:
    """Autocast's loop around a prepared model: the scaler's scale, and no other."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
    twin = copy.deepcopy(model)
    prepared(model)
    x, y = torch.randn(16, 3), torch.randn(16, 2)
    losses: list[list[float]] = []
    for net in (model, twin):
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
        losses.append([])
        for _ in range(20):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16, enabled=net is twin):
                loss = nn.functional.mse_loss(net(x).float(), y)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            losses[-1].append(loss.item())
        assert scaler.get_scale() == 2.0**12
    assert losses[0] == pytest.approx(losses[1], rel=5e-3)
    assert losses[0][-1] < losses[0][0] * 0.9


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: prepare_training(m.half()), "the parameter weight is float16"),
        (lambda m: prepare_training(m, torch.int8), "int8"),
        (lambda m: prepare_training(m, loss_scale=3.0), "power of two"),
        (lambda m: prepare_training(m, loss_scale="static"), "dynamic"),  # type: ignore[arg-type]
        (lambda m: prepare_training(m, prefer="size"), "prefer"),  # type: ignore[arg-type]
        (lambda m: prepare_training(m.forward), "takes a torch.nn.Module"),
        (lambda m: prepare_training(torch.compile(m)), "inner="),
        (lambda m: prepare_training(m, inner="fast"), "there are .*eager"),
    ],
)
def test_what_makes_no_sense_is_refused(change: Callable[[Any], Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        change(nn.Linear(2, 2))


def test_a_model_of_frozen_16_bit_parts_is_prepared() -> None:
    """Adapters on a frozen 16-bit model: what trains is float32."""
    base = nn.Linear(4, 4).half().requires_grad_(False)

    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base, self.adapter = base, nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.base(x.half()).float() + self.adapter(x)

    model = Adapted()
    prepared(model)
    model(torch.randn(3, 4)).sum().backward()
    assert model.adapter.weight.grad is not None
    assert base.weight.dtype == torch.float16
