"""The order of a conversion: capture, read, calibrate, classify, plan, apply, export, parity.

The only file that knows the order. A failed check is mended as a user would mend it: with extra
rules, and the conversion runs again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ampconvert.classify import Decision, classify
from ampconvert.conversion import Analysis, Batch, Conversion
from ampconvert.cost import load_target
from ampconvert.dtypes import Low, parse_low
from ampconvert.errors import UserError
from ampconvert.files import refuse_overwrite, suffixed, write_plan, write_program
from ampconvert.plan import Plan, fingerprint, low_is_unused, make_plan
from ampconvert.rules import OpRule, RuleBook, load
from ampconvert.summary import summarise
from ampconvert.verify.metrics import default_tolerance

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch
    from torch.export import ExportedProgram

    from ampconvert.verify.compare import Verification

Progress = Callable[[str, int, int], None]  # stage, steps done, steps in all (0: unknown)

ATTEMPTS = 4  # conversions until parity holds or the best is reported
AIM = 0.5  # of the tolerance: a plan's predicted error, so that the prediction may be off by two


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
    tolerance: float | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Conversion:
    """Convert `model`, as it runs on `args` and `kwargs`, to `dtype` and measure parity.

    `data` are batches (args, kwargs) that ranges and parity are taken from; without it the example
    is used alone. `rules` stand before the built-in ones; a `plan` from an earlier run replaces
    them all. With `out` the ONNX model, the program (.pt2) and the plan are written there; nothing
    that exists is overwritten unless `overwrite`. Raises UserError for anything its owner can mend.
    """
    low = parse_low(dtype)
    if out is not None:
        refuse_overwrite(
            [suffixed(out, name, low, kind) for kind in ("onnx", "pt2", "plan")], overwrite
        )
    clock = _Clock(progress)
    batches = list(data) or [(tuple(args), dict(kwargs or {}))]
    program, captured_as = _capture(clock, model, args, kwargs, dynamic, dynamic_batch)
    analysis = _analyse(clock, program, low, batches, rules, plan, name, captured_as)
    repair = plan is None
    result = _attempts(clock, analysis, batches, rules, tolerance or default_tolerance(low), repair)
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
    progress: Progress | None = None,
) -> Analysis:
    """The verdicts, ranges and plan for `model`; changes and writes nothing. Arguments as for
    `convert`.
    """
    clock = _Clock(progress)
    batches = list(data) or [(tuple(args), dict(kwargs or {}))]
    program, captured_as = _capture(clock, model, args, kwargs, dynamic, dynamic_batch)
    return _analyse(clock, program, parse_low(dtype), batches, rules, None, name, captured_as)


class _Clock:
    """Seconds per stage, and word of each stage to whoever shows progress."""

    def __init__(self, progress: Progress | None) -> None:
        self.seconds: dict[str, float] = {}
        self.progress = progress or (lambda stage, done, total: None)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.progress(name, 0, 0)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
            self.progress(name, 1, 1)


def _capture(
    clock: _Clock,
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
    clock: _Clock,
    program: ExportedProgram,
    low: Low,
    batches: Sequence[Batch],
    rules: Sequence[OpRule],
    plan: Plan | None,
    name: str,
    dynamic: str,
) -> Analysis:
    from ampconvert.frontends import fx, fx_run

    with clock.stage("read"):
        graph = fx.read(program)
    with clock.stage("calibrate"):
        ranges = fx_run.calibrate(
            program, batches, lambda done: clock.progress("calibrate", done, len(batches))
        )
    notes: list[str] = []
    with clock.stage("error per op"):
        try:
            errors: dict[str, float] | None = fx_run.rounding_error(program, batches[0], low)
        except UserError as error:
            errors = None
            notes.append(str(error))
    unused: tuple[str, ...] = ()
    if plan is None:
        with clock.stage("classify"):
            book = RuleBook((*rules, *load()))
            verdicts = classify(graph, book, low, ranges, errors)
            unused = tuple(rule.name for rule in book.unused if rule.user)
        with clock.stage("plan"):
            plan = make_plan(graph, verdicts, low, load_target())
    elif plan.fingerprint != fingerprint(graph) or plan.low != low:
        raise UserError(
            "the plan was made for another model or type: "
            f"it is for {plan.low} and graph {plan.fingerprint}, "
            f"this is {low} and {fingerprint(graph)}"
        )
    return Analysis(
        name, low, graph, plan, summarise(graph, plan, errors), ranges, errors, dynamic,
        tuple(notes), unused, clock.seconds, program,
    )  # fmt: skip


def _attempts(
    clock: _Clock,
    analysis: Analysis,
    batches: Sequence[Batch],
    rules: Sequence[OpRule],
    tolerance: float,
    repair: bool,
) -> Conversion:
    """Apply, export and check the plan; while parity fails, plan again with what the check
    found.
    """
    from ampconvert.verify.search import blame

    reference = _Reference(clock, analysis.program, batches)
    best: Conversion | None = None
    extra: dict[str, Decision] = {}
    aim: float | None = None
    for _ in range(ATTEMPTS):
        result, illegal = _apply_and_check(clock, analysis, reference, tolerance)
        if best is None or _better(result, best):
            best = result
        overflowed = result.verification.first_bad if result.verification else None
        found = illegal or blame(analysis.plan, overflowed)
        if result.ok or not repair or not (found or analysis.errors) or _as_good(result):
            break
        if not found:
            aim = AIM * (aim or tolerance)
        extra |= found
        analysis = _plan_again(clock, analysis, extra, rules, aim)
    assert best is not None
    if low_is_unused(best.plan):
        note = f"No operator runs in {analysis.low} in this plan: the file is the float32 model."
        best = replace(best, analysis=replace(best.analysis, notes=(*best.analysis.notes, note)))
    return best


def _as_good(result: Conversion) -> bool:
    """Whether the converted model errs no more than float32 itself does: no plan can do better."""
    parities = result.verification.parities if result.verification else ()
    own = [(p.rel_l2, p.reference_rel_l2) for p in parities]
    return bool(own) and all(full is not None and error <= 2 * full for error, full in own)


class _Reference:
    """The answers of the float32 model, and of the same model in float64 where its operators have
    that.
    """

    def __init__(self, clock: _Clock, program: ExportedProgram, batches: Sequence[Batch]) -> None:
        from ampconvert.frontends import fx_run

        with clock.stage("parity"):
            self.batches = batches
            self.full = fx_run.outputs(program, batches)
            self.double = fx_run.outputs_float64(program, batches)
            self.feeds = [fx_run.input_arrays(program, batch) for batch in batches]


def _apply_and_check(
    clock: _Clock, analysis: Analysis, reference: _Reference, tolerance: float
) -> tuple[Conversion, dict[str, Decision]]:
    """The conversion by the analysis' plan, and denials for nodes that ONNX can't hold in `low`."""
    from ampconvert.frontends import fx_apply, fx_export
    from ampconvert.verify.search import denied

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


def _better(candidate: Conversion, best: Conversion) -> bool:
    def rank(result: Conversion) -> tuple[bool, bool, float]:
        v = result.verification
        if v is None:
            return (False, False, float("-inf"))
        finite = all(p.finite for p in v.parities)
        return (v.ok, finite, -max((p.rel_l2 for p in v.parities), default=0.0))

    return rank(candidate) > rank(best)


def _plan_again(
    clock: _Clock,
    analysis: Analysis,
    extra: Mapping[str, Decision],
    rules: Sequence[OpRule],
    aim: float | None,
) -> Analysis:
    """A new plan with `extra` decisions, predicted to keep its error under `aim` when one is
    given.
    """
    from ampconvert.verify.search import within

    graph, low, target = analysis.graph, analysis.low, load_target()
    with clock.stage("plan"):
        book = RuleBook((*rules, *load()))
        verdicts = classify(graph, book, low, analysis.ranges, analysis.errors)
        verdicts = replace(verdicts, decisions={**verdicts.decisions, **extra})
        if aim is not None and analysis.errors is not None:
            plan = within(graph, verdicts, low, target, analysis.errors, aim)
        else:
            plan = make_plan(graph, verdicts, low, target)
    return replace(analysis, plan=plan, summary=summarise(graph, plan, analysis.errors))


def _write(clock: _Clock, result: Conversion, out: Path, name: str, low: Low) -> Conversion:
    """`result` with its files written and named."""
    from ampconvert.frontends.fx_export import save

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
