"""Repairs of a model: what each is predicted to gain, and conversions of the repaired model.

A repaired model is looked at like any other: read, calibrated, judged and planned again. What a
repair makes fit for `low` loses its denial; the plan decides then, by time and error as always.
Parity is always that with the model as it was given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from ampconvert.classify import Decision, weight_ranges
from ampconvert.conversion import Analysis, Conversion, Offer
from ampconvert.cost import target_named
from ampconvert.errors import UserError
from ampconvert.front import denied
from ampconvert.pipeline_search import Check, Search, replanned, search
from ampconvert.pipeline_steps import Clock
from ampconvert.plan import Plan
from ampconvert.ranges.calibrate import Range
from ampconvert.repairs import Declined, Repair, declined_all, find_all
from ampconvert.repairs.correct_bias import KIND as CORRECT_BIAS
from ampconvert.repairs.correct_bias import OutputError, correctable
from ampconvert.repairs.find import KINDS
from ampconvert.repairs.repair import from_dict, to_dict

ALL = (*KINDS, CORRECT_BIAS)
USELESS = "neither error nor time is predicted to gain by it, and no operator is freed"
ROUNDS = 2  # a repaired formula may be repaired once more: a two-pass variance has squares


class Ways(Protocol):
    """How one front end rewrites a model and looks at it again."""

    def again(self, analysis: Analysis, repairs: Sequence[Repair]) -> Analysis:
        """The analysis of the model with `repairs` made."""

    def output_errors(
        self, analysis: Analysis, channels: Mapping[str, int]
    ) -> Mapping[str, OutputError]:
        """How far layers are off in `low`, per channel, on half of the data."""


def kinds_of(asked: bool | Sequence[str]) -> tuple[str, ...]:
    """The kinds of repair that were asked for; UserError names what there is."""
    if isinstance(asked, bool):
        return ALL if asked else ()
    unknown = [kind for kind in asked if kind not in ALL]
    if unknown:
        raise UserError(f"no repair is called {unknown[0]!r}: there are {', '.join(ALL)}")
    return tuple(asked)


def stored_repairs(plan: Plan) -> tuple[Repair, ...]:
    """The repairs that a saved plan was made with; UserError where they can't be read."""
    try:
        return tuple(from_dict(entry) for entry in plan.repairs)
    except ValueError as error:
        raise UserError(f"the plan is damaged: {error}") from error


def search_repaired(
    clock: Clock,
    analysis: Analysis,
    check: Check,
    wanted: Search,
    ways: Ways,
    kinds: Sequence[str],
) -> Conversion:
    """The conversion of the repaired model, or of the model as it is where that is better."""
    mended, own = _mended(clock, analysis, wanted, ways, kinds)
    result = search(clock, mended, check, own)
    if mended.repairs and not result.ok:
        plain = search(clock, analysis, check, wanted)
        if plain.ok or _error(plain) < _error(result):
            names = ", ".join(sorted({repair.kind for repair in mended.repairs}))
            return _told(plain, f"The repairs {names} were tried and left out: they did not help.")
    if CORRECT_BIAS in kinds:
        result = _bias_corrected(clock, result, check, own, ways)
    if not result.analysis.repairs:
        return _told(result, "No repair that was asked for applies to this model.")
    stored = tuple(to_dict(repair) for repair in result.analysis.repairs)
    plan = replace(result.plan, repairs=stored)
    return replace(result, analysis=replace(result.analysis, plan=plan))


def with_offers(clock: Clock, analysis: Analysis, ways: Ways, wanted: Search) -> Analysis:
    """`analysis` with the repairs that are predicted to gain something, and the places that have
    none.
    """
    offers = _offers(clock, analysis, ways, wanted, tuple(KINDS))
    graph, low = analysis.graph, analysis.low
    declined = declined_all(graph, low, _ranges(analysis), target_named(analysis.target))
    useless = tuple(
        Declined(repair.kind, repair.nodes, USELESS, repair.where)
        for offer in offers
        if not offer.gains
        for repair in offer.repairs
    )
    kept = tuple(offer for offer in offers if offer.gains)
    return replace(analysis, offers=kept, declined=(*declined, *useless))


def useful_kinds(
    clock: Clock, analysis: Analysis, ways: Ways, wanted: Search, kinds: Sequence[str]
) -> tuple[str, ...]:
    """Those of `kinds` that are predicted to gain something; that of biases shows by its parity."""
    offers = _offers(clock, analysis, ways, wanted, kinds)
    useful = tuple(offer.kind for offer in offers if offer.gains)
    return (*useful, CORRECT_BIAS) if CORRECT_BIAS in kinds else useful


