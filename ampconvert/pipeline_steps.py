"""What the conversions of PyTorch and ONNX models share: the clock, and the repair of a plan.

A failed check is mended as a user would mend it: with extra rules, and the conversion runs again.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from ampconvert.classify import Decision, Refuses, Verdicts, classify
from ampconvert.conversion import Analysis, Conversion
from ampconvert.cost import Target, load_target
from ampconvert.dtypes import Low
from ampconvert.errors import UserError
from ampconvert.graph import Graph
from ampconvert.plan import Plan, fingerprint, low_is_unused, make_plan
from ampconvert.ranges.calibrate import Range
from ampconvert.rules import OpRule, RuleBook, load
from ampconvert.summary import summarise

Progress = Callable[[str, int, int], None]  # stage, steps done, steps in all (0: unknown)
# The conversion by an analysis' plan, and denials for what the check found wrong with it.
Check = Callable[[Analysis], tuple[Conversion, Mapping[str, Decision]]]

ATTEMPTS = 4  # conversions until parity holds or the best is reported
AIM = 0.5  # of the tolerance: a plan's predicted error, so that the prediction may be off by two


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


def attempts(
    clock: Clock,
    analysis: Analysis,
    check: Check,
    rules: Sequence[OpRule],
    tolerance: float,
    repair: bool,
    estimate: Callable[[Analysis], Mapping[str, float]] | None = None,
) -> Conversion:
    """Check the plan; while parity fails, plan again with what the check found, if `repair`.

    `estimate` gives the error of rounding each value where the analysis has none; it is asked only
    when nothing overflowed and the error is too large all the same. Gives the best conversion there
    was.
    """
    from ampconvert.verify.search import blame

    best: Conversion | None = None
    extra: dict[str, Decision] = {}
    aim: float | None = None
    for _ in range(ATTEMPTS):
        result, illegal = check(analysis)
        if best is None or _better(result, best):
            best = result
        overflowed = result.verification.first_bad if result.verification else None
        found = illegal or blame(analysis.plan, overflowed)
        if result.ok or not repair or _as_good(result):
            break
        if not found and analysis.errors is None and estimate is not None:
            analysis = replace(analysis, errors=estimate(analysis))
        if not (found or analysis.errors):
            break
        if not found:
            aim = AIM * (aim or tolerance)
        extra |= found
        analysis = _plan_again(clock, analysis, extra, rules, aim)
    assert best is not None
    if low_is_unused(best.plan) and not _holds_low(best.analysis):
        note = f"No operator runs in {analysis.low} in this plan: the file is the float32 model."
        best = replace(best, analysis=replace(best.analysis, notes=(*best.analysis.notes, note)))
    return best


def _holds_low(analysis: Analysis) -> bool:
    """Whether the model held `low` tensors before: one that was converted already."""
    return any(value.dtype == analysis.low for value in analysis.graph.values.values())


def _as_good(result: Conversion) -> bool:
    """Whether the converted model errs no more than float32 itself does: no plan can do better."""
    parities = result.verification.parities if result.verification else ()
    own = [(p.rel_l2, p.reference_rel_l2) for p in parities]
    return bool(own) and all(full is not None and error <= 2 * full for error, full in own)


def _better(candidate: Conversion, best: Conversion) -> bool:
    def rank(result: Conversion) -> tuple[bool, bool, float]:
        v = result.verification
        if v is None:
            return (False, False, float("-inf"))
        finite = all(p.finite for p in v.parities)
        return (v.ok, finite, -max((p.rel_l2 for p in v.parities), default=0.0))

    return rank(candidate) > rank(best)


def decide(
    graph: Graph,
    low: Low,
    rules: Sequence[OpRule],
    ranges: Mapping[str, Range],
    errors: Mapping[str, float] | None,
    target: str | None,
    opset: int | None = None,
) -> tuple[Verdicts, tuple[str, ...]]:
    """The verdicts by the user's `rules` before the built-in ones, and the user's that named
    nothing.
    """
    book = RuleBook((*rules, *load()))
    verdicts = classify(graph, book, low, ranges, errors, _refuses(target, opset))
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


def _plan_again(
    clock: Clock,
    analysis: Analysis,
    extra: Mapping[str, Decision],
    rules: Sequence[OpRule],
    aim: float | None,
) -> Analysis:
    """A new plan with `extra` decisions, predicted to keep its error under `aim` when one is
    given.
    """
    from ampconvert.verify.search import within

    graph, low, errors = analysis.graph, analysis.low, analysis.errors
    target = target_named(analysis.target)
    with clock.stage("plan"):
        known = {**(errors or {}), **analysis.measured}
        verdicts, _ = decide(
            graph, low, rules, analysis.ranges, known, analysis.target, analysis.opset
        )
        verdicts = replace(verdicts, decisions={**verdicts.decisions, **extra})
        if aim is not None and errors is not None:
            plan = within(graph, verdicts, low, target, errors, aim, analysis.plan.io)
        else:
            plan = make_plan(graph, verdicts, low, target, io=analysis.plan.io)
    return replace(analysis, plan=plan, summary=summarise(graph, plan, errors))


def target_named(name: str | None) -> Target:
    """The table of a target, the default one for None. UserError where none has the name."""
    return load_target(name) if name else load_target()
