"""The front of time and error: equal to brute force, and the plan that meets a tolerance."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ampconvert.classify import classify
from ampconvert.cost import load_target
from ampconvert.front import front, measured_within, point_of, within
from ampconvert.graph import Graph
from ampconvert.plan import Plan, Problem
from ampconvert.rules import LOWS, OpRule, RuleBook
from tests.graphs import graph

RULES = (
    OpRule("allow", dict.fromkeys(LOWS, "allow"), "test", aten=("matmul",), work="matmul"),
    OpRule("deny", dict.fromkeys(LOWS, "deny"), "test", aten=("pow",)),
    OpRule("rest", dict.fromkeys(LOWS, "infer"), "test", nodes=("*",)),
)
SHAPES = [(512, 512), (2048, 2048), (64, 64)]


@st.composite
def problems(draw: st.DrawFn) -> tuple[Graph, dict[str, float]]:
    """Up to seven operators on values of several sizes, and errors of very different sizes."""
    count = draw(st.integers(1, 7))
    made, lines, shapes = ["x"], [], {"x": draw(st.sampled_from(SHAPES))}
    for i in range(count):
        op = draw(st.sampled_from(["matmul", "add", "relu", "pow"]))
        reads = [draw(st.sampled_from(made)) for _ in range(2 if op in ("matmul", "add") else 1)]
        if op == "matmul" and draw(st.booleans()):
            reads[1] = "w"
        lines.append(f"v{i} = {op}({', '.join(reads)})")
        shapes[f"v{i}"] = draw(st.sampled_from(SHAPES))
        made.append(f"v{i}")
    built = graph(*lines, outputs=made[-1], weights={"w": [[1.0]]}, shapes=shapes)
    powers = st.integers(-12, -4)
    errors = {name: 10.0 ** draw(powers) for name in built.values}
    return built, errors


def problem_of(built: Graph) -> Problem:
    verdicts = classify(built, RuleBook(RULES), "float16")
    return Problem(built, verdicts, "float16", load_target())


def every_point(
    problem: Problem, errors: dict[str, float], keen: bool = False
) -> list[tuple[float, float]]:
    """(cost, error) of every choice of types that the denials leave."""
    free = [n for n in problem.floats if problem.verdicts.decisions[n].cls != "deny"]
    found = []
    for types in itertools.product(("float16", "float32"), repeat=len(free)):
        compute = dict.fromkeys(problem.floats, "float32") | dict(zip(free, types, strict=True))
        point = point_of(problem, problem.with_types(compute), errors, keen)
        found.append((point.cost, point.error))
    return found


@settings(deadline=None, max_examples=60)
@given(problems())
def test_no_plan_beats_a_corner_of_the_front(case: tuple[Graph, dict[str, float]]) -> None:
    built, errors = case
    problem = problem_of(built)
    found = front(problem, errors)
    everything = every_point(problem, errors)
    fastest = min(t for t, _ in everything)
    assert found[0].cost == pytest.approx(fastest, rel=1e-6)
    for point in found:
        better = [
            (t, e) for t, e in everything
            if t <= point.cost * (1 - 1e-6) and e <= point.error * (1 - 1e-6)
        ]  # fmt: skip
        assert not better
    errors_found = [p.error for p in found]
    assert errors_found == sorted(errors_found, reverse=True)


@settings(deadline=None, max_examples=60)
@given(problems(), st.floats(-7, -2))
def test_a_tolerance_is_met_where_any_plan_meets_it(
    case: tuple[Graph, dict[str, float]], power: float
) -> None:
    built, errors = case
    problem = problem_of(built)
    aim = 10.0**power
    plan = within(problem, errors, aim)
    found = point_of(problem, plan, errors, keen=True)
    good = [t for t, e in every_point(problem, errors, keen=True) if e <= aim]
    assert (found.error <= aim) == bool(good)
    if good:  # the best of all is a corner of the hull, or near one, or this one is faster
        keen = min(good)
        plain = min(t for t, e in every_point(problem, errors) if e <= aim)
        assert found.cost <= 1.5 * keen or found.seconds - problem.launches <= 1.5 * plain


def test_the_exact_end_rounds_nothing() -> None:
    calls = ["y0 = matmul(x, w)", *(f"y{i} = matmul(y{i - 1}, w)" for i in range(1, 15))]
    sizes = dict.fromkeys(["x", *(f"y{i}" for i in range(15))], (4096, 4096))
    built = graph(*calls, outputs="y14", weights={"w": [[1.0]]}, shapes=sizes)
    problem = problem_of(built)
    errors = {name: 1e-8 * (i + 1) for i, name in enumerate(built.values)}
    points = front(problem, errors)
    assert points[-1].error == 0.0
    assert points[-1].full == 15
    assert points[0].full == 0


def test_a_value_that_overflows_is_in_no_plan() -> None:
    built = graph("a = relu(x)", "b = relu(a)", outputs="b")
    problem = problem_of(built)
    points = front(problem, {"x": 1e-8, "a": math.inf, "b": 1e-8})
    assert all(p.plan.compute["a"] == "float32" for p in points)
    assert all(math.isfinite(p.error) for p in points)


def test_what_the_user_insists_on_stays_low() -> None:
    built = graph("a = matmul(x, w)", outputs="a", weights={"w": [[1.0]]})
    rule = OpRule("mine", dict.fromkeys(LOWS, "allow"), "test", aten=("matmul",), user=True)
    verdicts = classify(built, RuleBook((rule, *RULES)), "float16")
    problem = Problem(built, verdicts, "float16", load_target())
    errors = {"x": 1.0, "w": math.inf, "a": 1.0}
    assert within(problem, errors, 1e-3).compute["a"] == "float16"


def test_the_reason_says_what_the_budget_was() -> None:
    built = graph("a = matmul(x, w)", "b = matmul(a, w)", outputs="b", weights={"w": [[1.0]]})
    problem = problem_of(built)
    plan = within(problem, {"a": 1e-2, "b": 1e-2, "x": 1e-9, "w": 1e-9}, 1e-3)
    assert plan.compute["a"] == "float32"
    assert plan.decisions["a"].rule == "tolerance"
    assert plan.decisions["a"].evidence == "search"
    assert "0.001" in plan.decisions["a"].reason


@settings(deadline=None, max_examples=40)
@given(problems(), st.floats(-7, -2), st.floats(0.2, 5.0))
def test_a_trial_overrules_the_prediction(
    case: tuple[Graph, dict[str, float]], power: float, off: float
) -> None:
    """Predictions are off by a factor: what the trial shows is what counts."""
    built, errors = case
    problem = problem_of(built)
    limit = 10.0**power
    made: list[Plan] = []

    def trial(plan: Plan) -> float:
        made.append(plan)
        return off * point_of(problem, plan, errors).error

    found = measured_within(problem, errors, limit, trial)
    if found is not None:
        assert found.error <= limit
        assert found.error == pytest.approx(off * point_of(problem, found.plan, errors).error)
        assert "float16" in found.plan.compute.values()
        assert found.runs == len(made) == len({tuple(p.compute.items()) for p in made})
    default = problem.plan()
    if "float16" in default.compute.values() and trial(default) <= limit:
        assert found is not None
