"""The order of a conversion: capture, read, calibrate, classify, plan, apply, export, parity.

For PyTorch models; `pipeline_onnx` is its like for ONNX.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ampconvert.classify import Decision
from ampconvert.conversion import Analysis, Batch, Conversion, Pareto
from ampconvert.dtypes import Low, parse_low
from ampconvert.errors import UserError
from ampconvert.files import refuse_overwrite, suffixed, write_plan, write_program
from ampconvert.pipeline_search import Check, Search, at_point, measured_front, search
from ampconvert.pipeline_steps import Clock, Progress, check_plan, decide, target_named
from ampconvert.plan import Plan, make_plan
from ampconvert.rules import OpRule
from ampconvert.summary import summarise
from ampconvert.verify.metrics import default_tolerance

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch
    from torch.export import ExportedProgram

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
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Conversion:
    """Convert `model`, as it runs on `args` and `kwargs`, to `dtype` and measure parity.

    `data` are batches (args, kwargs) that ranges and parity are taken from; without it the example
    is used alone. Given a `tolerance`, the largest relative L2 error of an output, the fastest plan
    inside it is looked for; else the plan that the rules give is taken where it stays inside the
    default. `point` takes that plan of `pareto` instead. `rules` stand before the built-in ones; a
    `plan` from an earlier run replaces them all. `target` names the table of costs and kernels. With `out` the ONNX model, the program
    (.pt2) and the plan are written there; nothing that exists is overwritten unless `overwrite`.
    Raises UserError for anything its owner can mend.
    """
    low = parse_low(dtype)
    if out is not None:
        refuse_overwrite(
            [suffixed(out, name, low, kind) for kind in ("onnx", "pt2", "plan")], overwrite
        )
    clock = Clock(progress)
    batches = list(data) or [(tuple(args), dict(kwargs or {}))]
    program, captured_as = _capture(clock, model, args, kwargs, dynamic, dynamic_batch)
    analysis = _analyse(clock, program, low, batches, rules, plan, name, captured_as, target)
    limit = tolerance or default_tolerance(low)
    chooses = plan is None and point is None
    wanted = Search(limit, rules, repair=chooses, fastest=chooses and tolerance is not None)
    check = _check(clock, analysis, batches, limit)
    if point is not None:
        analysis = at_point(clock, analysis, check, wanted, point)
    result = search(clock, analysis, check, wanted)
    if out is not None:
        result = _write(clock, result, out, name, low)
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
    progress: Progress | None = None,
) -> Analysis:
    """The verdicts, ranges and plan for `model`; changes and writes nothing. Arguments as for
    `convert`.
    """
    clock = Clock(progress)
    batches = list(data) or [(tuple(args), dict(kwargs or {}))]
    program, captured_as = _capture(clock, model, args, kwargs, dynamic, dynamic_batch)
    low = parse_low(dtype)
    return _analyse(clock, program, low, batches, rules, None, name, captured_as, target)


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
    batches = list(data) or [(tuple(args), dict(kwargs or {}))]
    program, captured_as = _capture(clock, model, args, kwargs, dynamic, dynamic_batch)
    low = parse_low(dtype)
    analysis = _analyse(clock, program, low, batches, rules, None, name, captured_as, target)
    limit = default_tolerance(low)
    check = _check(clock, analysis, batches, limit)
    return measured_front(clock, analysis, check, Search(limit, rules))


def _capture(
    clock: Clock,
    model: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None,
    dynamic: Mapping[str, tuple[str | None, ...]] | None,
    dynamic_batch: bool,
) -> tuple[ExportedProgram, str]:
    from torch.export import ExportedProgram

    from ampconvert.frontends.capture import adopt, capture

    with clock.stage("capture"):
        if isinstance(model, ExportedProgram):
            found = adopt(model)
        else:
            training = model.training
            model.eval()
            try:
                found = capture(
                    model, tuple(args), kwargs, dynamic=dynamic, dynamic_batch=dynamic_batch
                )
            finally:
                model.train(training)
    return found.program, found.dynamic


def _analyse(
    clock: Clock,
    program: ExportedProgram,
    low: Low,
    batches: Sequence[Batch],
    rules: Sequence[OpRule],
    plan: Plan | None,
    name: str,
    dynamic: str,
    target: str | None,
) -> Analysis:
    from ampconvert.frontends import fx, fx_run

    with clock.stage("read"):
        graph = fx.read(program)
    with clock.stage("calibrate"):
        ranges = fx_run.calibrate(
            program, batches, lambda done: clock.progress("calibrate", done, len(batches)), low=low
        )
    said = target_named(target).notes.get(low, "") if target else ""
    notes = [said] if said else []
    with clock.stage("error per op"):
        try:
            errors: dict[str, float] | None = fx_run.rounding_error(program, batches[0], low)
        except UserError as error:
            errors = None
            notes.append(str(error))
    unused: tuple[str, ...] = ()
    if plan is None:
        with clock.stage("classify"):
            verdicts, unused = decide(graph, low, rules, ranges, errors, target)
        with clock.stage("plan"):
            plan = make_plan(graph, verdicts, low, target_named(target))
    else:
        check_plan(plan, graph, low)
    return Analysis(
        name, low, graph, plan, summarise(graph, plan, errors, target_named(target)), ranges,
        errors, dynamic, tuple(notes), unused, clock.seconds, program, target,
    )  # fmt: skip


def _check(clock: Clock, analysis: Analysis, batches: Sequence[Batch], limit: float) -> Check:
    """What applies a plan, exports it and measures its parity."""
    assert analysis.program is not None
    reference = _Reference(clock, analysis.program, batches)
    return lambda found: _apply_and_check(clock, found, reference, limit)


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
    clock: Clock, analysis: Analysis, reference: _Reference, tolerance: float
) -> tuple[Conversion, dict[str, Decision]]:
    """The conversion by the analysis' plan, and denials for nodes that ONNX can't hold in `low`."""
    from ampconvert.front import denied
    from ampconvert.frontends import fx_apply, fx_export

    assert analysis.program is not None
    with clock.stage("apply"):
        program = fx_apply.apply(analysis.program, analysis.plan)
    with clock.stage("export"):
        exported = fx_export.to_onnx(program, analysis.program, analysis.plan)
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


def _write(clock: Clock, result: Conversion, out: Path, name: str, low: Low) -> Conversion:
    """`result` with its files written and named."""
    from ampconvert.frontends.onnx_save import save

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
        write_plan(result.plan, files["plan"])
    analysis = replace(result.analysis, notes=(*result.analysis.notes, *notes))
    return replace(result, files=files, analysis=analysis)
