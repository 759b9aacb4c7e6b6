"""The experiments of Micikevicius et al. (Mixed Precision Training, ICLR 2018) in small.

Three things that they introduce, each on and off: float32 master weights, loss scaling, and (theirs
is products that accumulate in float32, which CPUs do anyway) instead the other low type. An MLP
learns scikit-learn's digits with Adam at 1e-4. The loss is multiplied by a power of two and Adam's
epsilon with it, so that in exact arithmetic nothing changes: Adam's step does not depend on the
gradient's unit. What does change is how far gradients lie below float16's range.

Without master weights every update and every updated weight is rounded to the low type, to nearest
or stochastically (Gupta et al., Deep Learning with Limited Numerical Precision, ICML 2015).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.training.data import digits
from benchmarks.training.measures import Probe
from benchmarks.training.tasks import classified, cross_entropy
from benchmarks.training.ways import DTYPES, Loop, Way

FACTORS = (0, -14, -20)  # exponents of two that the loss is multiplied by
RATE, EPSILON, STEPS, SIZE = 1e-4, 1e-8, 1500, 32
PROBED = 10  # steps of a run that are held against float32
STATIC = 1024.0
SEEDS = (0, 1, 2)
WEIGHTS = ("master", "low", "low, stochastic")

WAYS: dict[str, Way] = {
    "float32": Way("float32"),
    "bfloat16, autocast": Way("autocast", "bfloat16"),
    "bfloat16, ours": Way("ours", "bfloat16", prefer="memory"),
    **{
        f"float16 {word}, {kind}": Way(
            kind,
            "float16",
            scale=scale,
            guarded=False if scale == 1.0 else None,
            prefer="memory" if kind == "ours" else None,
        )
        for word, scale in (("unscaled", 1.0), ("static 2^10", STATIC), ("dynamic", "dynamic"))
        for kind in ("autocast", "ours")
    },
    "float16 layerwise, ours": Way("ours", "float16", scale="layerwise", prefer="memory"),
}


def measure(name: str, quick: bool = False) -> dict[str, Any]:
    """By "factor weights": mean accuracy, flushed and lost shares of one way over the seeds."""
    way = WAYS[name]
    kinds = WEIGHTS[:1] if way.kind == "float32" else WEIGHTS
    begun = time.perf_counter()
    found: dict[str, Any] = {}
    for factor in FACTORS:
        for weights in kinds:
            runs = [
                train(way, factor, weights, seed, STEPS // 5 if quick else STEPS)
                for seed in SEEDS[: 1 if quick else None]
            ]
            found[f"{factor} {weights}"] = {key: mean([r[key] for r in runs]) for key in runs[0]}
    return {"rows": found, "seconds": time.perf_counter() - begun}


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of those that there are; None without any."""
    known = [v for v in values if v is not None]
    return fmean(known) if known else None


def train(way: Way, factor: int, weights: str, seed: int, steps: int) -> dict[str, Any]:
    """One run with the loss multiplied by 2^factor."""
    torch._dynamo.reset()
    unit = 2.0**factor
    torch.manual_seed(seed)
    network, reference = _network(), _network()
    if weights != "master":
        for p in network.parameters():
            p.data = p.data.to(DTYPES[way.dtype]).float()
    loop = Loop(
        way,
        network,
        lambda p: torch.optim.Adam(p, lr=RATE, eps=EPSILON * unit),
        counting=True,
        clip=None,
    )
    if weights != "master":
        keep_low(loop.optimizer, loop.parameters, way.dtype, weights.endswith("stochastic"))
    probe, data = Probe(reference), digits()
    batches = data.batches(SIZE, seed)

    def loss_of(model: Any, batch: Any) -> Tensor:
        return cross_entropy(model, batch) * unit

    every = max(1, steps // PROBED)
    for step in range(steps):
        batch = next(batches)
        watched = step % every == every // 2
        loop.step(
            loss_of,
            batch,
            (lambda b=batch: probe.watch(loop.module, loss_of, b)) if watched else None,
        )
    score = classified(loop.call, data.test_x, data.test_y)
    return {
        "accuracy": score.accuracy,
        "flushed": probe.flushed.value,
        "lost": probe.lost.value,
        "skipped": float(loop.skipped),
    }


def _network() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def keep_low(
    optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], dtype: str, stochastic: bool
) -> None:
    """Let `optimizer` leave its weights as numbers of the low type: the update is rounded, and so
    is the weight that it is added to.
    """
    held: list[Tensor] = []
    generator = torch.Generator().manual_seed(0)

    def before(*_: Any) -> None:
        held[:] = [p.detach().clone() for p in parameters]

    def after(*_: Any) -> None:
        with torch.no_grad():
            for p, old in zip(parameters, held, strict=True):
                update = (p - old).to(DTYPES[dtype]).float()
                if stochastic:
                    p.copy_(rounded_stochastically(old + update, dtype, generator))
                else:
                    p.copy_((old + update).to(DTYPES[dtype]))

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)


def rounded_stochastically(x: Tensor, dtype: str, generator: torch.Generator) -> Tensor:
    """`x` (float32) as numbers of the low type, up with the probability of its distance from the
    number below, in float32. Right on average: the expected result is `x`.
    """
    info = torch.finfo(DTYPES[dtype])
    exponent = torch.frexp(x.double())[1] - 1
    least = torch.tensor(info.tiny, dtype=torch.float64).log2()
    step = info.eps * torch.exp2(exponent.double().clamp(min=float(least)))
    chance = torch.rand(x.shape, generator=generator, dtype=torch.float64)
    return ((x.double() / step + chance).floor() * step).float()
