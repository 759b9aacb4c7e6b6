"""What the conversions of PyTorch and ONNX models share: the clock, the verdicts, the target."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from ampconvert.classify import Refuses, Verdicts, classify
from ampconvert.conversion import Analysis
from ampconvert.cost import target_named
from ampconvert.dtypes import Low
from ampconvert.errors import UserError
from ampconvert.graph import Graph
from ampconvert.plan import Plan, fingerprint
from ampconvert.plan_check import misfit
from ampconvert.ranges.calibrate import Range
from ampconvert.ranges.prove import Proof
from ampconvert.rules import OpRule, RuleBook, load, placed

Progress = Callable[[str, int, int], None]  # stage, steps done, steps in all (0: unknown)

PARITY_BATCHES = 64  # that parity is measured on: their answers stay in memory


class Clock:
    """Seconds per stage, and word of each stage to whoever shows progress."""

    def __init__(self, progress: Progress | None) -> None:
        self.seconds: dict[str, float] = {}
        self.progress = progress or (lambda stage, done, total: None)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what runs inside to the stage `name`."""
        self.progress(name, 0, 0)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
            self.progress(name, 1, 1)


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection inside: graphs are made of cyclic objects that live on, and each round
    of the collector would walk all of them again, which makes large models quadratic.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def decide(
    graph: Graph,
    low: Low,
    rules: Sequence[OpRule],
    ranges: Mapping[str, Range],
    errors: Mapping[str, float] | None,
    target: str | None,
    opset: int | None = None,
    proof: Proof | None = None,
) -> tuple[Verdicts, tuple[str, ...]]:
    """The verdicts by the user's `rules` before the built-in ones, and the user's that named
    nothing.
    """
    book = RuleBook((*(placed(rule, graph) for rule in rules), *load()))
    proved = proof.fitting(graph) if proof is not None else ()
    verdicts = classify(graph, book, low, ranges, errors, _refuses(target, opset), proved)
    return verdicts, tuple(rule.name for rule in book.unused if rule.user)


def _refuses(name: str | None, opset: int | None) -> Refuses:
    """What has no kernel on the target; without one, what would keep a float16 model from loading
    on a CPU, unless the user asks for it.
    """
    target = target_named(name or "ort-cpu")

    def refuses(op: str, low: Low, insisted: bool) -> str:
        if name is None and (insisted or low != "float16"):
            return ""
        return target.refuses(op, low, insisted, opset)

    return refuses


def check_plan(plan: Plan, graph: Graph, low: Low) -> None:
    """Raise UserError where a saved plan was made for another graph or type."""
    if plan.fingerprint != fingerprint(graph) or plan.low != low:
        raise UserError(
            "the plan was made for another model or type: "
            f"it is for {plan.low} and graph {plan.fingerprint}, "
            f"this is {low} and {fingerprint(graph)}"
        )
    if wrong := misfit(plan, graph):
        raise UserError(f"the plan is damaged: {wrong}")


def parity_notes(batches: int) -> tuple[str, ...]:
    """What to tell where parity is not measured on all `batches`."""
    if batches <= PARITY_BATCHES:
        return ()
    return (f"Parity was measured on the first {PARITY_BATCHES} of {batches} batches.",)


def with_parity_notes(analysis: Analysis, batches: int) -> Analysis:
    """`analysis` of a model whose parity is measured, with `parity_notes` added."""
    return replace(analysis, notes=(*analysis.notes, *parity_notes(batches)))
