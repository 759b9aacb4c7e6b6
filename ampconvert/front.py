"""The front of time against error, and the fastest plan predicted to stay inside a tolerance.

A plan has a predicted time t and a predicted squared error e. For each price of error there is one
minimum cut, and the plans that some price makes best are the corners of the convex hull of all
(e, t). Between two corners the price at which both cost the same either finds a corner between them
or proves that there is none (Aneja and Nair, Management Science 25(1), 1979); so a search for one
tolerance takes a handful of cuts and a whole front a few times as many. What lies inside the hull
no price finds: from the corner inside the tolerance, blocks of operators are put back into `low`
while the prediction holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ampconvert.classify import Decision
from ampconvert.graph import Graph
from ampconvert.plan import FLOAT32, Plan, Problem, low_is_unused
from ampconvert.summary import op_errors

CUTS = 40  # at most, for the price of error that meets a tolerance
TRIES = 24  # blocks that may be put back
CORNERS = 20  # cuts for the corners that are tried
TRIALS = 12  # blocks that are put back by trial
POINTS = 10  # of a front, evenly spread over the logarithm of the error
EXCLUDED = 1.0  # a squared relative error from which on a rounding is in no plan of a front


Trial = Callable[[Plan], float]  # the relative L2 error of the worst output, by a quick run


@dataclass(frozen=True)
class Point:
    """One plan of a front: seconds that one run is predicted to take, relative L2 error of the
    outputs, and how many operators on floats it keeps in float32.

    `cost` is what plans are compared by: the seconds without what no choice of types changes, the
    launches of operators, and in a search for a tolerance also what
    `Problem.bonus` says of FP16-safe operators that are kept in float32.
    """

    plan: Plan
    seconds: float
    error: float
    full: int
    cost: float


def point_of(
    problem: Problem, plan: Plan, errors: Mapping[str, float], keen: bool = False
) -> Point:
    """Where `plan` lies: its predicted time and error."""
    energy = sum(op_errors(problem.graph, plan, errors).values())
    full = [name for name, dtype in plan.compute.items() if dtype == FLOAT32]
    seconds = problem.seconds(plan)
    cost = seconds - problem.launches + (sum(map(problem.bonus, full)) if keen else 0.0)
    return Point(plan, seconds, math.sqrt(energy), len(full), cost)


def front(problem: Problem, errors: Mapping[str, float], points: int = POINTS) -> tuple[Point, ...]:
    """At most so many plans, fastest first, none of which another beats.

    The ends are the fastest plan and the most exact one that the verdicts allow. `errors` is the
    squared relative output error of rounding each value.
    """
    corners = _corners(_Cuts(problem, errors, EXCLUDED), CUTS)
    default = point_of(problem, problem.plan(), errors)
    return _thinned(_undominated([*corners, default]), points)


def within(problem: Problem, errors: Mapping[str, float], aim: float) -> Plan:
    """The fastest plan that is predicted to have a relative error of at most `aim`.

    `errors` is the squared relative output error of rounding each value; one that alone is above
    the aim is never rounded. Where even the most exact plan is predicted to miss, that one is
    returned. FP16-safe operators are given up for their error alone: in a small model a cast takes
    longer to start than a product saves, and who asks for `low` does not mean none. A faster plan
    that gives up more of them is taken all the same, unless it uses `low` nowhere.
    """
    keen = _within(_Cuts(problem, errors, aim**2, keen=True), aim)
    plain = _within(_Cuts(problem, errors, aim**2), aim)
    faster = plain.seconds < keen.seconds and not low_is_unused(plain.plan)
    best = plain if plain.error <= aim and (faster or keen.error > aim) else keen
    return explained(problem, best.plan, errors, aim)


def _within(cuts: _Cuts, aim: float) -> Point:
    """The cheapest plan inside `aim`: the corner of the hull there, and what can be put back."""
    fast, exact = cuts.fastest(), cuts.exact()
    if fast.error <= aim:
        return fast
    while exact.error <= aim and cuts.made < CUTS:
        between = cuts.between(fast, exact)
        if between is None:
            break
        if between.error <= aim:
            exact = between
        else:
            fast = between
    return _put_back(cuts, exact, fast, aim) if exact.error <= aim else exact


def measured_within(
    problem: Problem, errors: Mapping[str, float], limit: float, trial: Trial
) -> Trialled | None:
    """The fastest plan whose trial shows an error of at most `limit`; None where none does.

    The corners of the hull are tried by halves, since their errors fall along it, and then blocks
    of operators are put back into `low` while the trial holds, those first that save most for the
    error they are predicted to cost: up to TRIALS runs.
    """
    runs = _Runs(trial)
    best: Point | None = None
    for keen in (False, True):
        cuts = _Cuts(problem, errors, EXCLUDED, keen=keen)
        found = _first_inside(_corners(cuts, CORNERS), limit, runs)
        if found is None:
            continue
        tried = _put_back_measured(cuts, *found, limit, runs)
        if not low_is_unused(tried.plan) and (best is None or tried.seconds < best.seconds):
            best = tried
    if best is None:
        return None
    return Trialled(explained(problem, best.plan, errors, limit), runs.error(best.plan), runs.made)


@dataclass(frozen=True)
class Trialled:
    """A plan, the error that its trial showed, and how many trials it took to find it."""

    plan: Plan
    error: float
    runs: int


class _Runs:
    """Trials that were made; none is made twice."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.known: dict[tuple[tuple[str, str], ...], float] = {}

    def error(self, plan: Plan) -> float:
        key = tuple(sorted(plan.compute.items()))
        if key not in self.known:
            self.known[key] = self.trial(plan)
        return self.known[key]

    @property
    def made(self) -> int:
        return len(self.known)


