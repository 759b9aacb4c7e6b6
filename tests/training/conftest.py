"""Fixtures of the tests of step guards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from ampconvert.training import steps
from tests.training import guarded


@pytest.fixture
def fake_trainings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Guards find the trainings of `guarded.Net`; what Dynamo captured is forgotten afterwards."""
    monkeypatch.setattr(steps, "trainings_of", guarded.trainings_of)
    yield
    torch._dynamo.reset()


@pytest.fixture
def net() -> guarded.Net:
    torch.manual_seed(0)
    return guarded.Net()
