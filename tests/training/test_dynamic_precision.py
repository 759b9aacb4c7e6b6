"""Training runs that leave float16's range, and go on."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor

from ampconvert.rules import command_line_rule
from ampconvert.training.metrics import metrics
from ampconvert.training.prepare import prepare_training
from ampconvert.training.steps import skip_nonfinite_steps
from tests.training.test_observe import Net, SquaredNorm, TwoHeads, batch, two_losses


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)


def test_logits_that_overflow_cost_two_steps(caplog: pytest.LogCaptureFixture) -> None:
    model = prepare_training(Net(logits=100.0), prefer="memory")
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    guard = skip_nonfinite_steps(optimizer, model)
    x, losses = batch(2, 6, 16), []
    with caplog.at_level(logging.WARNING, "ampconvert.training"):
        for _ in range(6):
            optimizer.zero_grad()
            loss = (model(x) - 1).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert not torch.tensor(losses[:2]).isfinite().any()
    assert torch.tensor(losses[2:]).diff().max() < 0  # it trains
    assert guard.skipped == 2
    found = metrics(model)
    assert "attn/matmul#0" in found["float32"]
    assert [line for line in found["changes"] if "attn/matmul (test_observe.py:" in line]
    assert [r.getMessage() for r in caplog.records if "step 2" in r.getMessage()] == found[
        "changes"
    ]


def test_a_silent_overflow_is_mended_without_a_skipped_step() -> None:
    rules = [command_line_rule(op, "allow") for op in ("mul", "mean", "add", "rsqrt")]
    model = prepare_training(SquaredNorm(), prefer="memory", rules=rules)
    optimizer = torch.optim.SGD(model.parameters(), 1e-12)
    guard = skip_nonfinite_steps(optimizer, model)
    x = batch(4, 16).sign() * 300
    outputs: list[Tensor] = []
    for _ in range(4):
        outputs.append(model(x))
        (outputs[-1].sum() * 2.0**-24).backward()
        optimizer.step()
    assert guard.skipped == 0
    assert not outputs[0].any()
    torch.testing.assert_close(outputs[-1].detach(), x.sign(), rtol=1e-2, atol=1e-2)


def test_a_gradient_that_overflows_moves_where_the_others_would_be_lost() -> None:
    model = prepare_training(TwoHeads(), prefer="memory")
    optimizer = torch.optim.SGD(model.parameters(), 1e-9)
    skip_nonfinite_steps(optimizer, model)
    x = batch(16, 8)
    for _ in range(25):
        optimizer.zero_grad()
        two_losses(2e4, 2.0**-26)(model(x)).backward()
        optimizer.step()
    found = metrics(model)
    assert {place.split("#")[0] for place in found["float32"]} == {"tanh", "large/linear"}
    assert found["skipped"] < 20
    reference = TwoHeads()
    reference.load_state_dict(model.state_dict())
    two_losses(2e4, 2.0**-26)(reference(x)).backward()
    for (name, mine), true in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert mine.grad is not None
        error = (mine.grad - true.grad).norm() / true.grad.norm()
        assert error < 0.1, name  # S may still be low


def test_bfloat16_adapts_nothing() -> None:
    model = prepare_training(Net(logits=100.0), dtype=torch.bfloat16, prefer="memory")
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    skip_nonfinite_steps(optimizer, model)
    for _ in range(3):
        model(batch(2, 6, 16)).square().mean().backward()
        optimizer.step()
    assert not metrics(model)["changes"]
