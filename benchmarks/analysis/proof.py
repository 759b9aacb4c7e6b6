"""What is proved of a model's ranges, how loose the bounds are, and whether inputs break one.

Two proofs: for the plan that a conversion takes, which is what a report shows, and for any plan at
all, which rests on nothing that is kept in float32. The second one's bounds are attacked.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from ampconvert.dtypes import parse_low
from ampconvert.frontends.fx_apply import TORCH
from ampconvert.pipeline import analyze
from ampconvert.plan import touches_float32
from ampconvert.ranges.prove import Bound, prove
from benchmarks.analysis.attacks import Attack, Seen
from benchmarks.analysis.subjects import Subject, declared, tensors

CHECKED = 10_000  # results of ops held against their bounds, at least
CLIMBS = 100
LIMIT_S = 240.0  # for all attacks on one model


def measure(found: Subject, dtype: str) -> dict[str, Any]:
    """Ops proved, the bounds' slack over the largest magnitude that any run showed, and how many
    values went outside their bounds.
    """
    low, sample = parse_low(dtype), found.sample()
    args, kwargs = sample.batches[0]
    captured = analyze(sample.module, args, kwargs, dtype=dtype, data=sample.batches[:1])
    spans = declared(found, list(captured.graph.inputs), sample.batches)
    analysis = analyze(sample.module, args, kwargs, dtype=dtype, data=sample.batches, prove=spans)
    graph, program, planned = analysis.graph, analysis.program, analysis.proof
    assert program is not None and planned is not None
    start = time.perf_counter()
    proof = prove(graph, spans, low)
    seconds = time.perf_counter() - start
    seen = Seen()
    attack = Attack(program, spans, tensors(sample.batches[0]), seen, TORCH[low])
    for batch in sample.batches:
        attack.given(tensors(batch))
    _attack(attack, seen, [node.name for node in graph.nodes if touches_float32(graph, node)])
    floats = [node for node in graph.nodes if touches_float32(graph, node)]
    broken = [n for n, bound in proof.bounds.items() if n in seen.lo and _outside(bound, seen, n)]
    slack = [_slack(proof.bounds.get(n), seen.largest(n)) for n in seen.lo if seen.largest(n)]
    return {
        "declared": found.why,
        "ranges": {name: list(span) for name, span in spans.items()},
        "ops": len(floats),
        "proved": sum(planned.proved(graph, node) for node in floats),
        "proved_any": sum(proof.proved(graph, node) for node in floats),
        "seconds": seconds,
        "slack_median": _quantile(slack, 0.5),
        "slack_p90": _quantile(slack, 0.9),
        "tensors": seen.tensors,
        "violations": len(broken),
        "broken": broken[:5],
    }


def _attack(attack: Attack, seen: Seen, names: Sequence[str]) -> None:
    """Climbs on values drawn from `names`, and random runs until enough has been checked."""
    rng, start = np.random.default_rng(0), time.perf_counter()

    def in_time() -> bool:
        return time.perf_counter() - start < LIMIT_S

    for name in rng.choice(list(names), CLIMBS) if names else ():
        if in_time():
            attack.climb(str(name))
    while seen.tensors < CHECKED and in_time():
        attack.random()


def _outside(bound: Bound, seen: Seen, name: str) -> bool:
    """Whether any run went beyond a bound; masked elements have one of their own."""
    least = bound.lo if bound.hidden is None else min(bound.lo, bound.hidden)
    return seen.lo[name] < least or seen.hi[name] > bound.hi


def _slack(bound: Bound | None, largest: float) -> float:
    """The bound's magnitude over what was seen; infinite where there is none."""
    return math.inf if bound is None else max(-bound.lo, bound.hi) / largest


def _quantile(slack: Sequence[float], share: float) -> float | None:
    """None where it is infinite."""
    found = sorted(slack)[min(len(slack) - 1, int(share * len(slack)))] if slack else math.inf
    return found if math.isfinite(found) else None