def _offers(
    clock: Clock, analysis: Analysis, ways: Ways, wanted: Search, kinds: Sequence[str]
) -> list[Offer]:
    found = _found(analysis, kinds)
    offers = []
    for kind in dict.fromkeys(repair.kind for repair in found):
        chosen = tuple(repair for repair in found if repair.kind == kind)
        mended, _ = _mended(clock, analysis, wanted, ways, (kind,))
        offers.append(_offer(kind, chosen, analysis, mended))
    return offers


def _mended(
    clock: Clock, analysis: Analysis, wanted: Search, ways: Ways, kinds: Sequence[str]
) -> tuple[Analysis, Search]:
    """The analysis of the repaired model, and the search with what the repairs settle."""
    own = replace(wanted, settled=dict(wanted.settled))
    made: list[Repair] = []
    for _ in range(ROUNDS):
        found = _found(analysis, kinds)
        if not found:
            break
        made += found
        analysis = ways.again(analysis, found)
    decisions = analysis.plan.decisions
    for repair in made:
        for name in repair.allows:
            if name in decisions and decisions[name].cls == "deny":
                own.settled[name] = _allowed(decisions[name], repair)
        for name in repair.keeps:
            if name in decisions:
                own.settled[name] = denied(decisions[name], f"repair:{repair.kind}", repair.reason)
    if made:
        analysis = replanned(clock, replace(analysis, repairs=tuple(made)), own, None).analysis
    return analysis, own


def _found(analysis: Analysis, kinds: Sequence[str]) -> tuple[Repair, ...]:
    """The repairs of these kinds that the model as it is now has a place for."""
    found = find_all(analysis.graph, analysis.low, _ranges(analysis), target_named(analysis.target))
    return tuple(repair for repair in found if repair.kind in kinds)


def _ranges(analysis: Analysis) -> dict[str, Range]:
    known = analysis.ranges
    return {**known, **weight_ranges(analysis.graph, known, analysis.low)}


def _allowed(decision: Decision, repair: Repair) -> Decision:
    """`decision` without its denial: the cut decides."""
    if decision.cls != "deny" or decision.evidence == "user":
        return decision
    return replace(
        decision, cls="infer", rule=f"repair:{repair.kind}", reason=repair.reason, source="",
        evidence="search", figure=None,
    )  # fmt: skip


def _offer(kind: str, repairs: tuple[Repair, ...], before: Analysis, after: Analysis) -> Offer:
    def seconds(analysis: Analysis) -> float:
        known = analysis.summary.predicted_seconds
        return known[1] if known else 0.0

    return Offer(
        kind,
        repairs,
        (before.summary.predicted_error, after.summary.predicted_error),
        (seconds(before), seconds(after)),
        (before.plan.count("deny"), after.plan.count("deny")),
    )


def _bias_corrected(
    clock: Clock, result: Conversion, check: Check, wanted: Search, ways: Ways
) -> Conversion:
    """`result` with its biases corrected, where the measured error is less for it."""
    analysis = result.analysis
    graph, low, plan = analysis.graph, analysis.low, analysis.plan
    channels = {n: axis for n, axis in correctable(graph, low).items()
                if plan.compute.get(n) == low}  # fmt: skip
    with clock.stage("correct bias"):
        errors = ways.output_errors(analysis, channels)
        found = find_all(graph, low, _ranges(analysis), target_named(analysis.target), errors)
        found = tuple(repair for repair in found if repair.kind == CORRECT_BIAS)
    if not found:
        return result
    made = (*analysis.repairs, *found)
    corrected = replace(ways.again(analysis, found), repairs=made)
    corrected = replanned(clock, corrected, wanted, None).analysis
    once = search(clock, corrected, check, replace(wanted, repair=False))
    if once.ok >= result.ok and _error(once) < _error(result):
        return replace(once, attempts=(*result.attempts, *once.attempts))
    return replace(result, attempts=(*result.attempts, *once.attempts))


def _error(result: Conversion) -> float:
    parities = result.verification.parities if result.verification else ()
    return max((p.rel_l2 for p in parities), default=float("inf"))


def _told(result: Conversion, note: str) -> Conversion:
    analysis = result.analysis
    return replace(result, analysis=replace(analysis, notes=(*analysis.notes, note)))
