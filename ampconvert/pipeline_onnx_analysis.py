"""An ONNX model looked at: ranges, measured errors, proof, verdicts, plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ampconvert.classify import harmless_error, vanishing, weight_ranges
from ampconvert.conversion import Analysis, Request
from ampconvert.cost import target_named
from ampconvert.distributed import calibrated, go_on_alone
from ampconvert.dtypes import Low
from ampconvert.frontends.onnx import read
from ampconvert.graph import Graph
from ampconvert.pipeline_evidence import proof_of
from ampconvert.pipeline_onnx_start import Start
from ampconvert.pipeline_search import with_plan
from ampconvert.pipeline_steps import Clock, check_plan, decide, uncollected
from ampconvert.plan import make_plan
from ampconvert.ranges.calibrate import Range
from ampconvert.repairs import Repair
from ampconvert.repairs.correct_bias import halves
from ampconvert.summary import summarise

ESTIMATED = 2e11  # FLOPs of one run, up to which an analysis measures the error per op unasked


def analyse(clock: Clock, start: Start, request: Request) -> Analysis:
    """What `request` asks to be known of the model, and the first plan for it."""
    low, target, plan = request.low, request.target, request.plan
    ranges: dict[str, Range] = {}
    graph = start.graph
    if start.feeds:
        from ampconvert.frontends.onnx_run import calibrate

        with clock.stage("calibrate"):
            ranges, sizes = calibrated(
                start.feeds,
                lambda own, tell: calibrate(start.model, own, tell, low=low),
                lambda done, total: clock.progress("calibrate", done, total),
            )
            graph = _with_sizes(graph, sizes)
    go_on_alone()
    opset = start.model.opset_imports.get("")
    unused: tuple[str, ...] = ()
    measured: dict[str, float] = {}
    proof = proof_of(clock, graph, request, ranges, opset)
    if plan is None:
        with clock.stage("classify"):
            ranges |= weight_ranges(graph, ranges, low)
        if start.feeds:
            measured = _measured(clock, start, vanishing(graph, ranges, low), low)
        with clock.stage("classify"), uncollected():
            verdicts, unused = decide(
                graph, low, request.rules, ranges, measured, target, opset, proof
            )
        with clock.stage("plan"), uncollected():
            plan = make_plan(graph, verdicts, low, target_named(target), io=start.io)
    else:
        check_plan(plan, graph, low)
    broken = [n for n, v in graph.values.items() if v.kind == "weight" and n in ranges
              and ranges[n].has_nan]  # fmt: skip
    told = [target_named(target).notes.get(low, "")] if target else []
    notes = (
        *start.notes,
        *filter(None, told),
        *(f"The weight {name} holds NaN." for name in broken),
    )
    return Analysis(
        request.name, low, graph, plan, summarise(graph, plan, None, target_named(target)), ranges,
        None, f"opset {opset}" if opset else "", notes, unused, clock.seconds, None, target,
        measured, opset, proof=proof, proving=request.proving, model=start.model,
    )  # fmt: skip


def studied(clock: Clock, found: Analysis, start: Start, request: Request) -> Analysis:
    """`found` with the error of each op: shared out from groups where the model is small or it was
    asked for, and with `measure` that of each op alone.
    """
    if not start.feeds:
        return found
    if request.measure or found.summary.flops <= ESTIMATED:
        found = with_plan(replace(found, errors=estimated(clock, found, start)), found.plan)
    else:
        note = "The error per op was not estimated: the model is large. --measure does it."
        found = replace(found, notes=(*found.notes, note))
    if request.measure:
        found = replace(found, alone=_alone(clock, found, start))
    return found


def estimated(clock: Clock, analysis: Analysis, start: Start) -> dict[str, float]:
    """The error of rounding each value that the plan holds in `low`, measured in groups.

    A clear operator's result holds what its operand was rounded to: it errs as that does.
    """
    from ampconvert.frontends.onnx_errors import shared_errors
    from ampconvert.frontends.onnx_run import in_float32

    assert analysis.model is not None
    graph, plan = analysis.graph, analysis.plan
    order = {name: i for i, node in enumerate(graph.nodes) for name in node.outputs}
    reads = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs if name}
    clear = {out: node for node in graph.nodes for out in node.outputs
             if plan.decisions[node.name].cls == "clear"}  # fmt: skip
    names = {n for n in order if graph.values[n].is_float32 and n not in clear
             and plan.type_of(graph, n) == plan.low}  # fmt: skip
    names |= {n for n, types in plan.weights.items() if plan.low in types and n in reads}
    names |= {c.value for c in plan.casts if c.to == plan.low and c.value not in clear}
    known = (n for n in names if n in reads or n in order)
    ordered = sorted(known, key=lambda n: (order.get(n, reads.get(n, 0)), n))
    with clock.stage("error per op"):
        found = shared_errors(
            in_float32(analysis.model), ordered, start.feeds[0], plan.low,
            lambda done, total: clock.progress("error per op", done, total),
        )  # fmt: skip
    for out in sorted(clear, key=lambda n: order[n]):
        operands = (v.name for v in graph.input_values(clear[out]) if v is not None)
        found[out] = max((found.get(name, 0.0) for name in operands), default=0.0)
    return found


def _alone(clock: Clock, analysis: Analysis, start: Start) -> dict[str, tuple[float | None, float]]:
    """For each operator the error of rounding its results, predicted and measured in a run each."""
    from ampconvert.frontends.onnx_errors import measured_errors
    from ampconvert.frontends.onnx_run import in_float32

    assert analysis.model is not None
    graph = analysis.graph
    made = [v.name for node in graph.nodes for v in graph.output_values(node) if v.is_float32]
    with clock.stage("measure ops"):
        found = measured_errors(
            in_float32(analysis.model), made, start.feeds[:1], analysis.low,
            lambda done, total: clock.progress("measure ops", done, total),
        )  # fmt: skip
    guess = analysis.errors or {}
    alone: dict[str, tuple[float | None, float]] = {}
    for node in graph.nodes:
        results = [v.name for v in graph.output_values(node) if v.is_float32]
        if results:
            known = [guess[name] for name in results if name in guess]
            alone[node.name] = (
                sum(known) if known else None, sum(found[name] for name in results)
            )  # fmt: skip
    return alone


class OnnxWays:
    """How an ONNX model is rewritten and looked at again: what `pipeline_repair` asks for."""

    def __init__(self, clock: Clock, start: Start, request: Request) -> None:
        self.clock = clock
        self.start = start
        self.request = request

    def again(self, analysis: Analysis, repairs: Sequence[Repair]) -> Analysis:
        """The analysis of the model with `repairs` made."""
        assert analysis.model is not None
        with self.clock.stage("repair"), uncollected():
            start = rewritten(self.start, analysis.model, repairs, analysis.low)
        return analyse(self.clock, start, self.request)

    def output_errors(self, analysis: Analysis, channels: Mapping[str, int]) -> Any:
        """How far layers are off on average, per channel, on half of the batches."""
        from ampconvert.frontends.onnx_repair_bias import output_errors

        assert analysis.model is not None
        first, _ = halves(self.start.feeds)
        return output_errors(analysis.model, first, analysis.low, channels)


def rewritten(start: Start, model: Any, repairs: Sequence[Repair], low: Low) -> Start:
    """`start` with `model`, the repairs made in it."""
    from ampconvert.frontends import onnx_repair

    made = onnx_repair.rewrite(model, repairs)
    return replace(start, model=made, graph=read(made, low))


def _measured(clock: Clock, start: Start, names: Sequence[str], low: Low) -> dict[str, float]:
    """What rounding does to the outputs, of values so small that `low` hardly holds them."""
    if not names:
        return {}
    from ampconvert.frontends.onnx_errors import rounding_errors

    with clock.stage("error per op"):
        return rounding_errors(start.model, names, start.feeds[0], low, harmless_error(low))


def _with_sizes(graph: Graph, sizes: Mapping[str, tuple[int, ...]]) -> Graph:
    """`graph` with the shapes that were seen, where its own are dynamic or unknown."""
    values = {
        name: replace(value, hint=sizes[name])
        if name in sizes and (value.shape is None or any(isinstance(d, str) for d in value.shape))
        else value
        for name, value in graph.values.items()
    }
    return replace(graph, values=values)
