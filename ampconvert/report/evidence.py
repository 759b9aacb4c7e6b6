"""Sections of a report that say how much is known: proofs, measured errors, repairs, loss scale."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import median
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from ampconvert.report.layout import BLANK, QUIET, WARN, bullets, heading, indented, table
from ampconvert.report.words import (
    duration,
    figure,
    listed,
    percent,
    plural,
    short_op,
    type_name,
)

if TYPE_CHECKING:
    from ampconvert.conversion import Analysis, Conversion, Offer
    from ampconvert.graph import Node
    from ampconvert.ranges.safety import Level, Safety

LEVELS: tuple[Level, ...] = ("PROVED", "CALIBRATED", "AT RISK")
SHOWN = 8  # rows of a table; the rest is counted
TAIL = 40  # characters of a module path


def safety(found: Analysis) -> Iterator[RenderableType]:
    """How many operators can't overflow, and why the others might."""
    if not found.safety:
        return
    counts = Counter(one.level for one in found.safety.values())
    shown = ", ".join(f"{counts[level]:,} {level}" for level in LEVELS if counts[level])
    yield BLANK
    yield heading("Overflow", f"in {type_name(found.low)}: {shown}")
    if found.proof is not None:
        yield indented(Text(_proved(found)))
    risky = [one for one in found.safety.values() if one.level == "AT RISK"]
    kept = [one for one in risky if found.plan.compute.get(one.node) != found.low]
    if risky:
        told = [_risk_line(found, one) for one in _risky_first(found, risky)[:SHOWN]]
        yield indented(bullets(told))
        rest = len(risky) - min(len(risky), SHOWN)
        words = [f"and {rest} more"] if rest else []
        words += [f"{len(kept)} of the {len(risky)} are kept in FP32"] if kept else []
        if words:
            yield indented(Text(f"{'; '.join(words)}.", style=QUIET))
    yield from _domains(found)


def _proved(found: Analysis) -> str:
    proof = found.proof
    assert proof is not None
    proved = [one for one in found.safety.values() if one.level == "PROVED"]
    share = percent(len(proved) / max(1, len(found.safety)))
    slacks = [one.slack for one in proved if one.slack and math.isfinite(one.slack)]
    slack = f"; bounds are {median(slacks):.2g} times what was seen (median)" if slacks else ""
    low = type_name(found.low)
    text = (
        f"{share} of the operators are proved: under this plan no input within the declared "
        f"ranges can overflow them in {low}{slack}. Took {duration(proof.seconds)}."
    )
    for pattern, values in proof.assumed.items():
        text += f" Assumed: {pattern} stays within its contract ({plural(len(values), 'value')})."
    for note in proof.notes[:SHOWN]:
        text += f" {note[0].upper()}{note[1:]}."
    return text


def _risky_first(found: Analysis, risky: Sequence[Safety]) -> list[Safety]:
    """Those that the plan runs in the low type come first."""
    return sorted(risky, key=lambda one: found.plan.compute.get(one.node) != found.low)


def _risk_line(found: Analysis, one: Safety) -> str:
    node = next(n for n in found.graph.nodes if n.name == one.node)
    runs = type_name(found.plan.compute.get(one.node, "float32"))
    return f"AT RISK, runs in {runs}: {_place(node)}: {one.reason}"


def _domains(found: Analysis) -> Iterator[RenderableType]:
    """Arguments of roots, logarithms and quotients that may reach zero, in the low type."""
    if found.proof is None:
        return
    nodes = {n.name: n for n in found.graph.nodes}
    unclear = [c for c in found.proof.domains if not c.clear]
    low = [c for c in unclear if found.plan.compute.get(c.node) == found.low]
    if found.proof.domains:
        clear = len(found.proof.domains) - len(unclear)
        yield indented(
            Text(
                f"Domains: {clear} of {plural(len(found.proof.domains), 'argument')} of roots, "
                f"logarithms, quotients and powers stay clear of zero; {len(low)} of the others "
                f"run in {type_name(found.low)}."
            )
        )
        yield indented(bullets([f"{_place(nodes[c.node])}: {c.reason}" for c in low[:SHOWN]]))


