"""Training to the end in each way, over seeds: loss and accuracy on what was held out, and what the
low type lost on the way there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import fmean
from typing import Any

import torch

from benchmarks.training.measures import Counter, Probe
from benchmarks.training.tasks import Task, decayed, task
from benchmarks.training.ways import Loop, Way, start

PROBED = (0.1, 0.4, 0.7, 0.95)  # of a run: the steps that are held against float32 gradients
COUNTED = 5  # the step whose casts are counted: by then everything is compiled
KINDS = {
    "float32": ("float32",),
    "autocast": ("float16", "bfloat16"),
    "ours": ("float16", "bfloat16"),
    "ours compiled": ("float16", "bfloat16"),
}


def measure(name: str, kind: str, seeds: int = 3, quick: bool = False) -> dict[str, Any]:
    """By type: a list of runs, one for each seed, or {"error": why there are none}."""
    found: dict[str, Any] = {}
    for dtype in KINDS[kind]:
        word, _, compiled = kind.partition(" ")
        # Everywhere in the low type: what is asked here is what that does to a training run.
        prefer = "memory" if word == "ours" else None
        way = Way(word, dtype, bool(compiled), prefer=prefer)
        try:
            runs = [train(way, task(name), seed, quick) for seed in range(seeds)]
            found[dtype] = {"runs": runs}
        except Exception as error:  # what torch or we can't train is a result
            text = " ".join(str(error).split())
            found[dtype] = {"error": f"{type(error).__name__}: {text[:200]}"}
    return found


def train(way: Way, task: Task, seed: int, quick: bool = False) -> dict[str, Any]:
    """One run: its scores, shares, skipped steps, seconds, and what one step casts and computes."""
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = 64
    torch.manual_seed(seed)
    probe = Probe(task.build())
    begun = time.perf_counter()
    loop = start(way, task, seed, counting=True)
    batches = task.batches(loop.call, seed)
    steps = task.steps // 4 if quick else task.steps
    probed = {int(share * steps) for share in PROBED}
    losses: list[float] = []
    counts: dict[str, int] = {}
    for step in range(steps):
        decayed(loop.optimizer, task, step, steps)
        batch = next(batches)
        if step == COUNTED and not way.compiled:
            with Counter() as counter:
                loss = loop.step(task.loss, batch)
            counts = {"casts": counter.casts, "products": counter.products, "low": counter.low}
        else:
            loss = loop.step(task.loss, batch, _watch(probe, loop, task, batch, step in probed))
        losses.append(float(loss))
    loop.module.eval()
    score = task.score(loop.call)
    return {
        "seed": seed,
        "loss": score.loss,
        "train_loss": fmean(losses[-max(1, steps // 20) :]),
        "accuracy": score.accuracy,
        "flushed": probe.flushed.value,
        "lost": probe.lost.value,
        "overflowed": probe.overflowed,
        "skipped": loop.skipped,
        "counts": counts,
        "scale": loop.scale,
        "steps": steps,
        "seconds": time.perf_counter() - begun,
    }


def _watch(
    probe: Probe, loop: Loop, task: Task, batch: Any, wanted: bool
) -> Callable[[], Any] | None:
    if not wanted:
        return None
    return lambda: probe.watch(loop.module, task.loss, batch)
