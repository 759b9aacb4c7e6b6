"""From a first plan to one whose parity holds: check, learn from the measurement, plan again.

A failed check is mended as a user would mend it: an overflow and an operator that can't be written
become denials; an error that is too large becomes a new aim for `front.within`, corrected by how
far the last prediction was off. So one or two parity runs are the rule, whatever the model's size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ampconvert.classify import Decision
from ampconvert.conversion import Analysis, Attempt, Conversion, Pareto, Tried
from ampconvert.errors import UserError
from ampconvert.front import POINTS, Point, front, point_of, within
from ampconvert.pipeline_steps import Clock, decide, target_named
from ampconvert.plan import FLOAT32, Plan, Problem, low_is_unused
from ampconvert.rules import OpRule
from ampconvert.summary import summarise

# The conversion by an analysis' plan, and denials for what the check found wrong with it.
Check = Callable[[Analysis], tuple[Conversion, Mapping[str, Decision]]]
Estimate = Callable[[Analysis], Mapping[str, float]]  # squared error of rounding each value

RUNS = 6  # parity runs until it holds or the best is reported
REPLANS = 8  # further plans, for what a check finds before parity is run
FIRST_AIM = 0.9  # of the tolerance: what a first plan is predicted to err
NEXT_AIM = 0.95  # the same once a measurement has shown how far predictions are off
HOPELESS = 1.5  # of the tolerance: a plan that is predicted to err more is not tried
ROOM = 0.8  # of the tolerance: below this a faster plan is looked for


@dataclass(frozen=True)
class Search:
    """What a search may do. With `fastest` it looks for the fastest plan inside `tolerance`, else
    for any; without `repair` it checks one plan and changes nothing.

    `estimate` gives the error of rounding each value where the analysis has none; it is asked only
    when nothing overflowed and the error is too large all the same.
    """

    tolerance: float
    rules: Sequence[OpRule] = ()
    repair: bool = True
    fastest: bool = False
    estimate: Estimate | None = None
    settled: dict[str, Decision] = field(default_factory=dict)  # by checks and repairs, so far


def search(clock: Clock, analysis: Analysis, check: Check, wanted: Search) -> Conversion:
    """The best conversion there was: parity held, then speed, then the least error."""
    best: Conversion | None = None
    attempts: list[Attempt] = []
    best_rank = (False, False, -math.inf)
    aim: float | None = None
    if wanted.fastest and (analysis.summary.predicted_error or 0.0) > HOPELESS * wanted.tolerance:
        aim = FIRST_AIM * wanted.tolerance
        analysis = replanned(clock, analysis, wanted, aim)
    for _ in range(RUNS + REPLANS):
        result, refused = check(analysis)
        if refused and wanted.repair:
            wanted.settled.update(refused)
            best = best or result
            analysis = replanned(clock, analysis, wanted, aim)
            continue
        if result.verification is not None:
            attempts.append(_attempt(result, aim))
        rank = _rank(result, aim)
        if best is None or rank > best_rank:
            best, best_rank = result, rank
        if not wanted.repair or len(attempts) >= RUNS:
            break
        step = _next(clock, analysis, result, attempts, wanted)
        if step is None:
            break
        analysis, aim = step
    assert best is not None
    return _noted(replace(best, attempts=tuple(attempts)))


def problem_of(analysis: Analysis, wanted: Search) -> Problem:
    """What a plan for `analysis` has to keep to: verdicts, denials found on the way, the target."""
    graph, low = analysis.graph, analysis.low
    known = {**(analysis.errors or {}), **analysis.measured}
    verdicts, _ = decide(
        graph, low, wanted.rules, analysis.ranges, known, analysis.target, analysis.opset,
        analysis.proof,
    )  # fmt: skip
    verdicts = replace(verdicts, decisions={**verdicts.decisions, **wanted.settled})
    return Problem(graph, verdicts, low, target_named(analysis.target), analysis.plan.io)


def replanned(clock: Clock, analysis: Analysis, wanted: Search, aim: float | None) -> Analysis:
    """`analysis` with a new plan: predicted to err `aim` at most, where one is given."""
    with clock.stage("plan"):
        problem = problem_of(analysis, wanted)
        if aim is None or analysis.errors is None:
            return with_plan(analysis, problem.plan())
        return with_plan(analysis, within(problem, analysis.errors, aim))


def with_plan(analysis: Analysis, plan: Plan) -> Analysis:
    """`analysis` with another plan, and what that amounts to."""
    target = target_named(analysis.target)
    return replace(
        analysis, plan=plan, summary=summarise(analysis.graph, plan, analysis.errors, target)
    )


def measured_front(
    clock: Clock, analysis: Analysis, check: Check, wanted: Search, points: int = POINTS
) -> Pareto:
    """The front of time against error, each of its plans run once to measure its error.

    Raises UserError where the error per op is not known.
    """
    analysis, found = _legal_front(clock, analysis, check, wanted, points)
    tried: list[Tried] = []
    for number, point in enumerate(found):
        clock.progress("front", number, len(found) + 1)
        tried.append(_tried(check, analysis, point))
    default = point_of(problem_of(analysis, wanted), analysis.plan, analysis.errors or {})
    full = analysis.summary.predicted_seconds
    return Pareto(
        analysis,
        tuple(tried),
        next((t for t in tried if t.point.plan == default.plan), None)
        or _tried(check, analysis, default),
        full[0] if full else 0.0,
        dict(clock.seconds),
    )


def at_point(
    clock: Clock, analysis: Analysis, check: Check, wanted: Search, number: int
) -> Analysis:
    """`analysis` with the plan of that point of its front, counted from 1 at the fastest; 0 is the
    plan of the verdicts alone. Raises UserError where there is no such point.
    """
    if number == 0:
        return analysis
    analysis, found = _legal_front(clock, analysis, check, wanted, POINTS)
    if number > len(found):
        raise UserError(f"--point {number}: the front has {len(found)} points; --pareto shows them")
    return with_plan(analysis, found[number - 1].plan)


def _legal_front(
    clock: Clock, analysis: Analysis, check: Check, wanted: Search, points: int
) -> tuple[Analysis, tuple[Point, ...]]:
    """A front of plans that can be written: what the fastest one is refused for is denied."""
    if analysis.errors is None and wanted.estimate is not None:
        analysis = with_plan(replace(analysis, errors=wanted.estimate(analysis)), analysis.plan)
    if not analysis.errors:
        raise UserError("no error per op could be estimated for this model, so it has no front")
    for _ in range(REPLANS):
        with clock.stage("front"):
            found = front(problem_of(analysis, wanted), analysis.errors, points)
        _, refused = check(with_plan(analysis, found[0].plan))
        if not refused:
            break
        wanted.settled.update(refused)
    return analysis, found


def _tried(check: Check, analysis: Analysis, point: Point) -> Tried:
    result, _ = check(with_plan(analysis, point.plan))
    parities = result.verification.parities if result.verification else ()
    measured = max((p.rel_l2 for p in parities), default=math.nan)
    return Tried(point, measured, bool(parities) and all(p.finite for p in parities))


def _next(
    clock: Clock,
    analysis: Analysis,
    result: Conversion,
    attempts: Sequence[Attempt],
    wanted: Search,
) -> tuple[Analysis, float | None] | None:
    """The plan to try now, and its aim; None where the search is at its end."""
    from ampconvert.verify.search import blame

    last = attempts[-1] if attempts else None
    if result.ok:
        if not wanted.fastest or last is None or last.aim is None or len(attempts) >= 3:
            return None
        if last.measured >= ROOM * wanted.tolerance or any(not a.ok for a in attempts):
            return None
        return _towards(clock, analysis, last, wanted, faster=True)
    overflowed = result.verification.first_bad if result.verification else None
    found = blame(analysis.plan, overflowed)
    if found:
        wanted.settled.update(found)
        aim = last.aim if last else None
        return replanned(clock, analysis, wanted, aim), aim
    if last is None or _as_good(result):
        return None
    if analysis.errors is None and wanted.estimate is not None:
        estimated = replace(analysis, errors=wanted.estimate(analysis))
        analysis = with_plan(estimated, analysis.plan)
        last = replace(last, predicted=analysis.summary.predicted_error)
    if not analysis.errors:
        return None
    return _towards(clock, analysis, last, wanted, faster=False)


def _towards(
    clock: Clock, analysis: Analysis, last: Attempt, wanted: Search, *, faster: bool
) -> tuple[Analysis, float] | None:
    """A plan whose error is predicted to be just inside the tolerance, by the last measurement."""
    ratio = last.measured / last.predicted if last.predicted else 1.0
    if not 0.01 < ratio < 100:  # the prediction was of another kind of error
        ratio = 1.0
    aim = NEXT_AIM * wanted.tolerance / ratio
    if faster and last.aim is not None and aim <= 1.05 * last.aim:
        return None
    if not faster:
        aim = min(aim, 0.7 * (last.aim or last.predicted or aim))
    found = replanned(clock, analysis, wanted, aim)
    return None if found.plan == analysis.plan else (found, aim)


def _attempt(result: Conversion, aim: float | None) -> Attempt:
    assert result.verification is not None
    summary, plan = result.summary, result.plan
    errors = [p.rel_l2 for p in result.verification.parities]
    return Attempt(
        aim,
        summary.predicted_error,
        max(errors, default=0.0),
        summary.predicted_seconds[1] if summary.predicted_seconds else 0.0,
        sum(dtype == FLOAT32 for dtype in plan.compute.values()),
        result.ok,
    )


def _rank(result: Conversion, aim: float | None) -> tuple[bool, bool, float]:
    """Larger is better: parity held, all finite, then speed or, without parity, exactness."""
    v = result.verification
    if v is None:
        return (False, False, -math.inf)
    finite = all(p.finite for p in v.parities)
    if v.ok:  # a plan for a larger aim is faster; the one without any is the fastest
        return (True, finite, math.inf if aim is None else aim)
    return (False, finite, -max((p.rel_l2 for p in v.parities), default=0.0))


def _as_good(result: Conversion) -> bool:
    """Whether the converted model errs no more than float32 itself does: no plan can do better."""
    parities = result.verification.parities if result.verification else ()
    own = [(p.rel_l2, p.reference_rel_l2) for p in parities]
    return bool(own) and all(full is not None and error <= 2 * full for error, full in own)


def _noted(best: Conversion) -> Conversion:
    if not low_is_unused(best.plan) or _holds_low(best.analysis):
        return best
    low = best.analysis.low
    note = f"No operator runs in {low} in this plan: the file is the float32 model."
    return replace(best, analysis=replace(best.analysis, notes=(*best.analysis.notes, note)))


def _holds_low(analysis: Analysis) -> bool:
    """Whether the model held `low` tensors before: one that was converted already."""
    return any(value.dtype == analysis.low for value in analysis.graph.values.values())
