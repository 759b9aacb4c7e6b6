"""The order of a conversion: capture, read, calibrate, classify, plan, apply, export, parity.

For PyTorch models; `pipeline_onnx` is its like for ONNX.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ampconvert.classify import Decision
from ampconvert.conversion import Analysis, Batch, Conversion, Pareto, Request
from ampconvert.differences import Differences
from ampconvert.dtypes import Low, parse_low
from ampconvert.errors import UserError
from ampconvert.files import refuse_overwrite, suffixed, write_plan, write_program
from ampconvert.pipeline_evidence import proving, with_evidence
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
    with_parity_notes,
)
from ampconvert.pipeline_torch import (
    TorchWays,
    analyse,
    batches_of,
    captured,
    rewritten,
    torch_trial,
)
from ampconvert.plan import Plan
from ampconvert.rules import OpRule
from ampconvert.verify.metrics import default_tolerance

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch
    from torch.export import ExportedProgram

    from ampconvert.frontends.fx_export_interface import Interface
    from ampconvert.report.subject import Subject
    from ampconvert.verify.compare import Verification


def convert(
    model: torch.nn.Module | ExportedProgram,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dtype: str = "float16",
    data: Sequence[Batch] = (),
    rules: Sequence[OpRule] = (),
    plan: Plan | None = None,
    out: Path | None = None,
    name: str = "model",
    dynamic: Mapping[str, tuple[str | None, ...]] | None = None,
    dynamic_batch: bool = True,
    target: str | None = None,
    tolerance: float | None = None,
    point: int | None = None,
    prove: Mapping[str, tuple[float, float]] | None = None,
    assume: Sequence[str] = (),
    repair: bool | Sequence[str] = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    about: Subject | None = None,
    dynamic_shapes: Any = None,
    interface: Interface | None = None,
) -> Conversion:
    """Convert `model`, as it runs on `args` and `kwargs`, to `dtype` and measure parity.

    Args:
        model: a module, or a program that torch.export captured.
        args: positional arguments of the example that it is captured on.
        kwargs: keyword arguments of the same.
        dtype: "float16" or "bfloat16".
        data: batches (args, kwargs) for ranges and parity; without them the example alone.
        rules: stand before the built-in ones.
        plan: of an earlier run; replaces all rules.
        out: the folder that the ONNX model, the program (.pt2) and the plan are written to.
        name: what their names begin with.
        dynamic: dimensions that may vary, by input: a name, "" without one, None for a fixed one.
        dynamic_batch: try the first dimension of every input as a dynamic batch.
        target: the table of costs and kernels: "trt", "ort-cuda", "ort-cpu".
        tolerance: the largest relative L2 error of an output, inside which the fastest plan is
            looked for; without it the rules' plan is taken where it stays inside the default.
        point: take that plan of `pareto` instead.
        prove: ranges of inputs by name, from which bounds of every value are proved.
        assume: contracts for the proof, such as "encoder.layer.3*<=100".
        repair: rewrite what would have to stay float32: True for all kinds, or their names.
        overwrite: replace files that exist.
        progress: called with a stage, what is done of it and its size.
        about: tells of model and data in the report that the plan's file holds.
        dynamic_shapes: as for torch.export, in place of `dynamic`.
        interface: what the ONNX model is to look like from outside.

    Raises:
        UserError: anything that the caller can mend.
    """
    low = parse_low(dtype)
    if out is not None:
        refuse_overwrite(
            [suffixed(out, name, low, kind) for kind in ("onnx", "pt2", "plan")], overwrite
        )
    clock = Clock(progress)
    batches = batches_of(data, args, kwargs)
    program, captured_as = captured(
        clock, model, args, kwargs, dynamic, dynamic_batch, dynamic_shapes
    )
    hurried = tolerance is None and point is None and not repair
    request = Request(
        low, tuple(rules), target, name, plan, proving(prove, assume), hurried=hurried
    )
    if plan is not None and plan.repairs:
        program = rewritten(program, stored_repairs(plan))
    analysis = analyse(clock, program, request, batches, captured_as)
    analysis = with_parity_notes(analysis, len(batches))
    limit = tolerance or default_tolerance(low)
    chooses = plan is None and point is None
    wanted = Search(limit, request.rules, repair=chooses, fastest=chooses and tolerance is not None)
    check = _check(clock, analysis, batches, limit, interface)
    wanted = replace(wanted, trial=lambda found: torch_trial(found, batches[0]))
    if point is not None:
        analysis = at_point(clock, analysis, check, wanted, point)
    if repair and chooses:
        ways = TorchWays(clock, request, batches, captured_as)
        kinds = kinds_of(repair)
        if kinds == ALL:
            brief = TorchWays(clock, request, batches[:1], captured_as)
            kinds = useful_kinds(clock, analysis, brief, wanted, kinds)
        result = search_repaired(clock, analysis, check, wanted, ways, kinds)
    else:
        result = search(clock, analysis, check, wanted)
    result = replace(
        result,
        front=predicted_front(clock, result.analysis, wanted),
        analysis=with_evidence(clock, result.analysis),
        differences=_differences(clock, result, program, batches[:1]),
    )
    if out is not None:
        result = _write(clock, result, out, name, low, about)
    return replace(result, seconds=dict(clock.seconds))


def analyze(
    model: torch.nn.Module | ExportedProgram,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dtype: str = "float16",
    data: Sequence[Batch] = (),
    rules: Sequence[OpRule] = (),
    name: str = "model",
    dynamic: Mapping[str, tuple[str | None, ...]] | None = None,
    dynamic_batch: bool = True,
    target: str | None = None,
    prove: Mapping[str, tuple[float, float]] | None = None,
    assume: Sequence[str] = (),
    measure: bool = False,
    loss_scale: bool = False,
    progress: Progress | None = None,
) -> Analysis:
    """The verdicts, ranges, hazards and plan for `model`, and the repairs there are; changes and
    writes nothing. Arguments as for `convert`. `measure` also measures the error of each op by
    running it alone in `dtype`; `loss_scale` advises on the loss scale for training.
    """
    clock = Clock(progress)
    batches = batches_of(data, args, kwargs)
    program, captured_as = captured(clock, model, args, kwargs, dynamic, dynamic_batch)
    low = parse_low(dtype)
    request = Request(
        low, tuple(rules), target, name, None, proving(prove, assume), measure, loss_scale
    )
    analysis = analyse(clock, program, request, batches, captured_as)
    ways = TorchWays(clock, request, batches[:1], captured_as)
    wanted = Search(default_tolerance(low), request.rules)
    return with_evidence(clock, with_offers(clock, analysis, ways, wanted))


def pareto(
    model: torch.nn.Module | ExportedProgram,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dtype: str = "float16",
    data: Sequence[Batch] = (),
    rules: Sequence[OpRule] = (),
    name: str = "model",
    dynamic: Mapping[str, tuple[str | None, ...]] | None = None,
    dynamic_batch: bool = True,
    target: str | None = None,
    progress: Progress | None = None,
) -> Pareto:
    """Predicted time against measured error of the plans worth having; writes nothing. Arguments
    as for `convert`, whose `point` takes one of them.
    """
    clock = Clock(progress)
    batches = batches_of(data, args, kwargs)
    program, captured_as = captured(clock, model, args, kwargs, dynamic, dynamic_batch)
    low = parse_low(dtype)
    request = Request(low, tuple(rules), target, name)
    analysis = analyse(clock, program, request, batches, captured_as)
    limit = default_tolerance(low)
    analysis = with_parity_notes(analysis, len(batches))
    check = _check(clock, analysis, batches, limit)
    return measured_front(clock, analysis, check, Search(limit, request.rules))


def _check(
    clock: Clock,
    analysis: Analysis,
    batches: Sequence[Batch],
    limit: float,
    interface: Interface | None = None,
) -> Check:
    """What applies a plan, exports it and measures its parity."""
    assert analysis.program is not None
    reference = _Reference(clock, analysis.program, batches[:PARITY_BATCHES])
    return lambda found: _apply_and_check(clock, found, reference, limit, interface)


class _Reference:
    """The answers of the float32 model, and of the same model in float64 where its operators have
    that.
    """

    def __init__(self, clock: Clock, program: ExportedProgram, batches: Sequence[Batch]) -> None:
        from ampconvert.frontends import fx_run

        with clock.stage("parity"):
            self.batches = batches
            self.full = fx_run.outputs(program, batches)
            self.double = fx_run.outputs_float64(program, batches)
            self.feeds = [fx_run.input_arrays(program, batch) for batch in batches]


def _apply_and_check(
    clock: Clock,
    analysis: Analysis,
    reference: _Reference,
    tolerance: float,
    interface: Interface | None,
) -> tuple[Conversion, dict[str, Decision]]:
    """The conversion by the analysis' plan, and denials for nodes that ONNX can't hold in `low`."""
    from ampconvert.front import denied
    from ampconvert.frontends import fx_apply, fx_export

    assert analysis.program is not None
    with clock.stage("apply"):
        program = fx_apply.apply(analysis.program, analysis.plan)
    with clock.stage("export"):
        exported = fx_export.to_onnx(program, analysis.program, analysis.plan, interface)
    decisions = analysis.plan.decisions
    illegal = {
        node: denied(decisions[node], "onnx-schema", reason)
        for node, reason in fx_export.illegal_nodes(exported, analysis.low).items()
        if node in analysis.plan.compute
    }
    casts = sum(node.op_type == "Cast" for node in exported.model.graph.all_nodes())
    result = Conversion(analysis, program, exported.model, None, {}, {}, casts)
    if illegal:
        return result, illegal
    with clock.stage("parity"):
        verification = _verify(exported.model, reference, analysis.low, tolerance)
    return replace(result, verification=verification), {}


def _verify(model: ir.Model, reference: _Reference, low: Low, tolerance: float) -> Verification:
    from ampconvert.verify.compare import verify_onnx
    from ampconvert.verify.metrics import compare

    names = [value.name or "" for value in model.graph.inputs]
    outputs = [value.name or "" for value in model.graph.outputs]
    feeds = [dict(zip(names, arrays, strict=True)) for arrays in reference.feeds]
    truth = reference.double or reference.full
    found = verify_onnx(model, truth, feeds, low, tolerance=tolerance, names=outputs)
    if reference.double is None:
        return found
    own = [
        compare(
            name, [b[i] for b in reference.double], [b[i] for b in reference.full], tolerance
        ).rel_l2
        for i, name in enumerate(outputs)
    ]
    parities = tuple(
        replace(parity, reference_rel_l2=error)
        for parity, error in zip(found.parities, own, strict=True)
    )
    return replace(found, parities=parities)


def _differences(
    clock: Clock, result: Conversion, program: ExportedProgram, batches: Sequence[Batch]
) -> Differences | None:
    """How far each result is from float32; None where the emulated model does not run."""
    from ampconvert.frontends.fx_differences import layer_differences

    analysis = result.analysis
    if result.onnx is None or result.verification is None:
        return None
    with clock.stage("differences"):
        try:
            return layer_differences(
                analysis.program or program, result.onnx, analysis.graph, batches
            )
        except UserError:  # parity says what is wrong with it
            return None


def _write(
    clock: Clock, result: Conversion, out: Path, name: str, low: Low, about: Subject | None
) -> Conversion:
    """`result` with its files written and named."""
    from ampconvert.frontends.onnx_save import save
    from ampconvert.report.jsonable import stored

    with clock.stage("write"):
        out.mkdir(parents=True, exist_ok=True)
        files: dict[str, Path] = {}
        notes: tuple[str, ...] = ()
        if result.onnx is not None:
            files["onnx"] = suffixed(out, name, low, "onnx")
            written = save(result.onnx, files["onnx"])
            if len(written) > 1:
                files["onnx data"] = written[1]
        program = suffixed(out, name, low, "pt2")
        try:
            assert result.program is not None
            write_program(result.program, program)
            files["pt2"] = program
        except (
            RuntimeError
        ) as error:  # torch's own archive writer; the ONNX file stands all the same
            note = f"torch.export.save could not write the .pt2: {str(error).splitlines()[0]}"
            notes = (note,)
        files["plan"] = suffixed(out, name, low, "plan")
        analysis = replace(result.analysis, notes=(*result.analysis.notes, *notes))
        result = replace(result, files=files, analysis=analysis)
        write_plan(result.plan, files["plan"], stored(about, result))
    return result
