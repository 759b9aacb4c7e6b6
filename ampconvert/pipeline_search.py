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
from ampconvert.cost import target_named
from ampconvert.errors import UserError
from ampconvert.front import POINTS, Point, Trial, front, measured_within, point_of, within
from ampconvert.pipeline_steps import Clock, decide
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
EXPLAINED = 3.0  # times what was expected: an error up to this is taken for rounding
HOPELESS = 1.5  # of the tolerance: a plan that is predicted to err more is not tried
FRONT_NODES = 3000  # operators up to which a report shows the front unasked: seconds
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
    trial: Callable[[Analysis], Trial] | None = None  # a quick run of plans for that model
    settled: dict[str, Decision] = field(default_factory=dict)  # by checks and repairs, so far


def search(clock: Clock, analysis: Analysis, check: Check, wanted: Search) -> Conversion:
    """The best conversion there was: parity held, then speed, then the least error."""
    best: Conversion | None = None
    best_rank = (False, False, -math.inf)
    attempts: list[Attempt] = []
    step = _Step(analysis)
    if wanted.fastest and _hopeless(analysis, wanted):
        step = replanned(clock, analysis, wanted, FIRST_AIM * wanted.tolerance)
    for _ in range(RUNS + REPLANS):
        result, refused = check(step.analysis)
        if refused and wanted.repair:
            wanted.settled.update(refused)
            best = best or result
            step = replanned(clock, step.analysis, wanted, step.aim)
            continue
        if result.verification is not None:
            attempts.append(_attempt(result, step))
        rank = _rank(result, step.aim)
        if best is None or rank > best_rank:
            best, best_rank = result, rank
        if not wanted.repair or len(attempts) >= RUNS:
            break
        further = _next(clock, step, result, attempts, wanted)
        if further is None:
            break
        step = further
    assert best is not None
    return _noted(replace(best, attempts=tuple(attempts)))


@dataclass(frozen=True)
class _Step:
    """What is checked next: an analysis with its plan, the error that was aimed at, what a trial of
    the plan showed, and how many trials it took.
    """

    analysis: Analysis
    aim: float | None = None
    trial: float | None = None
    trials: int = 0


def _hopeless(analysis: Analysis, wanted: Search) -> bool:
    """Whether the plan of the rules is not worth a parity run."""
    return (analysis.summary.predicted_error or 0.0) > HOPELESS * wanted.tolerance


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


def replanned(clock: Clock, analysis: Analysis, wanted: Search, aim: float | None) -> _Step:
    """A step with a new plan: one that errs `aim` at most, by trial or by prediction."""
    with clock.stage("plan"):
        problem = problem_of(analysis, wanted)
        if aim is None or analysis.errors is None:
            return _Step(with_plan(analysis, problem.plan()), aim)
    if wanted.trial is not None:
        with clock.stage("try plans"):
            found = measured_within(problem, analysis.errors, aim, wanted.trial(analysis))
        if found is not None:
            planned = with_plan(analysis, found.plan)
            return _Step(planned, aim, found.error, found.runs)
    with clock.stage("plan"):
        return _Step(with_plan(analysis, within(problem, analysis.errors, aim)), aim)


def with_plan(analysis: Analysis, plan: Plan) -> Analysis:
    """`analysis` with another plan, and what that amounts to."""
    target = target_named(analysis.target)
    return replace(
        analysis, plan=plan, summary=summarise(analysis.graph, plan, analysis.errors, target)
    )


def predicted_front(
    clock: Clock, analysis: Analysis, wanted: Search, points: int = POINTS
) -> tuple[Point, ...]:
    """The front of time against predicted error, for a report; empty where the error per op is not
    known, or the model so large that the cuts would keep its owner waiting.
    """
    if not analysis.errors or analysis.summary.float_nodes > FRONT_NODES:
        return ()
    with clock.stage("front"):
        return front(problem_of(analysis, wanted), analysis.errors, points)


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
    step: _Step,
    result: Conversion,
    attempts: Sequence[Attempt],
    wanted: Search,
) -> _Step | None:
    """What to try now; None where the search is at its end."""
    from ampconvert.verify.search import blame

    last = attempts[-1] if attempts else None
    analysis = step.analysis
    if result.ok:
        if not wanted.fastest or last is None or last.aim is None or len(attempts) >= 3:
            return None
        if last.measured >= ROOM * wanted.tolerance or any(not a.ok for a in attempts):
            return None
        return _towards(clock, analysis, last, wanted, faster=True)
    overflowed = result.verification.first_bad if result.verification else None
    found = {} if _is_rounding(result, last) else blame(analysis.plan, overflowed)
    if found:
        wanted.settled.update(found)
        return replanned(clock, analysis, wanted, last.aim if last else None)
    if last is None or _as_good(result):
        return None
    if analysis.errors is None and wanted.estimate is not None:
        estimated = replace(analysis, errors=wanted.estimate(analysis))
        analysis = with_plan(estimated, analysis.plan)
        last = replace(last, predicted=analysis.summary.predicted_error)
    if not analysis.errors:
        return None
    return _towards(clock, analysis, last, wanted, faster=False)


def _is_rounding(result: Conversion, last: Attempt | None) -> bool:
    """Whether the error is no larger than rounding was expected to make it: then no overflow is to
    blame, and a mask that became minus infinity did what it is for.
    """
    if last is None or result.verification is None:
        return False
    expected = last.trial or last.predicted or 0.0
    finite = all(p.finite for p in result.verification.parities)
    return finite and last.measured <= EXPLAINED * expected


def _towards(
    clock: Clock, analysis: Analysis, last: Attempt, wanted: Search, *, faster: bool
) -> _Step | None:
    """A plan whose error is expected to be just inside the tolerance, by the last measurement."""
    expected = last.trial or (last.predicted if wanted.trial is None or last.aim else None)
    ratio = last.measured / expected if expected else 1.0
    if not 0.01 < ratio < 100:  # the expectation was of another kind of error
        ratio = 1.0
    aim = NEXT_AIM * wanted.tolerance / ratio
    if faster and last.aim is not None and aim <= 1.05 * last.aim:
        return None
    if not faster and (last.aim or wanted.trial is None):
        aim = min(aim, 0.9 * last.aim if last.aim else 0.7 * (last.predicted or aim))
    found = replanned(clock, analysis, wanted, aim)
    return None if found.analysis.plan.compute == analysis.plan.compute else found


def _attempt(result: Conversion, step: _Step) -> Attempt:
    assert result.verification is not None
    summary, plan = result.summary, result.plan
    errors = [p.rel_l2 for p in result.verification.parities]
    return Attempt(
        step.aim,
        summary.predicted_error,
        max(errors, default=0.0),
        summary.predicted_seconds[1] if summary.predicted_seconds else 0.0,
        sum(dtype == FLOAT32 for dtype in plan.compute.values()),
        result.ok,
        step.trial,
        step.trials,
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
