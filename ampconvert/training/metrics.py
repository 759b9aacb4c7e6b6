"""What mixed precision does to a training run, in numbers: for a test, a log or TensorBoard."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypedDict

from torch import nn

from ampconvert.errors import UserError
from ampconvert.training.adapt import Adaptation
from ampconvert.training.observation import Observation

TAG = "ampconvert"


class Scaling(Protocol):
    """What a training knows of S."""

    def values(self) -> Mapping[str, float]:
        """S by group."""


class Training(Protocol):
    """What the figures come from: `training.state.Training`."""

    steps: int
    skipped: int
    observation: Observation | None

    @property
    def scaling(self) -> Scaling:
        """Its loss scales."""

    @property
    def adaptation(self) -> Adaptation:
        """Its policy."""


class Writer(Protocol):
    """TensorBoard's SummaryWriter, or anything with these methods."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> Any:
        """Write a number."""

    def add_text(self, tag: str, text_string: str, global_step: int | None = None) -> Any:
        """Write a text."""


class Metrics(TypedDict):
    """The figures of a model.

    `loss_scale` is S, the smallest where layers have their own; those are in `loss_scales`, by
    layer. `underflow` is the share of nonzero gradient elements that float16 flushed to zero or
    made subnormal in the last observed step, None before one. `float32` has the places that run in
    FP32 by what was seen while training, with the reasons, and `changes` a line about each move.
    """

    steps: int
    skipped: int
    loss_scale: float
    loss_scales: dict[str, float]
    underflow: float | None
    float32: dict[str, str]
    changes: list[str]


def metrics(trained: nn.Module | Training) -> Metrics:
    """The figures of a prepared model, or of its training.

    Where several modules of a model were prepared apart, places and changes of all are listed,
    counts and underflow are the largest, the loss scale the smallest, and `loss_scales` tells them
    apart by number. Raises UserError for a model that was not prepared.
    """
    trainings = _trainings(trained)
    seen = [t.observation.underflow for t in trainings if t.observation is not None]
    scales = [t.scaling.values() for t in trainings]
    return Metrics(
        steps=max(t.steps for t in trainings),
        skipped=max(t.skipped for t in trainings),
        loss_scale=min((s for found in scales for s in found.values()), default=1.0),
        loss_scales={
            f"{number}.{group}".strip(".") if len(scales) > 1 else group: scale
            for number, found in enumerate(scales)
            for group, scale in found.items()
        },
        underflow=max(seen, default=None),
        float32={place: why for t in trainings for place, why in t.adaptation.promoted.items()},
        changes=[line for t in trainings for line in t.adaptation.history],
    )


_logged: weakref.WeakKeyDictionary[Training, dict[int, int]] = weakref.WeakKeyDictionary()


def log_to(writer: Writer, trained: nn.Module | Training, step: int) -> None:
    """Write the figures with `writer`, under "ampconvert/", as those of `step`.

    Each change is written once to each writer, as text. Raises UserError as `metrics`.
    """
    found = metrics(trained)
    writer.add_scalar(f"{TAG}/loss_scale", found["loss_scale"], step)
    for group, scale in found["loss_scales"].items():
        if len(found["loss_scales"]) > 1:
            writer.add_scalar(f"{TAG}/loss_scale/{group}", scale, step)
    writer.add_scalar(f"{TAG}/steps", found["steps"], step)
    writer.add_scalar(f"{TAG}/skipped_steps", found["skipped"], step)
    if found["underflow"] is not None:
        writer.add_scalar(f"{TAG}/underflow", found["underflow"], step)
    writer.add_scalar(f"{TAG}/float32_places", len(found["float32"]), step)
    for training in _trainings(trained):
        told = _logged.setdefault(training, {})
        lines = training.adaptation.history
        for line in lines[told.get(id(writer), 0) :]:
            writer.add_text(f"{TAG}/changes", line, step)
        told[id(writer)] = len(lines)


def _trainings(trained: nn.Module | Training) -> Sequence[Training]:
    if not isinstance(trained, nn.Module):
        return [trained]
    from ampconvert.training.prepare import trainings_of

    found = trainings_of(trained)
    if not found:
        raise UserError(
            f"{type(trained).__name__} was not prepared: call ampconvert.prepare_training(model) "
            "first"
        )
    return found
