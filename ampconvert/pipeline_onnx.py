"""The order of a conversion of an ONNX model: load, read, calibrate, classify, plan, apply, parity.

`pipeline` is its like for PyTorch models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ampconvert.classify import Decision, harmless_error, vanishing, weight_ranges
from ampconvert.conversion import Analysis, Conversion, Feed, Pareto
from ampconvert.dtypes import Low, parse_low
from ampconvert.errors import UserError
from ampconvert.files import refuse_overwrite, write_plan
from ampconvert.frontends.onnx_apply import apply
from ampconvert.graph import Graph
from ampconvert.pipeline_onnx_start import Source, Start, start_from
from ampconvert.pipeline_search import Check, Search, at_point, measured_front, search
from ampconvert.pipeline_steps import (
    Clock,
    Progress,
    check_plan,
    decide,
    target_named,
    uncollected,
)
from ampconvert.plan import Plan, make_plan
from ampconvert.ranges.calibrate import Range
from ampconvert.rules import OpRule
from ampconvert.summary import summarise
from ampconvert.verify.metrics import default_tolerance

if TYPE_CHECKING:
    from ampconvert.verify.compare import Verification

LOAD_TESTED = 1 << 28  # bytes of weights; larger models are not loaded whole for a test


def convert(
    model: Source,
    feeds: Sequence[Feed] = (),
    *,
    dtype: str = "float16",
    rules: Sequence[OpRule] = (),
    plan: Plan | None = None,
    out: Path | None = None,
    io: Mapping[str, str] | None = None,
    target: str | None = None,
    tolerance: float | None = None,
    point: int | None = None,
    verify: bool = True,
    overwrite: bool = False,
    progress: Progress | None = None,
    name: str = "model",
) -> Conversion:
    """Convert an ONNX model to `dtype` and measure parity.

    `feeds` are batches, arrays by input name, that ranges and parity are taken from; without them
    random inputs are made as the model declares them. With `verify` False nothing is run: ranges
    come from weights alone and parity is not known. Inputs and outputs keep their types except
    those that `io` gives one ("float16" of `dtype`, or "float32"). Given a `tolerance`, the largest
    relative L2 error of an output, the fastest plan inside it is looked for. `rules` stand before
    the built-in ones; a `plan` from an earlier run replaces them all. `out` is the .onnx file to
    write; the plan stands beside it. Raises UserError for anything its owner can mend.
    """
    low = parse_low(dtype)
    if out is not None:
        refuse_overwrite([out, plan_beside(out)], overwrite)
    clock = Clock(progress)
    if verify:
        result = _verified(
            clock, model, feeds, low, rules, plan, io or {}, target, tolerance, point, name
        )
    else:
        with uncollected():
            start = start_from(clock, model, (), low, rules, io or {}, verify)
            analysis = _analyse(clock, start, low, rules, plan, target, name)
            result = replace(_applied(clock, analysis, start, in_place=True), unchecked=True)
    if out is not None:
        with uncollected():
            result = _write(clock, result, out)
    return replace(result, seconds=dict(clock.seconds))


def analyze(
    model: Source,
    feeds: Sequence[Feed] = (),
    *,
    dtype: str = "float16",
    rules: Sequence[OpRule] = (),
    io: Mapping[str, str] | None = None,
    target: str | None = None,
    verify: bool = True,
    progress: Progress | None = None,
    name: str = "model",
) -> Analysis:
    """The verdicts, ranges and plan for an ONNX model; changes and writes nothing. Arguments as for
    `convert`.
    """
    low = parse_low(dtype)
    clock = Clock(progress)
    with uncollected():
        start = start_from(clock, model, feeds, low, rules, io or {}, verify)
    return _analyse(clock, start, low, rules, None, target, name)


def pareto(
    model: Source,
    feeds: Sequence[Feed] = (),
    *,
    dtype: str = "float16",
    rules: Sequence[OpRule] = (),
    io: Mapping[str, str] | None = None,
    target: str | None = None,
    progress: Progress | None = None,
    name: str = "model",
) -> Pareto:
    """Predicted time against measured error of the plans worth having; writes nothing. Arguments
    as for `convert`, whose `point` takes one of them.
    """
    low = parse_low(dtype)
    clock = Clock(progress)
    with uncollected():
        start = start_from(clock, model, feeds, low, rules, io or {}, True)
    analysis = _analyse(clock, start, low, rules, None, target, name)
    limit = default_tolerance(low)
    wanted = _wanted(clock, start, rules, limit)
    return measured_front(clock, analysis, _check(clock, start, analysis, limit), wanted)


def _verified(
    clock: Clock,
    model: Source,
    feeds: Sequence[Feed],
    low: Low,
    rules: Sequence[OpRule],
    plan: Plan | None,
    io: Mapping[str, str],
    target: str | None,
    tolerance: float | None,
    point: int | None,
    name: str,
) -> Conversion:
    """The conversion of `model` that holds parity best; see `pipeline_search`."""
    with uncollected():
        start = start_from(clock, model, feeds, low, rules, io, True)
    analysis = _analyse(clock, start, low, rules, plan, target, name)
    limit = tolerance or default_tolerance(low)
    check = _check(clock, start, analysis, limit)
    wanted = _wanted(clock, start, rules, limit)
    if point is not None:
        analysis = at_point(clock, analysis, check, wanted, point)
    if point is not None or plan is not None:
        return search(clock, analysis, check, replace(wanted, repair=False))
    return search(clock, analysis, check, replace(wanted, fastest=tolerance is not None))


def _wanted(clock: Clock, start: Start, rules: Sequence[OpRule], limit: float) -> Search:
    return Search(limit, rules, estimate=lambda found: _estimated(clock, found, start))


def _check(clock: Clock, start: Start, analysis: Analysis, limit: float) -> Check:
    """What applies a plan, loads the result and measures its parity."""
    expected = _answers(clock, start)
    _refuse_nan(analysis, expected)
    return lambda found: _apply_and_check(clock, found, start, expected, limit)


def plan_beside(out: Path) -> Path:
    """Where the plan of the model in `out` is written: model.fp16.plan.json."""
    return out.with_name(f"{out.stem}.plan.json")


def _analyse(
    clock: Clock,
    start: Start,
    low: Low,
    rules: Sequence[OpRule],
    plan: Plan | None,
    target: str | None,
    name: str,
) -> Analysis:
    ranges: dict[str, Range] = {}
    graph = start.graph
    if start.feeds:
        from ampconvert.frontends.onnx_run import calibrate

        with clock.stage("calibrate"):
            ranges, sizes = calibrate(
                start.model,
                start.feeds,
                lambda done: clock.progress("calibrate", done, len(start.feeds)),
                low=low,
            )
            graph = _with_sizes(graph, sizes)
    opset = start.model.opset_imports.get("")
    unused: tuple[str, ...] = ()
    measured: dict[str, float] = {}
    if plan is None:
        with clock.stage("classify"):
            ranges |= weight_ranges(graph, ranges, low)
        if start.feeds:
            measured = _measured(clock, start, vanishing(graph, ranges, low), low)
        with clock.stage("classify"), uncollected():
            verdicts, unused = decide(graph, low, rules, ranges, measured, target, opset)
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
        name, low, graph, plan, summarise(graph, plan, None, target_named(target)), ranges, None,
        f"opset {opset}" if opset else "", notes, unused, clock.seconds, None, target,
        measured, opset,
    )  # fmt: skip


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


def _answers(clock: Clock, start: Start) -> list[dict[str, Any]]:
    from ampconvert.frontends.onnx_run import outputs

    with clock.stage("parity"):
        return outputs(start.model, start.feeds)


def _refuse_nan(analysis: Analysis, expected: list[dict[str, Any]]) -> None:
    """Raise UserError where the float32 model itself answers NaN, with the node it comes from."""
    broken = [
        name
        for answers in expected
        for name, found in answers.items()
        if isinstance(found, np.ndarray) and found.dtype.kind == "f" and np.isnan(found).any()
    ]
    if not broken:
        return
    graph, ranges = analysis.graph, analysis.ranges
    given = [name for name, value in graph.values.items() if value.kind != "computed"]
    values = [*given, *(name for node in graph.nodes for name in node.outputs)]
    first = next((v for v in values if v in ranges and ranges[v].has_nan), broken[0])
    maker = graph.producers.get(first)
    kind = graph.values[first].kind
    where = f"the result {first} of {maker.name} ({maker.op})" if maker else f"the {kind} {first}"
    raise UserError(
        f"the FP32 model itself gives NaN in {broken[0]} on these inputs, first in {where}: "
        "nothing can be compared with NaN; give other inputs"
    )


def _estimated(clock: Clock, analysis: Analysis, start: Start) -> dict[str, float]:
    """The error of rounding each value that the plan holds in `low`, measured in groups."""
    from ampconvert.frontends.onnx_errors import shared_errors

    graph, plan = analysis.graph, analysis.plan
    order = {name: i for i, node in enumerate(graph.nodes) for name in node.outputs}
    reads = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs if name}
    made = [n for n in order if graph.values[n].is_float32 and plan.type_of(graph, n) == plan.low]
    stored = [n for n, types in plan.weights.items() if plan.low in types and n in reads]
    names = sorted({*made, *stored}, key=lambda n: order.get(n, reads.get(n, 0)))
    with clock.stage("error per op"):
        return shared_errors(
            start.model, names, start.feeds[0], plan.low,
            lambda done, total: clock.progress("error per op", done, total),
        )  # fmt: skip


def _applied(
    clock: Clock, analysis: Analysis, start: Start, *, in_place: bool = False
) -> Conversion:
    with clock.stage("apply"), uncollected():
        model = apply(start.model, analysis.plan, in_place=in_place)
    return Conversion(analysis, None, model, None, {}, {}, len(analysis.plan.casts))


def _apply_and_check(
    clock: Clock, analysis: Analysis, start: Start, expected: list[dict[str, Any]], limit: float
) -> tuple[Conversion, Mapping[str, Decision]]:
    result = _applied(clock, analysis, start)
    with clock.stage("load test"):
        unfused = _unloadable(result, analysis)
    if unfused:
        return result, unfused
    with clock.stage("parity"):
        found = _verify(result, start, expected, limit)
    return replace(result, verification=found), {}


def _unloadable(result: Conversion, analysis: Analysis) -> dict[str, Decision]:
    """Denials that let ONNX Runtime load the model itself, where its optimiser spoils it.

    What it rounds is not asked here; bfloat16 models load on no CPU, and large ones take minutes.
    """
    from ampconvert.verify.runtimes import session
    from ampconvert.verify.search import loosened

    assert result.onnx is not None
    size = sum(v.const_value.nbytes for v in result.onnx.graph.initializers.values()
               if v.const_value is not None)  # fmt: skip
    if analysis.low != "float16" or size > LOAD_TESTED:
        return {}
    try:
        with session(result.onnx):
            return {}
    except UserError as error:
        return loosened(analysis.graph, analysis.plan, str(error))


def _verify(
    result: Conversion, start: Start, expected: list[dict[str, Any]], limit: float
) -> Verification:
    from ampconvert.verify.compare import verify_onnx

    assert result.onnx is not None
    return verify_onnx(result.onnx, expected, start.feeds, result.analysis.low, tolerance=limit)


def _write(clock: Clock, result: Conversion, out: Path) -> Conversion:
    """`result` with its files written and named."""
    from ampconvert.frontends.onnx_save import save

    assert result.onnx is not None
    with clock.stage("write"):
        out.parent.mkdir(parents=True, exist_ok=True)
        written = save(result.onnx, out)
        files = {"onnx": written[0]}
        if len(written) > 1:
            files["onnx data"] = written[1]
        files["plan"] = plan_beside(out)
        write_plan(result.plan, files["plan"])
    return replace(result, files=files)
