"""What is known of a model beside its plan: proofs, hazards, and the safety of each operator."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ampconvert.classify import weight_ranges
from ampconvert.conversion import Analysis, Proving, Request
from ampconvert.errors import UserError
from ampconvert.graph import Graph
from ampconvert.pipeline_steps import Clock, decide, uncollected
from ampconvert.plan import FLOAT32
from ampconvert.ranges.calibrate import Range
from ampconvert.ranges.prove import Assumption

if TYPE_CHECKING:
    from ampconvert.ranges.prove import Proof


def proving(
    declared: Mapping[str, tuple[float, float]] | None, assume: Sequence[str]
) -> Proving | None:
    """What a proof is asked to rest on; None where none is asked for.

    Contracts are written PATTERN<=LIMIT. Raises UserError for one that is not.
    """
    if declared is None:
        if assume:
            raise UserError(f"the contract {assume[0]!r} is for a proof, and none is asked for")
        return None
    return Proving(declared, tuple(map(_assumption, assume)))


def _assumption(text: str) -> Assumption:
    pattern, sign, limit = text.rpartition("<=")
    try:
        number = float(limit)
    except ValueError:
        number = -1.0
    if not sign or not pattern.strip() or not 0 <= number < math.inf:
        raise UserError(f"{text!r} is no contract: write PATTERN<=LIMIT, as in 'layers.3*<=100'")
    return Assumption(pattern.strip(), number)


def proof_of(
    clock: Clock,
    graph: Graph,
    request: Request,
    ranges: Mapping[str, Range],
    opset: int | None = None,
) -> Proof | None:
    """The bounds of every value for the inputs that `request` declares; None where none is asked.

    What a rule or the user keeps in float32 is never rounded, whatever else is found out: that much
    of the plan a proof may rest on.
    """
    if request.proving is None:
        return None
    from ampconvert.ranges.prove import prove

    low, asked = request.low, request.proving
    with clock.stage("prove"), uncollected():
        verdicts, _ = decide(graph, low, request.rules, ranges, {}, request.target, opset)
        settled = ("rule", "user")
        kept = {n for n, d in verdicts.decisions.items()
                if d.cls == "deny" and d.evidence in settled}  # fmt: skip
        return prove(graph, asked.declared, low, asked.assumptions, ranges, kept=kept)


def with_evidence(clock: Clock, analysis: Analysis) -> Analysis:
    """`analysis` with the hazards of its model, how its plan has dealt with each, and the safety of
    every operator.

    A proof is made once more for the plan at hand: what that keeps in float32 is not rounded.
    """
    from ampconvert import hazards
    from ampconvert.ranges.safety import safety

    graph, low = analysis.graph, analysis.low
    analysis = _proved_again(clock, analysis)
    with clock.stage("hazards"), uncollected():
        ranges = {**analysis.ranges, **weight_ranges(graph, analysis.ranges, low)}
        found = hazards.find(graph, low, ranges, analysis.plan)
        levels = safety(graph, analysis.proof, ranges, low, analysis.plan.masks)
    return replace(analysis, findings=found, safety=levels)


def _proved_again(clock: Clock, analysis: Analysis) -> Analysis:
    if analysis.proof is None or analysis.proving is None:
        return analysis
    from ampconvert.ranges.prove import prove

    asked, plan = analysis.proving, analysis.plan
    kept = {name for name, dtype in plan.compute.items() if dtype == FLOAT32}
    with clock.stage("prove"), uncollected():
        proof = prove(
            analysis.graph, asked.declared, analysis.low, asked.assumptions, analysis.ranges,
            kept=kept,
        )  # fmt: skip
    return replace(analysis, proof=proof)