def measured(found: Analysis) -> Iterator[RenderableType]:
    """The operators that err most when each runs alone in the low type."""
    if not found.alone:
        return
    nodes = {n.name: n for n in found.graph.nodes}
    ranked = sorted(found.alone, key=lambda name: -found.alone[name][1])
    yield BLANK
    yield heading("Measured", f"each operator alone in {type_name(found.low)}; relative L2 error")
    rows = table("op", "predicted", "measured", "runs in", right=(1, 2), fold=(0,))
    for name in ranked[:SHOWN]:
        predicted, energy = found.alone[name]
        rows.add_row(
            _place(nodes[name]),
            figure(math.sqrt(predicted) if predicted is not None else None),
            figure(math.sqrt(energy)),
            type_name(found.plan.compute.get(name, "float32")),
        )
    yield indented(rows)


def offers(found: Analysis) -> Iterator[RenderableType]:
    """The repairs that can be made, each kind with what it is predicted to gain."""
    if not found.offers:
        return
    yield BLANK
    yield heading("Repairs", "that --repair makes, with what is predicted before and after")
    rows = table("kind", "places", "FP32-required", "time", "error", right=(1, 2, 3, 4), fold=())
    for offer in found.offers:
        rows.add_row(
            offer.kind,
            f"{len(offer.repairs):,}",
            f"{offer.required[0]:,} → {offer.required[1]:,}",
            f"{offer.seconds[0] * 1e6:.4g} → {offer.seconds[1] * 1e6:.4g} us",
            _errors(offer),
        )
    yield indented(rows)
    yield indented(bullets([offer.repairs[0].describe() for offer in found.offers]))


def _errors(offer: Offer) -> str:
    before, after = offer.error
    return "-" if before is None or after is None else f"{figure(before)} → {figure(after)}"


def repairs(done: Conversion) -> Iterator[RenderableType]:
    """The repairs that were made."""
    made = done.analysis.repairs
    if not made:
        return
    counts = Counter(repair.kind for repair in made)
    yield BLANK
    told = listed((f"{kind} in {plural(n, 'place')}" for kind, n in counts.items()), 8)
    yield heading("Repaired", told)
    first = {repair.kind: repair for repair in reversed(made)}
    yield indented(bullets([first[kind].describe() for kind in counts]))


def loss_scale(found: Analysis) -> Iterator[RenderableType]:
    """The window of loss scales, and the layers that leave it."""
    advice = found.loss_scale
    if advice is None:
        return
    yield BLANK
    window = f"2^{advice.window[0]} to 2^{advice.window[1]}" if advice.window else "no window"
    yield heading("Loss scale", f"{window}; use {advice.recommended:g}")
    yield indented(Text(f"{advice.reason} The gradient is of {advice.loss}."))
    if advice.outside:
        rows = table("outside", "from", "to", "largest", "lost", right=(1, 2, 3, 4), fold=(0,))
        for one in advice.outside[:SHOWN]:
            name = one.label or f"{one.scope or one.name}"
            rows.add_row(
                f"{name}{f' ({one.where})' if one.where else ''}",
                f"2^{one.smallest}", f"2^{one.largest}", figure(one.largest_gradient),
                percent(one.lost),
            )  # fmt: skip
        yield indented(rows)
        rest = len(advice.outside) - SHOWN
        if rest > 0:
            yield indented(Text(f"and {plural(rest, 'more tensor')}", style=QUIET))


def differences(done: Conversion) -> Iterator[RenderableType]:
    """The layers that add most to the plain difference from float32."""
    found = done.differences
    growing = found.growing(5) if found is not None else ()
    if not growing:
        return
    yield BLANK
    yield heading("Differences", "from FP32 by layer, relative L2; those that add most")
    rows = table("layer", "before", "after", "largest inside", right=(1, 2), fold=(0, 3))
    for layer in growing:
        worst = f"{figure(layer.worst.max_abs)} at {layer.worst.node}"
        style = WARN if math.isinf(layer.rel_l2) else ""
        rows.add_row(
            _tail(layer.scope or "the model"), figure(layer.before), figure(layer.rel_l2), worst,
            style=style,
        )  # fmt: skip
    yield indented(rows)


def _place(node: Node) -> str:
    where = f" ({node.where})" if node.where else ""
    return f"{short_op(node.op)} {_tail(node.scope or node.name)}{where}"


def _tail(path: str) -> str:
    return path if len(path) <= TAIL else f"…{path[len(path) - TAIL + 1 :]}"
