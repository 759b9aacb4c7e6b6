"""The figures of a training, and that they are written where people look."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch import nn

from ampconvert.errors import UserError
from ampconvert.ranges.loss_scale import ExponentHistogram
from ampconvert.training.adapt import Adaptation
from ampconvert.training.metrics import log_to, metrics
from ampconvert.training.observation import Gradient, Observation, Overflow
from ampconvert.training.prepare import prepare_training


class Scales:
    def __init__(self, scales: dict[str, float]) -> None:
        self.scales = scales

    def value(self, name: str = "") -> float:
        return self.scales[name]

    def values(self) -> dict[str, float]:
        return self.scales


class Trained:
    """What a Training shows."""

    def __init__(self, scales: dict[str, float]) -> None:
        self.scaling = Scales(scales)
        self.adaptation = Adaptation(retry_after=2)
        self.observation: Observation | None = None
        self.steps, self.skipped = 0, 0

    def step(self, skipped: bool, observation: Observation | None) -> None:
        self.steps += 1
        self.skipped += skipped
        self.observation = observation or self.observation
        self.adaptation.heard(self.steps, skipped, self.scaling, observation)


class Writer:
    def __init__(self) -> None:
        self.scalars: dict[str, tuple[float, int | None]] = {}
        self.texts: list[str] = []

    def add_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> None:
        self.scalars[tag] = (scalar_value, global_step)

    def add_text(self, tag: str, text_string: str, global_step: int | None = None) -> None:
        assert tag == "ampconvert/changes"
        self.texts.append(text_string)


def numbers(*sizes: float) -> ExponentHistogram:
    return ExponentHistogram.of(np.array(sizes, np.float32))


OVERFLOW = Observation(
    {"a/mul#0": Overflow(9e4, ("a/mul#0",))},
    # At S = 4: kept, subnormal (2^-15), flushed (2^-28), and a zero that was zero before.
    {"a/mul#0": Gradient(numbers(1, 2, 2.0**-17, 2.0**-30, 0), ("a/mul#0",), 4.0, 1, 0, True)},
)


def test_the_figures_of_a_training() -> None:
    training = Trained({"": 4.0})
    assert metrics(training)["underflow"] is None
    training.step(True, None)
    training.step(True, OVERFLOW)
    found = metrics(training)
    assert found["steps"] == found["skipped"] == 2
    assert found["loss_scale"] == 4.0
    assert found["underflow"] == 0.5
    assert found["float32"] == {"a/mul#0": "overflowed float16 in forward: 9.0e4 > 65504"}
    assert [line[:7] for line in found["changes"]] == ["step 2:"]


def test_they_are_written_and_each_change_once() -> None:
    training, writer = Trained({"x": 4.0, "y": 16.0}), Writer()
    training.step(True, None)
    training.step(True, OVERFLOW)
    log_to(writer, training, 2)
    assert writer.scalars == {
        "ampconvert/loss_scale": (4.0, 2),
        "ampconvert/loss_scale/x": (4.0, 2),
        "ampconvert/loss_scale/y": (16.0, 2),
        "ampconvert/steps": (2, 2),
        "ampconvert/skipped_steps": (2, 2),
        "ampconvert/underflow": (0.5, 2),
        "ampconvert/float32_places": (1, 2),
    }
    log_to(writer, training, 3)
    assert len(writer.texts) == 1
    training.step(False, None)
    training.step(False, None)
    log_to(writer, training, 5)
    assert writer.texts[1:] == ["step 4: a/mul is tried in float16 again after 2 good steps"]
    assert writer.scalars["ampconvert/float32_places"] == (0, 5)
    other = Writer()
    log_to(other, training, 5)
    assert other.texts == writer.texts


def test_a_prepared_model_has_figures_before_its_first_step() -> None:
    found = metrics(prepare_training(nn.Linear(2, 2)))
    assert (found["steps"], found["loss_scale"], found["float32"]) == (0, 1.0, {})


def test_parts_that_were_prepared_apart_are_told_apart() -> None:
    model = nn.Sequential(*(prepare_training(nn.Linear(2, 2)) for _ in range(2)))
    assert metrics(model)["loss_scales"] == {"0": 1.0, "1": 1.0}


def test_a_model_that_was_not_prepared_is_a_users_mistake(monkeypatch: Any) -> None:
    monkeypatch.setattr("ampconvert.training.prepare.shared_trainings", list)
    with pytest.raises(UserError, match="prepare_training"):
        metrics(nn.Linear(2, 2))
