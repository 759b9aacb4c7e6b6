"""What is trained: a network, its data, the loss, and how well it does on examples held out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.training import cartpole, models
from benchmarks.training.cartpole import Segment
from benchmarks.training.data import Data, digits, interactions, rings, shapes, text

Batch = Any  # (inputs, targets), or a Segment
Model = Callable[[Tensor], Any]


@dataclass(frozen=True)
class Score:
    """The mean loss of what was held out, and the share of it that is right."""

    loss: float
    accuracy: float


@dataclass(frozen=True)
class Task:
    """One network and how it is trained; `steps` of Adam with `rate`.

    `batches(model, seed)` gives training batches without end, `sample(size)` one batch of any size
    for measurements of time, `resolution` the least difference that accuracy can show.
    """

    name: str
    build: Callable[[], nn.Module]
    batches: Callable[[Model, int], Iterator[Batch]]
    loss: Callable[[Model, Batch], Tensor]
    score: Callable[[Model], Score]
    sample: Callable[[int], Batch]
    resolution: float
    steps: int = 0
    rate: float = 3e-3
    sizes: tuple[int, int] = (4, 128)  # of batches whose time is measured


def cross_entropy(model: Model, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The mean over all targets; class scores stand last."""
    scores = model(batch[0])
    return F.cross_entropy(scores.flatten(0, -2), batch[1].flatten())


def classified(model: Model, x: Tensor, y: Tensor) -> Score:
    """Loss and accuracy in float32, whatever type the scores have."""
    with torch.no_grad():
        scores = model(x).float().flatten(0, -2)
    y = y.flatten()
    right = (scores.argmax(-1) == y).float().mean()
    return Score(float(F.cross_entropy(scores, y)), float(right))


def classifier(
    name: str,
    build: Callable[[], nn.Module],
    load: Callable[[], Data],
    *,
    size: int,
    held_out: int,
    **settings: Any,
) -> Task:
    """A task of class numbers, trained on batches of `size`; `held_out` counts single targets."""

    def sample(rows: int) -> tuple[Tensor, Tensor]:
        data = load()
        index = torch.arange(rows) % len(data.train_x)
        return data.train_x[index], data.train_y[index]

    return Task(
        name,
        build,
        lambda model, seed: load().batches(size, seed),
        cross_entropy,
        lambda model: classified(model, load().test_x, load().test_y),
        sample,
        1 / held_out,
        **settings,
    )


def _policy(name: str, *, carts: int, **settings: Any) -> Task:
    def sample(rows: int) -> Segment:
        generator = torch.Generator().manual_seed(0)
        draw = torch.randn(rows, generator=generator)
        states = 0.1 * torch.randn(rows, 4, generator=generator)
        return Segment(states, (draw > 0).long(), 10 * draw.abs(), draw)

    def score(model: Model) -> Score:
        return Score(math.nan, cartpole.balance(model))

    return Task(
        name,
        models.Policy,
        lambda model, seed: cartpole.segments(model, carts, 32, seed),
        cartpole.actor_critic,
        score,
        sample,
        1 / 32,
        **settings,
    )


def _noise(shape: tuple[int, ...], classes: int) -> Data:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, *shape, generator=generator)
    y = torch.randint(classes, (256,), generator=generator)
    return Data(x, y, x[:16], y[:16])


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 10), nn.ReLU(), nn.Linear(10, 3))


TASKS = (
    classifier("mlp", _mlp, rings, size=64, held_out=500, steps=800, rate=3e-2, sizes=(8, 512)),
    classifier(
        "cnn", models.DigitsCNN, lambda: digits((1, 8, 8)), size=32, held_out=400, steps=250,
        rate=1e-2,
    ),
    classifier(
        "transformer", models.Encoder, lambda: digits((8, 8)), size=32, held_out=400, steps=400,
        rate=4e-3,
    ),
    classifier(
        "lstm", lambda: models.CharLSTM(text()[1]), lambda: text()[0], size=32, held_out=64 * 24,
        steps=400, rate=2e-2, sizes=(4, 64),
    ),
    classifier(
        "gpt", lambda: models.GPT(text()[1]), lambda: text()[0], size=32, held_out=64 * 24,
        steps=300, rate=1e-2, sizes=(4, 64),
    ),
    classifier(
        "unet", models.UNet, shapes, size=16, held_out=100 * 256, steps=100, rate=1e-2,
        sizes=(2, 32),
    ),
    _policy("policy", carts=32, steps=250, rate=5e-3, sizes=(8, 1024)),
    classifier(
        "recommender", lambda: models.Recommender(200, 100), interactions, size=128,
        held_out=4000, steps=600, rate=1e-2, sizes=(8, 1024),
    ),
    classifier(
        "resnet18", models.ResNet18, lambda: _noise((3, 32, 32), 10), size=8, held_out=16,
        sizes=(1, 8),
    ),
    classifier(
        "transformer4", lambda: models.Encoder(256, 4, 256, 64),
        lambda: _noise((64, 256), 10), size=8, held_out=16, sizes=(1, 8),
    ),
)  # fmt: skip


def decayed(optimizer: torch.optim.Optimizer, task: Task, step: int, steps: int) -> None:
    """Set the learning rate of one step of `steps`: it falls to zero along a line."""
    for group in optimizer.param_groups:
        group["lr"] = task.rate * (1 - step / steps)


def task(name: str) -> Task:
    """The task of that name; KeyError where there is none."""
    return {t.name: t for t in TASKS}[name]


def trained() -> tuple[Task, ...]:
    """The tasks that are learned; the others are there for their size alone."""
    return tuple(t for t in TASKS if t.steps)
