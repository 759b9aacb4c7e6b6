"""The pages of `convert` and `analyze`: what was captured, decided, measured and written."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from ampconvert.plan import FLOAT32, low_is_unused
from ampconvert.report import evidence, hazards, lint
from ampconvert.report.layout import (
    BLANK,
    GOOD,
    QUIET,
    STRONG,
    WARN,
    Line,
    bullets,
    facts,
    heading,
    indented,
    table,
)
from ampconvert.report.parity import advice, attempts, parity, unmeasured
from ampconvert.report.subject import Subject, source_facts
from ampconvert.report.words import (
    duration,
    figure,
    listed,
    operations,
    percent,
    plural,
    short_op,
    size,
    type_name,
    verdict_name,
)
from ampconvert.summary import VERDICTS, Summary

if TYPE_CHECKING:
    from ampconvert.classify import Decision, OpClass
    from ampconvert.conversion import Analysis, Conversion

SETTLED = 12  # ops that numbers settled; the rest is counted
OP_WIDTH = 34  # characters for an operator and its module path in the table of the worst
WHERE_WIDTH = 20  # characters for the source line there; a longer one takes from the operator


def conversion_page(subject: Subject, done: Conversion, seconds: float) -> RenderableType:
    """What `ampconvert convert` prints: one screen on everything that was done."""
    found = done.analysis
    return Group(
        *title(subject, found, "FP32 to"),
        BLANK,
        *_verdicts(found),
        _costs(found, done.casts_onnx),
        *_worst(found),
        BLANK,
        *(unmeasured(subject, done) if done.unchecked else parity(done.verification, found.low)),
        *attempts(done),
        *evidence.differences(done),
        *evidence.repairs(done),
        *advice(subject, done),
        *(evidence.safety(found) if found.proof is not None else ()),
        *hazards.section([f for f in found.findings if f.is_open], found.low),
        *lint.section(subject.lint),
        *_warnings(found),
        BLANK,
        *_files(done.files),
        Text(f"Took {duration(seconds)}{_slowest(done.seconds)}", style=QUIET),
    )


def analysis_page(subject: Subject, found: Analysis, seconds: float) -> RenderableType:
    """What `ampconvert analyze` prints: verdicts by operator, and the ones that numbers settled."""
    return Group(
        *title(subject, found, "analyzed for"),
        BLANK,
        *_verdicts(found),
        BLANK,
        _costs(found, None),
        BLANK,
        *_operators(found),
        *_settled_by_numbers(found),
        *_worst(found),
        *evidence.measured(found),
        *evidence.safety(found),
        *hazards.section(found.findings, found.low),
        *lint.section(subject.lint),
        *evidence.offers(found),
        *evidence.loss_scale(found),
        *_warnings(found),
        BLANK,
        Text(f"Took {duration(seconds)}; nothing was written.", style=QUIET),
    )


def title(subject: Subject, found: Analysis, verb: str) -> Iterator[RenderableType]:
    """The model, what it was run on, and its graph."""
    what = f"{verb} {type_name(found.low)}{f' on {found.target}' if found.target else ''}"
    yield Text.assemble(("ampconvert", STRONG), f"  {subject.target}  ", (what, STRONG))
    rest = f"dynamic {found.dynamic}" if found.dynamic else "all dimensions fixed"
    if subject.format == "onnx":
        rest = found.dynamic  # its opset when it is written; the file declares its dimensions
    operators = plural(found.summary.nodes, "operator")
    graph = f"{operators}, {found.summary.float_nodes:,} of them on floats"
    graph += f"; {rest}" if rest else ""
    yield facts([*source_facts(subject), ("Graph", graph)])


def _verdicts(found: Analysis) -> Iterator[RenderableType]:
    low = type_name(found.low)
    rows = table("verdict", "ops", f"run in {low}", "share of FLOPs", right=(1, 2, 3), fold=())
    for verdict in found.summary.verdicts:
        rows.add_row(
            verdict_name(verdict.name, found.low),
            f"{verdict.nodes:,}",
            f"{verdict.in_low:,}",
            percent(verdict.flops_share),
        )
    yield rows
    if found.summary.flops:
        share = percent(found.summary.flops_low_share)
        yield Text(
            f"{share} of the matrix and convolution FLOPs run in {low} "
            f"({operations(found.summary.flops)} in all)."
        )


def _costs(found: Analysis, casts_onnx: int | None) -> RenderableType:
    s = found.summary
    casts = f"{plural(s.casts, 'cast')} of activations, moving {size(s.cast_bytes)} per run"
    if casts_onnx is not None and casts_onnx != s.casts:
        casts += f" ({plural(casts_onnx, 'Cast node')} in the ONNX file)"
    predicted = []
    if s.predicted_error is not None:
        finite = math.isfinite(s.predicted_error)
        error = figure(s.predicted_error)
        told = f"relative L2 error {error}" if finite else "no finite estimate of the error"
        predicted = [("Predicted", told)]
    return facts(
        [
            ("Casts", casts),
            (
                "Weights",
                f"{size(s.weight_bytes[0])} before, {size(s.weight_bytes[1])} after"
                f"{_change(*s.weight_bytes)}",
            ),
            (
                "Activations",
                f"{size(s.activation_bytes[0])} at the peak before, "
                f"{size(s.activation_bytes[1])} after{_change(*s.activation_bytes)}",
            ),
            *predicted,
        ]
    )


def _change(before: int, after: int) -> str:
    return f" ({(after - before) / before * 100:+.0f}%)" if before and before != after else ""


def _worst(found: Analysis) -> Iterator[RenderableType]:
    if not found.summary.worst:
        return
    yield BLANK
    yield heading("Worst ops", "by share of the predicted squared error of the outputs")
    rows = table("share", "op", "in", "error", "line", right=(0, 3), fold=(1,))
    longest = max(len(op.where) for op in found.summary.worst)
    width = OP_WIDTH - max(0, longest - WHERE_WIDTH)
    for op in found.summary.worst:
        kind = short_op(op.op)
        name = f"{kind} {_tail(op.scope or op.node, width - len(kind) - 1)}"
        rows.add_row(
            percent(op.share), name, type_name(op.compute), figure(op.error), op.where or "-"
        )
    yield indented(rows)
    told: dict[str, list[int]] = {}
    for number, op in enumerate(found.summary.worst, 1):
        told.setdefault(op.reason, []).append(number)
    few = len(told) <= 2  # then there is room on the screen for all of each reason
    for reason, numbers in told.items():
        which = "all" if len(told) == 1 else ", ".join(map(str, numbers))
        line = Text(f"{which}: {reason}", style=QUIET, no_wrap=not few, overflow="ellipsis")
        yield indented(line)


def _tail(path: str, width: int) -> str:
    """A module path cut from the left: its end says which layer it is."""
    return path if len(path) <= width else f"…{path[len(path) - max(width - 1, 8) :]}"


def _operators(found: Analysis) -> Iterator[RenderableType]:
    """Operator types with their verdict, the FP32-required first."""
    order = ["deny", "allow", "infer", "clear"]
    nodes = {n.name: n for n in found.graph.nodes}
    kinds: Counter[tuple[OpClass, str, str]] = Counter()
    in_low: Counter[tuple[OpClass, str, str]] = Counter()
    for name, compute in found.plan.compute.items():
        decision = found.plan.decisions[name]
        kind = (decision.cls, short_op(nodes[name].op), decision.rule)
        kinds[kind] += 1
        in_low[kind] += compute != FLOAT32
    ranked = sorted(kinds, key=lambda kind: (order.index(kind[0]), -kinds[kind], kind))
    low = type_name(found.low)
    rows = table("operator", "ops", low, "verdict", "rule", right=(1, 2), fold=(0, 4))
    for kind in ranked:
        cls, op, rule = kind
        rows.add_row(
            op,
            f"{kinds[kind]:,}",
            f"{in_low[kind]:,}",
            verdict_name(VERDICTS[cls], found.low),
            rule,
        )
    yield rows


def _settled_by_numbers(found: Analysis) -> Iterator[RenderableType]:
    """Nodes whose verdict came from data, constants or weights, with the figure."""
    nodes = {n.name: n for n in found.graph.nodes}
    settled = [
        (name, d)
        for name in found.plan.compute
        if (d := found.plan.decisions[name]).evidence in ("seen", "proved") and d.figure is not None
    ]
    if not settled:
        return
    yield BLANK
    yield heading("Settled by numbers", plural(len(settled), "op"))
    lines = [_settled_line(nodes[n].scope or n, nodes[n].where, d) for n, d in settled[:SETTLED]]
    yield indented(bullets(lines))
    if len(settled) > SETTLED:
        yield indented(
            Text(f"and {len(settled) - SETTLED} more: ampconvert explain shows them", style=QUIET)
        )


def _settled_line(place: str, where: str, decision: Decision) -> str:
    return f"{place}{f' ({where})' if where else ''}: {decision.reason}"


def _warnings(found: Analysis) -> Iterator[RenderableType]:
    lines = list(_warning_lines(found.summary, found))
    notes = [*_nothing_to_do(found), *found.notes]
    if lines or notes:
        yield BLANK
    if lines:
        yield bullets(lines, "!", WARN)
    if notes:
        yield bullets(notes)


def _nothing_to_do(found: Analysis) -> Iterator[str]:
    """What a user wonders at who converts a model that is converted already, or has no floats."""
    if not found.plan.compute:
        yield "No operator works on FP32 tensors: nothing is left to convert."
    elif low_is_unused(found.plan):
        held = any(value.dtype == found.low for value in found.graph.values.values())
        if held:
            yield f"Nothing is left to convert: the rest of the model is {type_name(found.low)}."


def _warning_lines(summary: Summary, found: Analysis) -> Iterator[str]:
    if summary.unknown_ops:
        count = sum(found.plan.decisions[name].unknown for name in found.plan.compute)
        share = percent(count / max(1, summary.float_nodes))
        yield (
            f"No rule names {listed(summary.unknown_ops)}: {plural(count, 'op')} ({share}) kept in "
            "FP32. Give rules of your own with --rules."
        )
    if found.unused_rules:
        names = listed(f"{name!r}" for name in found.unused_rules)
        yield f"Matched nothing: {names}. Check the spelling; `ampconvert explain` shows the names."


def _files(files: Mapping[str, Path]) -> Iterator[RenderableType]:
    for kind, path in files.items():
        shown = size(path.stat().st_size) if path.is_file() else "-"
        yield Line(
            Text.assemble(
                ("Wrote ", GOOD), f"{shown:>9}  {path}", (f"  {_KINDS.get(kind, kind)}", QUIET)
            )
        )


_KINDS = {
    "onnx": "for ONNX Runtime, TensorRT",
    "onnx data": "its weights: keep them together",
    "pt2": "torch.export.load(...).module()",
    "plan": "every decision; --plan applies it again",
}


def _slowest(seconds: Mapping[str, float]) -> str:
    ranked = sorted(seconds.items(), key=lambda item: -item[1])[:3]
    shown = ", ".join(f"{stage} {duration(spent)}" for stage, spent in ranked if spent >= 0.05)
    return f" ({shown})" if shown else ""
