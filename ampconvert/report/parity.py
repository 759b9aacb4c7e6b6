"""Parity on a page: each output's figures, how they were measured, what to do when they fail."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from ampconvert.dtypes import FLOAT_TYPES
from ampconvert.report.layout import (
    BAD,
    BLANK,
    GOOD,
    QUIET,
    STRONG,
    WARN,
    Line,
    bullets,
    facts,
    indented,
    table,
)
from ampconvert.report.next_steps import after_failure
from ampconvert.report.subject import Subject, source_facts
from ampconvert.report.words import decibels, figure, percent, plural, type_name

if TYPE_CHECKING:
    from ampconvert.conversion import Conversion
    from ampconvert.verification import Comparison
    from ampconvert.verify.compare import Verification
    from ampconvert.verify.metrics import Parity

ROWS = 8  # outputs shown: the worst ones when there are more


def comparison_page(found: Comparison) -> RenderableType:
    """What `ampconvert verify` prints."""
    rows: list[tuple[str, RenderableType]] = [
        ("Reference", Text(f"{found.reference}, run in {found.reference_ran}")),
        (
            "Candidate",
            Text(
                f"{found.candidate}: "
                f"{type_name(found.low) if found.low else 'no FP16 or BF16 in it'}"
            ),
        ),
    ]
    rows += [row for row in source_facts(found.subject) if row[0] != "Model"]
    parts: list[RenderableType] = [
        Text.assemble(("ampconvert", STRONG), "  verify"),
        facts(rows),
        BLANK,
        *parity(found.verification, found.low or "float32"),
    ]
    if found.notes:
        parts += [BLANK, bullets(found.notes)]
    return Group(*parts)


def parity(found: Verification | None, low: str) -> Iterator[RenderableType]:
    """The verdict, a table with a row per output, and how it was measured."""
    if found is None:
        yield Text.assemble(("Parity NOT MEASURED", BAD))
        return
    tolerance = max((p.tolerance for p in found.parities), default=0.0)
    limit = f"relative L2 error at most {figure(tolerance)}"
    if len({p.tolerance for p in found.parities}) > 1:
        limit = "each output within its tolerance"
    verdict = ("Parity held", f"bold {GOOD}") if found.ok else ("Parity FAILED", BAD)
    yield Text.assemble(verdict, (f"  {limit}", QUIET))
    yield indented(_outputs(found.parities))
    if len(found.parities) > ROWS:
        yield indented(
            Text(f"and {len(found.parities) - ROWS} more outputs with smaller errors", style=QUIET)
        )
    for p in found.parities:
        if p.note:
            yield indented(Text(f"{p.output}: {p.note}", style="" if p.ok else WARN))
    yield indented(Text(_measured(found, low)))
    if found.first_bad is not None:
        bad = found.first_bad
        where = bad.metadata.get("ampconvert.where", "")
        yield indented(
            Text(
                f"First bad tensor: {bad.tensor}, made by {bad.op} {bad.node}"
                f"{f' ({where})' if where else ''}: "
                f"{figure(bad.absmax)} in FP32; {_limit(low)}.",
                style=WARN,
            )
        )


def attempts(done: Conversion) -> Iterator[RenderableType]:
    """How many parity runs it took, and what each showed; nothing where the first one held."""
    if done.runs < 2 and not any(a.aim for a in done.attempts):
        return
    told = []
    for place, attempt in enumerate(done.attempts):
        predicted = f"predicted {figure(attempt.predicted)}, " if attempt.predicted else ""
        # A later run without an aim has taken back to FP32 what the one before it showed to fail.
        alone = attempt.aim is None and not place
        kept = "by the rules alone" if alone else f"with {plural(attempt.full, 'op')} in FP32"
        outcome = "held" if attempt.ok else "failed"
        told.append(f"{kept}: {predicted}measured {figure(attempt.measured)}, {outcome}")
    after = f" after {plural(done.trials, 'quick run')} of other plans" if done.trials else ""
    yield indented(Text(f"Found in {plural(done.runs, 'parity run')}{after}: {'; '.join(told)}."))


def unmeasured(subject: Subject, done: Conversion) -> Iterator[RenderableType]:
    """What stands in place of parity where the user asked for no run."""
    yield Text.assemble(
        ("Parity NOT MEASURED", WARN), ("  nothing was run, as --no-verify asks", QUIET)
    )
    yield indented(
        Text(
            "Ranges were taken from the weights alone, so an overflow of activations would not "
            "show. Measure parity before you rely on this model:"
        )
    )
    if "onnx" in done.files:
        target, written = shlex.quote(subject.target), shlex.quote(str(done.files["onnx"]))
        yield Line(f"ampconvert verify {target} {written}", 2)


def _outputs(parities: Sequence[Parity]) -> RenderableType:
    shown = (
        sorted(parities, key=lambda p: (p.ok, -_rank(p)))[:ROWS]
        if len(parities) > ROWS
        else list(parities)
    )
    own = any(p.reference_rel_l2 is not None for p in shown)
    top = any(p.agree_top1 is not None for p in shown)
    whole = any(_is_whole(p) for p in shown)
    columns = [
        "output",
        "rel. L2",
        *(["FP32's own"] if own else []),
        "max abs",
        "SQNR",
        *(["top-1"] if top else []),
        *(["equal"] if whole else []),
        "finite",
        "",
    ]
    made = table(*columns, right=range(1, len(columns) - 1))
    for p in shown:
        row = [p.output, figure(p.rel_l2)]
        row += [figure(p.reference_rel_l2)] if own else []
        row += [figure(p.max_abs), decibels(p.sqnr_db)]
        row += [percent(p.agree_top1) if p.agree_top1 is not None else "-"] if top else []
        row += [percent(p.exact) if _is_whole(p) and p.exact is not None else "-"] if whole else []
        row += ["yes" if p.finite else "NO"]
        made.add_row(*row, Text("ok", style=GOOD) if p.ok else Text("FAILED", style=BAD))
    return made


def _is_whole(p: Parity) -> bool:
    """Integer and boolean outputs are judged by exact agreement."""
    return not p.dtype.startswith(("float", "bfloat", "complex"))


def _rank(p: Parity) -> float:
    return float("inf") if p.rel_l2 != p.rel_l2 else p.rel_l2


def _measured(found: Verification, low: str) -> str:
    over = f" on {plural(sum(p.samples for p in found.parities), 'number')}"
    if found.provider == "torch":
        return f"Measured{over}: {found.how}."
    if "emulated" in found.how:
        return (
            f"Measured{over} by the emulated model on ONNX Runtime's CPU provider: each "
            f"{type_name(low)} tensor is rounded when stored, sums are FP32. No GPU ran."
        )
    ran = ""
    if found.low_nodes:
        ran = f"; {found.low_nodes} of {found.total_nodes} nodes ran in {type_name(low)}"
    return f"Measured{over} by the model itself: {found.how}{ran}."


def _limit(low: str) -> str:
    facts_ = FLOAT_TYPES.get(low)
    return f"{type_name(low)} ends at {facts_.max:.5g}" if facts_ else "it overflows"


def advice(subject: Subject, done: Conversion) -> Iterator[RenderableType]:
    """What to try when parity failed: the commands to type first, then what else helps."""
    steps = after_failure(subject, done)
    if not steps:
        return
    yield Text("")
    yield Text("What to do", style=STRONG)
    yield from (Line(step.command, 2) for step in steps if step.command)
    yield indented(bullets([step.text for step in steps if not step.command]))