def _corners(cuts: _Cuts, most: int) -> list[Point]:
    """Corners of the hull from the fastest to the most exact, evenly over the error."""
    corners = [cuts.fastest(), cuts.exact()]
    open_pairs = [(corners[0], corners[1])]
    while open_pairs and cuts.made < most:
        pair = max(open_pairs, key=lambda ends: _gap(*ends))
        open_pairs.remove(pair)
        between = cuts.between(*pair)
        if between is not None:
            corners.append(between)
            open_pairs += [(pair[0], between), (between, pair[1])]
    return sorted(corners, key=lambda p: -p.error)


def _first_inside(
    corners: Sequence[Point], limit: float, runs: _Runs
) -> tuple[Point, Point | None] | None:
    """The first corner whose trial holds, and the faster one before it."""
    low, high = 0, len(corners)
    while low < high:
        middle = (low + high) // 2
        if runs.error(corners[middle].plan) <= limit:
            high = middle
        else:
            low = middle + 1
    if low == len(corners):
        return None
    return corners[low], corners[low - 1] if low else None


def _put_back_measured(
    cuts: _Cuts, start: Point, fast: Point | None, limit: float, runs: _Runs
) -> Point:
    """`start`, with blocks that `fast` runs in `low` put back while trials hold."""
    best = start
    if fast is None:
        return best
    blocks = _blocks(cuts.problem.graph, start.plan, fast.plan)
    everything = replace(start.plan, compute=dict.fromkeys(start.plan.compute, start.plan.low))
    energy = op_errors(cuts.problem.graph, everything, cuts.errors)

    def worth(block: tuple[str, ...]) -> float:
        """Seconds saved for the error that it is predicted to cost."""
        cost = sum(energy.get(name, 0.0) for name in block)
        return _seconds_saved(cuts.problem, block) / max(cost, 1e-30)

    for block in sorted(blocks, key=worth, reverse=True)[:TRIALS]:
        compute = {**best.plan.compute, **dict.fromkeys(block, best.plan.low)}
        found = cuts.point(cuts.problem.with_types(compute))
        if found.cost < best.cost and runs.error(found.plan) <= limit:
            best = found
    return best


class _Cuts:
    """Plans of one problem by the price of error, and how many were solved for."""

    def __init__(
        self, problem: Problem, errors: Mapping[str, float], limit: float, keen: bool = False
    ) -> None:
        self.problem = problem
        self.keen = keen
        self.errors = errors
        self.limit = limit
        self.made = 0

    def fastest(self) -> Point:
        return self.at(0.0)

    def exact(self) -> Point:
        """The plan with the least error; among those the fastest, as far as doubles can tell."""
        finite = [e for e in self.errors.values() if 0 < e <= self.limit]
        nodes = self.problem.floats.values()
        seconds = sum(self.problem.target.launch for _ in nodes) + self.fastest().cost
        return self.at(1e4 * seconds / max(finite, default=1.0))

    def at(self, penalty: float) -> Point:
        self.made += 1
        plan = self.problem.plan(self.errors, penalty, free=True, keen=self.keen, limit=self.limit)
        return self.point(plan)

    def point(self, plan: Plan) -> Point:
        return point_of(self.problem, plan, self.errors, self.keen)

    def between(self, fast: Point, exact: Point) -> Point | None:
        """A corner of the hull between two; None where there is none."""
        gained = fast.error**2 - exact.error**2
        if gained <= 0 or exact.cost <= fast.cost:
            return None
        price = (exact.cost - fast.cost) / gained
        found = self.at(price)
        cost = found.cost + price * found.error**2
        line = fast.cost + price * fast.error**2
        new = fast.error > found.error > exact.error
        return found if new and cost < line * (1 - 1e-9) else None


