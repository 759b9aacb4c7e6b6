"""The order of a conversion of an ONNX model: load, read, calibrate, classify, plan, apply, parity.

`pipeline` is its like for PyTorch models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ampconvert.classify import Decision
from ampconvert.conversion import Analysis, Conversion, Feed, Pareto, Request
from ampconvert.differences import Differences
from ampconvert.dtypes import parse_low
from ampconvert.errors import UserError
from ampconvert.files import refuse_overwrite, write_plan
from ampconvert.front import Trial
from ampconvert.frontends.onnx_apply import apply
from ampconvert.pipeline_evidence import proving, with_evidence
from ampconvert.pipeline_onnx_analysis import OnnxWays, analyse, estimated, rewritten, studied
from ampconvert.pipeline_onnx_start import Source, Start, start_from
from ampconvert.pipeline_repair import (
    ALL,
    kinds_of,
    search_repaired,
    stored_repairs,
    useful_kinds,
    with_offers,
)
from ampconvert.pipeline_search import (
    Check,
    Search,
    at_point,
    measured_front,
    predicted_front,
    search,
)
from ampconvert.pipeline_steps import (
    PARITY_BATCHES,
    Clock,
    Progress,
    uncollected,
    with_parity_notes,
)
from ampconvert.plan import Plan
from ampconvert.rules import OpRule
from ampconvert.verify.metrics import default_tolerance

if TYPE_CHECKING:
    from ampconvert.report.subject import Subject
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
    prove: Mapping[str, tuple[float, float]] | None = None,
    assume: Sequence[str] = (),
    repair: bool | Sequence[str] = False,
    verify: bool = True,
    overwrite: bool = False,
    progress: Progress | None = None,
    name: str = "model",
    about: Subject | None = None,
    detailed: bool = False,
) -> Conversion:
    """Convert an ONNX model to `dtype` and measure parity.

    Args:
        model: the path of an .onnx file, or a model in memory, which is left as it is.
        feeds: batches, arrays by input name, for ranges and parity (`data` of
            `ampconvert.convert`); without them random inputs are made as the model declares them.
        dtype: "float16" or "bfloat16".
        rules: stand before the built-in ones.
        plan: of an earlier run; replaces all rules.
        out: the .onnx file to write; the plan stands beside it.
        io: inputs and outputs that change their type, by name: that of `dtype`, or "float32".
        target: the table of costs and kernels: "trt", "ort-cuda", "ort-cpu".
        tolerance: the largest relative L2 error of an output, inside which the fastest plan is
            looked for; without it the rules' plan is taken where it stays inside the default.
        point: take that plan of `pareto` instead.
        prove: ranges of inputs by name, from which bounds of every value are proved.
        assume: contracts for the proof, such as "layers.3*<=100".
        repair: rewrite what would have to stay float32: True for all kinds, or their names.
        verify: False runs nothing: ranges come from weights alone and parity is not known.
        overwrite: replace files that exist.
        progress: called with a stage, what is done of it and its size.
        name: of the model, in the report.
        about: tells of model and data in the report that the plan's file holds.
        detailed: estimate the error of each operator and the front too, which a report shows.

    Raises:
        UserError: anything that the caller can mend.
    """
    low = parse_low(dtype)
    if out is not None:
        refuse_overwrite([out, plan_beside(out)], overwrite)
    clock = Clock(progress)
    request = Request(
        low, tuple(rules), target, name, plan, proving(prove, assume), detailed=detailed
    )
    with uncollected():
        start = start_from(clock, model, feeds if verify else (), low, rules, io or {}, verify)
        if plan is not None and plan.repairs:
            start = rewritten(start, start.model, stored_repairs(plan), low)
    if verify:
        kinds = kinds_of(repair)
        result = _verified(clock, start, request, tolerance, point, kinds)
    else:
        with uncollected():
            analysis = analyse(clock, start, request)
            result = replace(_applied(clock, analysis, in_place=True), unchecked=True)
    result = replace(
        result,
        analysis=with_evidence(clock, result.analysis),
        differences=_differences(clock, result, start.feeds[:1]),
    )
    if out is not None:
        with uncollected():
            result = _write(clock, result, out, about)
    return replace(result, seconds=dict(clock.seconds))


def analyze(
    model: Source,
    feeds: Sequence[Feed] = (),
    *,
    dtype: str = "float16",
    rules: Sequence[OpRule] = (),
    io: Mapping[str, str] | None = None,
    target: str | None = None,
    prove: Mapping[str, tuple[float, float]] | None = None,
    assume: Sequence[str] = (),
    measure: bool = False,
    verify: bool = True,
    progress: Progress | None = None,
    name: str = "model",
) -> Analysis:
    """The verdicts, ranges, hazards and plan for an ONNX model, and the repairs there are; changes
    and writes nothing. Arguments as for `convert`. `measure` also measures the error of each op by
    running it alone in `dtype`.
    """
    low = parse_low(dtype)
    clock = Clock(progress)
    request = Request(low, tuple(rules), target, name, None, proving(prove, assume), measure)
    with uncollected():
        start = start_from(clock, model, feeds, low, rules, io or {}, verify)
    analysis = studied(clock, analyse(clock, start, request), start, request)
    ways = OnnxWays(clock, replace(start, feeds=start.feeds[:1]), request)
    wanted = Search(default_tolerance(low), request.rules)
    return with_evidence(clock, with_offers(clock, analysis, ways, wanted))


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
    analysis = analyse(clock, start, Request(low, tuple(rules), target, name))
    analysis = with_parity_notes(analysis, len(start.feeds))
    limit = default_tolerance(low)
    wanted = _wanted(clock, start, rules, limit)
    return measured_front(clock, analysis, _check(clock, start, analysis, limit), wanted)


def _verified(
    clock: Clock,
    start: Start,
    request: Request,
    tolerance: float | None,
    point: int | None,
    kinds: Sequence[str],
) -> Conversion:
    """The conversion of the model that holds parity best; see `pipeline_search`."""
    analysis = analyse(clock, start, request)
    analysis = with_parity_notes(analysis, len(start.feeds))
    limit = tolerance or default_tolerance(request.low)
    check = _check(clock, start, analysis, limit)
    wanted = _wanted(clock, start, request.rules, limit)
    if point is not None:
        analysis = at_point(clock, analysis, check, wanted, point)
    chooses = point is None and request.plan is None
    wanted = replace(
        wanted,
        repair=chooses,
        fastest=chooses and tolerance is not None,
        trial=lambda found: _trial(found, start, limit),
    )
    if kinds and chooses:
        ways = OnnxWays(clock, start, request)
        if kinds == ALL:
            brief = OnnxWays(clock, replace(start, feeds=start.feeds[:1]), request)
            kinds = useful_kinds(clock, analysis, brief, wanted, kinds)
        result = search_repaired(clock, analysis, check, wanted, ways, kinds)
    else:
        result = search(clock, analysis, check, wanted)
    if request.detailed and result.analysis.errors is None:
        result = replace(result, analysis=studied(clock, result.analysis, start, request))
    return replace(result, front=predicted_front(clock, result.analysis, wanted))


def _wanted(clock: Clock, start: Start, rules: Sequence[OpRule], limit: float) -> Search:
    return Search(limit, rules, estimate=lambda found: estimated(clock, found, start))


def _trial(found: Analysis, start: Start, limit: float) -> Trial:
    """A quick run of plans for that model on the first batch: its emulation alone."""
    from ampconvert.frontends.onnx_run import outputs
    from ampconvert.verify.compare import verify_onnx

    assert found.model is not None
    model, feeds = found.model, start.feeds[:1]
    expected = outputs(start.model, feeds)

    def error(plan: Plan) -> float:
        applied = apply(model, plan)
        parities = verify_onnx(applied, expected, feeds, found.low, tolerance=limit).parities
        return max((p.rel_l2 if p.finite else math.inf for p in parities), default=0.0)

    return error


def _check(clock: Clock, start: Start, analysis: Analysis, limit: float) -> Check:
    """What applies a plan, loads the result and measures its parity."""
    start = replace(start, feeds=start.feeds[:PARITY_BATCHES])
    expected = _answers(clock, start)
    _refuse_nan(analysis, expected)
    return lambda found: _apply_and_check(clock, found, start, expected, limit)


def plan_beside(out: Path) -> Path:
    """Where the plan of the model in `out` is written: model.fp16.plan.json."""
    return out.with_name(f"{out.stem}.plan.json")


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


def _applied(clock: Clock, analysis: Analysis, *, in_place: bool = False) -> Conversion:
    assert analysis.model is not None
    with clock.stage("apply"), uncollected():
        model = apply(analysis.model, analysis.plan, in_place=in_place)
    return Conversion(analysis, None, model, None, {}, {}, len(analysis.plan.casts))


def _apply_and_check(
    clock: Clock, analysis: Analysis, start: Start, expected: list[dict[str, Any]], limit: float
) -> tuple[Conversion, Mapping[str, Decision]]:
    result = _applied(clock, analysis)
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


def _differences(clock: Clock, result: Conversion, feeds: Sequence[Feed]) -> Differences | None:
    """How far each result is from float32; None where nothing is run, or does not run."""
    from ampconvert.frontends.onnx_differences import layer_differences

    analysis = result.analysis
    if result.onnx is None or result.verification is None or analysis.model is None:
        return None
    with clock.stage("differences"):
        try:
            return layer_differences(analysis.model, result.onnx, analysis.graph, feeds)
        except UserError:  # parity says what is wrong with it
            return None


def _write(clock: Clock, result: Conversion, out: Path, about: Subject | None) -> Conversion:
    """`result` with its files written and named."""
    from ampconvert.frontends.onnx_save import save
    from ampconvert.report.jsonable import stored

    assert result.onnx is not None
    with clock.stage("write"):
        out.parent.mkdir(parents=True, exist_ok=True)
        written = save(result.onnx, out)
        files = {"onnx": written[0]}
        if len(written) > 1:
            files["onnx data"] = written[1]
        files["plan"] = plan_beside(out)
        result = replace(result, files=files)
        write_plan(result.plan, files["plan"], stored(about, result))
    return result
