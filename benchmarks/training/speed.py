"""Seconds of a training step, everything that a loop has in it, the ways taking turns.

On a shared machine absolute times drift. So each round gives every way a block of steps, in an
order that rotates, and ratios are medians over rounds of the ratio within a round. One thread on a
CPU is timed by the processor's time, which is its wall time less what other processes take.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from benchmarks.training.measures import moved
from benchmarks.training.tasks import Batch, Task, task
from benchmarks.training.ways import Loop, Way, start

BLOCK_S = 0.02  # a block has as many steps as take this long
ROUNDS = (15, 60)  # at least, at most
LIMIT_S = 12.0  # for all rounds of one model and batch size, once the least are done
WARM = 4  # steps before anything is timed: they compile
MODES = ("eager", "compiled")


def measure(
    name: str, mode: str, size: int, quick: bool = False, device: str = "cpu"
) -> dict[str, Any]:
    """By way: median milliseconds, ratios to float32 and to autocast, seconds of the first step.

    On CUDA float16 with loss scaling, and peak memory in MiB; elsewhere bfloat16, where "ours
    guarded" checks gradients as well, which autocast's loop does not. "ours for memory" computes in
    the low type wherever that is safe, "ours" where it is expected to save time.
    """
    torch._dynamo.config.recompile_limit = 64
    chosen, compiled = task(name), mode == "compiled"
    dtype = "float16" if device == "cuda" else "bfloat16"
    ways = {
        "float32": Way("float32", compiled=compiled),
        "autocast": Way("autocast", dtype, compiled),
        "ours": Way("ours", dtype, compiled),
    }
    if dtype == "bfloat16":
        ways["ours guarded"] = Way("ours", dtype, compiled, guarded=True)
    ways["ours for memory"] = Way("ours", dtype, compiled, prefer="memory")
    batch = moved(chosen.sample(size), device)
    turns: dict[str, Turn] = {}
    found: dict[str, Any] = {}
    for key, way in ways.items():
        try:
            turns[key] = Turn(start(way, chosen, 0, device=device), chosen, batch)
        except Exception as error:  # a way that can't train this model has no time
            text = " ".join(str(error).split())
            found[key] = {"error": f"{type(error).__name__}: {text[:200]}"}
    rounds = _rounds(list(turns.values()), 3 if quick else ROUNDS[0])
    times = dict(zip(turns, zip(*rounds, strict=True), strict=True))
    for key, turn in turns.items():
        found[key] = {
            "ms": 1e3 * median(times[key]),
            "first_s": turn.first_s,
            "peak_mib": turn.peak / 2**20 if device == "cuda" else None,
            "rounds": len(rounds),
            **{
                f"to_{other}": paired(times[key], times[other])
                for other in ("float32", "autocast")
                if other in times
            },
        }
    return found


def paired(times: tuple[float, ...], others: tuple[float, ...]) -> float:
    """The median over rounds of this way's time over the other's in the same round."""
    return median(a / b for a, b in zip(times, others, strict=True))


class Turn:
    """One way of training one model, ready to be timed."""

    def __init__(self, loop: Loop, task: Task, batch: Batch) -> None:
        self.loop, self.task, self.batch = loop, task, batch
        self.peak = 0
        self.timed: Callable[[Callable[[], None]], float] = (
            _seconds_cuda if loop.device == "cuda" else _seconds
        )
        begun = time.perf_counter()
        self._step()
        self.first_s = time.perf_counter() - begun
        for _ in range(WARM):
            self._step()
        self.steps = max(1, int(BLOCK_S / self.timed(self._step)))

    def block(self) -> float:
        """Seconds of one step, over a block; one step before it is not timed, since the way before
        left its own code and data in the caches.
        """
        if self.loop.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
        self._step()
        seconds = self.timed(self._steps) / self.steps
        if self.loop.device == "cuda":
            self.peak = max(self.peak, torch.cuda.max_memory_allocated() - held)
        return seconds

    def _steps(self) -> None:
        for _ in range(self.steps):
            self._step()

    def _step(self) -> None:
        self.loop.step(self.task.loss, self.batch)


def _rounds(turns: list[Turn], least: int) -> list[tuple[float, ...]]:
    rounds: list[tuple[float, ...]] = []
    begun = time.perf_counter()
    for number in itertools.count():
        if number >= least and time.perf_counter() - begun > LIMIT_S:
            break
        if number >= max(least, ROUNDS[1] if least >= ROUNDS[0] else least):
            break
        first = number % len(turns)
        order = [*range(first, len(turns)), *range(first)]
        seconds = {i: turns[i].block() for i in order}
        rounds.append(tuple(seconds[i] for i in range(len(turns))))
    return rounds


def _seconds(run: Callable[[], None]) -> float:
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    begun = clock()
    run()
    return clock() - begun


def _seconds_cuda(run: Callable[[], None]) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / 1e3
