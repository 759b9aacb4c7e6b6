"""Our plans of time and error against the plan of torch.autocast's op lists, by one cost model."""

from __future__ import annotations

import math
from typing import Any

from ampconvert.conversion import Analysis, Tried
from ampconvert.front import Point, front, point_of
from ampconvert.pipeline import convert, pareto
from ampconvert.pipeline_search import Search, problem_of
from ampconvert.plan import Plan, Problem
from benchmarks.analysis.autocast import compute_types
from benchmarks.analysis.subjects import Subject
from benchmarks.zoo.registry import Batch

TARGET = "h100"
DENSE = 64  # points of the front among which rivals of autocast's plan are looked for


def measure(found: Subject, dtype: str) -> dict[str, Any]:
    """Predicted seconds and measured error of the front's plans, of autocast's, and of two rivals
    of that: the most exact plan that is not slower, and the fastest that is not less exact, both as
    predicted.
    """
    sample = found.sample()
    batch = found.wide(sample)
    done = pareto(sample.module, *batch, dtype=dtype, data=[batch], target=TARGET, name=found.name)
    analysis, errors = done.analysis, done.analysis.errors
    assert errors is not None
    problem = problem_of(analysis, Search(1.0))
    plan = problem.with_types(compute_types(analysis.graph, analysis.low))
    auto = point_of(problem, plan, errors)
    dense = front(problem, errors, DENSE)
    rivals = {
        "not slower": min(
            (p for p in dense if p.seconds <= auto.seconds), key=lambda p: p.error, default=None
        ),
        "not less exact": min(
            (p for p in dense if p.error <= auto.error), key=lambda p: p.seconds, default=None
        ),
    }
    measured = {
        name: _row(point, _error(analysis, batch, point.plan, dtype))
        for name, point in rivals.items()
        if point is not None
    }
    rows = [_tried(point) for point in done.points]
    autocast = _row(auto, _error(analysis, batch, plan, dtype))
    return {
        "rows": found.rows or "as in the zoo",
        "float32": done.seconds_full,
        "autocast": autocast,
        "default": _tried(done.default),
        "front": rows,
        "rivals": measured,
        "dominated": any(_dominates(row, autocast) for row in (*rows, *measured.values())),
        "denied": _denied(problem, plan),
    }


def _error(analysis: Analysis, batch: Batch, plan: Plan, dtype: str) -> float:
    """The measured relative L2 error of the worst output, NaN where the plan can't be run."""
    assert analysis.program is not None
    done = convert(analysis.program, *batch, dtype=dtype, data=[batch], plan=plan, target=TARGET)
    parities = done.verification.parities if done.verification else ()
    return max((p.rel_l2 for p in parities), default=math.nan)


def _row(point: Point, measured: float) -> dict[str, Any]:
    return {
        "seconds": point.seconds,
        "predicted": point.error,
        "measured": measured,
        "full": point.full,
        "casts": len(point.plan.casts),
    }


def _tried(tried: Tried) -> dict[str, Any]:
    return _row(tried.point, tried.measured)


def _dominates(ours: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether `ours` is neither slower nor less exact; a plan that gives no finite answer loses."""
    if not math.isfinite(other["measured"]):
        return math.isfinite(ours["measured"])
    return bool(
        ours["seconds"] <= other["seconds"] * (1 + 1e-9) and ours["measured"] <= other["measured"]
    )


def _denied(problem: Problem, plan: Plan) -> int:
    """How many nodes that our verdicts keep in float32 `plan` runs in the low type."""
    decisions = problem.verdicts.decisions
    return sum(t == problem.low and decisions[n].cls == "deny" for n, t in plan.compute.items())