def _put_back(cuts: _Cuts, start: Point, fast: Point, aim: float) -> Point:
    """`start`, with blocks that `fast` runs in `low` put back while the error stays inside."""
    best = start
    blocks = _blocks(cuts.problem.graph, start.plan, fast.plan)
    saved = {block: _seconds_saved(cuts.problem, block) for block in blocks}
    for block in sorted(blocks, key=lambda b: -saved[b])[:TRIES]:
        compute = {**best.plan.compute, **dict.fromkeys(block, best.plan.low)}
        found = cuts.point(cuts.problem.with_types(compute))
        if found.error <= aim and found.cost < best.cost:
            best = found
    return best


def _seconds_saved(problem: Problem, block: Iterable[str]) -> float:
    return sum(problem.saved(name) + problem.bonus(name) for name in block)


def _blocks(graph: Graph, exact: Plan, fast: Plan) -> list[tuple[str, ...]]:
    """Groups of neighbours that run in float32 in one plan and in `low` in the other.

    A block alone in its float32 island has to move as a whole: half of it would only be rounded at
    two more places. Single operators of large blocks are tried as well, after them.
    """
    moved = {n for n, t in exact.compute.items() if t == FLOAT32 != fast.compute.get(n, FLOAT32)}
    group = {name: name for name in moved}

    def root(name: str) -> str:
        while group[name] != name:
            name = group[name]
        return name

    links = [[n for n in tie if n in moved] for tie in graph.ties]
    for value, readers in graph.readers.items():
        maker = graph.producers.get(value)
        near = [*(r.name for r, _ in readers), *([maker.name] if maker else [])]
        links.append([name for name in near if name in moved])
    for linked in links:
        for name in linked[1:]:
            group[root(name)] = root(linked[0])
    blocks: dict[str, list[str]] = {}
    for name in (n.name for n in graph.nodes if n.name in moved):
        blocks.setdefault(root(name), []).append(name)
    tied = {name for tie in graph.ties for name in tie}
    single = [(n,) for block in blocks.values() if len(block) > 1 for n in block if n not in tied]
    return [*map(tuple, blocks.values()), *single]


def explained(problem: Problem, plan: Plan, errors: Mapping[str, float], aim: float) -> Plan:
    """`plan`, where the decision of each node that error alone keeps in float32 says so."""
    everything = replace(plan, compute=dict.fromkeys(plan.compute, plan.low))
    alone = op_errors(problem.graph, everything, errors)
    otherwise = problem.plan().compute
    priced = f"Its rounding costs more of the error budget of {aim:.2g} than it saves time."
    dear = f"Its rounding alone is predicted to cost more than the error budget of {aim:.2g}."

    def told(name: str, decision: Decision) -> Decision:
        if plan.compute.get(name) != FLOAT32 or otherwise.get(name) == FLOAT32:
            return decision
        found = denied(decision, "tolerance", dear if alone.get(name, 0.0) > aim**2 else priced)
        return found if decision.cls == "allow" else replace(found, cls=decision.cls)

    return replace(plan, decisions={n: told(n, d) for n, d in plan.decisions.items()})


def denied(decision: Decision, rule: str, reason: str, figure: float | None = None) -> Decision:
    """`decision` as a deny that the search settled."""
    return replace(
        decision, cls="deny", rule=rule, reason=reason, source="", evidence="search", figure=figure
    )


def _gap(fast: Point, exact: Point) -> float:
    """How much of the error's range lies between two points, on a logarithmic scale."""
    return math.log(max(fast.error, 1e-30) / max(exact.error, 1e-30)) if fast.error else 0.0


def _undominated(points: Iterable[Point]) -> list[Point]:
    """Fastest first, each more exact than all before it."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, p.error, p.full)):
        if not kept or point.error < kept[-1].error:
            kept.append(point)
    return kept


def _thinned(points: list[Point], count: int) -> tuple[Point, ...]:
    """At most `count` of `points`, both ends among them, spread over the logarithm of the error."""
    if len(points) <= count:
        return tuple(points)
    place: Callable[[Point], float] = lambda p: -math.log(max(p.error, 1e-30))  # noqa: E731
    first, last = place(points[0]), place(points[-1])
    chosen: list[Point] = []
    for i in range(count):
        wanted = first + (last - first) * i / (count - 1)
        nearest = min(points, key=lambda p: abs(place(p) - wanted))
        if nearest not in chosen:
            chosen.append(nearest)
    return tuple(chosen)
