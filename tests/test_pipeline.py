"""Whole conversions: what the search mends, what is refused, what is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import ampconvert
from ampconvert.errors import UserError
from ampconvert.files import read_plan


class LogPower(nn.Module):
    """Log power of a signal with the usual floor, which float16 turns into 0 and log into -inf."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.filters = nn.Linear(32, 16)
        self.register_buffer("floor", torch.full((16,), 1e-12))
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        power = self.filters(x).relu() ** 2
        return self.head(torch.maximum(power, self.floor).log() / 8)


class Silent(nn.Module):
    """x * x overflows float16 and the quotient is 0: finite, and wrong."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.inner(x)
        return y / torch.sqrt((y * y).mean(-1, keepdim=True))


def test_the_search_keeps_in_float32_what_the_tolerance_needs() -> None:
    x = torch.randn(4, 32)
    result = ampconvert.convert(LogPower().eval(), (x,), dtype="float16")
    assert result.ok
    assert result.verification is not None
    assert all(p.finite for p in result.verification.parities)
    settled = {d.evidence for d in result.plan.decisions.values()}
    assert "search" in settled
    names = {n.name: n.op for n in result.analysis.graph.nodes}
    maximum = next(name for name, op in names.items() if op == "aten::maximum")
    assert result.plan.compute[maximum] == "float32"


def test_an_overflow_seen_in_the_data_is_denied_with_its_number() -> None:
    result = ampconvert.convert(Silent().eval(), (torch.randn(4, 8) * 2000,), dtype="float16")
    assert result.ok
    squares = [d for d in result.plan.decisions.values() if d.cls == "deny"]
    assert squares
    answer = result.run([((torch.randn(4, 8) * 2000,), {})])[0][0]
    assert np.abs(answer).max() > 0.1


def test_bfloat16_needs_no_help_with_range() -> None:
    result = ampconvert.convert(Silent().eval(), (torch.randn(4, 8) * 2000,), dtype="bf16")
    assert result.ok


def test_a_plan_is_written_read_and_applied_again(tmp_path: Path) -> None:
    x = torch.randn(2, 8)
    first = ampconvert.convert(Silent().eval(), (x,), out=tmp_path / "a", name="net")
    assert sorted(first.files) == ["onnx", "plan", "pt2"]
    plan = read_plan(first.files["plan"])
    assert plan == first.plan
    again = ampconvert.convert(Silent().eval(), (x,), out=tmp_path / "b", name="net", plan=plan)
    assert again.plan == plan and again.ok
    loaded = torch.export.load(first.files["pt2"]).module()
    assert torch.equal(loaded(x), first.module(x))
    with pytest.raises(UserError, match="another model"):
        ampconvert.convert(LogPower().eval(), (torch.randn(2, 32),), plan=plan)


def test_nothing_is_overwritten_unasked_and_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = Silent().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ampconvert.convert(model, (torch.randn(2, 8),), out=tmp_path, name="net")
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    with pytest.raises(UserError, match="exists already"):
        ampconvert.convert(model, (torch.randn(2, 8),), out=tmp_path, name="net")


def test_a_tolerance_that_nothing_low_can_hold_says_so() -> None:
    result = ampconvert.convert(Silent().eval(), (torch.randn(2, 8),), tolerance=2e-6)
    assert result.ok
    assert "No operator runs in float16" in result.analysis.notes[-1]
