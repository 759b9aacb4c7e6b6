"""Runs that stall or diverge in plain float16, since a value grows out of its range in the forward:
no loss scale mends that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import ampconvert
from benchmarks.training.data import digits
from benchmarks.training.tasks import Batch, cross_entropy
from benchmarks.training.ways import Loop, Way

EPSILON = 1e-4  # of Adam: 1e-8 is zero in float16, a failure of another kind
POINTS = 16  # of a loss curve
KINDS = ("float32", "autocast", "all float16", "ours")


class Recall(nn.Module):
    """Answers with the value whose key is like the query. The scores are divided by `softness`
    after the product, as many hand-written attentions have it: the product grows as they sharpen.
    """

    def __init__(self, width: int = 16, softness: float = 8192.0) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.softness = softness

    def forward(self, x: Tensor) -> Tensor:
        """Scores [rows, keys] of the keys x[:, 1:] for the query x[:, 0]."""
        scores = self.query(x[:, :1]) @ self.key(x[:, 1:]).transpose(1, 2)
        return (scores / self.softness).squeeze(1)


class SquaredNorm(nn.Module):
    """A residual network over pixels of 0..255, its root mean square norms written out."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.embed = nn.Linear(64, width)
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.head = nn.Linear(width, 10)
        nn.init.normal_(self.embed.weight, std=0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.second(torch.relu(self.first(_normed(x))))
        return self.head(_normed(x))


def _normed(x: Tensor) -> Tensor:
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6)


@dataclass(frozen=True)
class Case:
    """One run that plain float16 does not survive."""

    told: str
    build: Callable[[], nn.Module]
    batches: Callable[[], Iterator[Batch]]
    rate: float
    steps: int


def _recalled() -> Iterator[Batch]:
    """Eight keys of 16 features as large as pixel values; the query is one of them with noise."""
    generator = torch.Generator().manual_seed(0)
    while True:
        keys = 16 * torch.randn(64, 8, 16, generator=generator)
        wanted = torch.randint(8, (64,), generator=generator)
        query = keys[torch.arange(64), wanted] + 4 * torch.randn(64, 16, generator=generator)
        yield torch.cat([query[:, None], keys], 1), wanted


def _pixels() -> Iterator[Batch]:
    for x, y in digits().batches(64, 0):
        yield 255 * x, y


CASES = {
    "attention scores": Case(
        "q @ k.T passes 65504 as attention sharpens", Recall, _recalled, 3e-2, 1500
    ),
    "hand-written RMSNorm": Case(
        "x * x of activations near 300 is above 65504", SquaredNorm, _pixels, 3e-3, 400
    ),
}


def measure(name: str, quick: bool = False) -> dict[str, Any]:
    """By way: first, best and final loss, the curve, skipped steps, and what ours changed."""
    case = CASES[name]
    steps = case.steps // 4 if quick else case.steps
    return {kind: _told(case, kind, steps) for kind in KINDS}


def _told(case: Case, kind: str, steps: int) -> dict[str, Any]:
    try:
        return _train(case, kind, steps)
    except Exception as error:  # what can't be trained is a result
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}


def _train(case: Case, kind: str, steps: int) -> dict[str, Any]:
    torch.manual_seed(0)
    loop = _loop(case, kind)
    batches = case.batches()
    losses, scales = [], []
    for _ in range(steps):
        x, y = next(batches)
        losses.append(float(loop.step(cross_entropy, (x.half() if "all" in kind else x, y))))
        scales.append(loop.scale)
    finite = [loss for loss in losses if math.isfinite(loss)]
    every = max(1, steps // POINTS)
    found: dict[str, Any] = {
        "first": plain(losses[0]),
        "best": plain(min(finite, default=math.nan)),
        "final": plain(losses[-1]),
        "nonfinite": len(losses) - len(finite),
        "skipped": loop.skipped,
        "scale": scales[-1],
        "curve": [plain(loss) for loss in losses[::every]],
        "every": every,
    }
    if kind == "ours":
        metrics = ampconvert.training_metrics(loop.module)
        found["changes"] = [str(line) for line in metrics["changes"]]
    return found


def plain(loss: float) -> float | str:
    """The number, or the word for one that JSON can't hold."""
    return loss if math.isfinite(loss) else str(loss)


def _loop(case: Case, kind: str) -> Loop:
    def adam(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=case.rate, eps=EPSILON)

    if kind == "all float16":
        return Loop(Way("float32"), case.build().half(), adam)
    way = Way(
        kind,
        "float32" if kind == "float32" else "float16",
        prefer="memory" if kind == "ours" else None,
    )
    return Loop(way, case.build(), adam, counting=True)
