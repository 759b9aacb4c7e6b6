"""What a prepared model says about its operators."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ampconvert
from tests.training.models import MODELS, Net, prepared


def test_every_operator_has_a_type_and_a_reason() -> None:
    model = Net()
    prepared(model, torch.bfloat16)
    model(torch.randn(2, 1, 4, 4))
    found = ampconvert.explain_training(model)
    by_place = {op.place: op for op in found.operators}
    assert by_place["conv/conv2d#0"].dtype == "bfloat16"
    assert by_place["conv/conv2d#0"].verdict == "allow"
    assert all(op.reason and op.rule for op in found.operators)
    assert "test" in by_place["conv/conv2d#0"].where or "models" in by_place["conv/conv2d#0"].where
    text = str(found)
    assert text.startswith("1 graph, ")
    assert "conv/conv2d#0" in text


def test_bodies_of_checkpoints_are_told_of_too() -> None:
    make, data = MODELS["checkpoint"]
    model = make()
    prepared(model, torch.float16)
    model(data(2))
    found = ampconvert.explain_training(model)
    assert sum("linear" in op.place for op in found.operators) == 2


def test_it_says_what_is_missing() -> None:
    with pytest.raises(ampconvert.UserError, match="not prepared"):
        ampconvert.explain_training(nn.Linear(2, 2))
    model = nn.Linear(2, 2)
    prepared(model)
    with pytest.raises(ampconvert.UserError, match="did not run"):
        ampconvert.explain_training(model)
