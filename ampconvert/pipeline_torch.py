"""A PyTorch model captured and looked at: graph, ranges, errors, proof, verdicts, plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ampconvert.conversion import Analysis, Batch, Request
from ampconvert.cost import target_named
from ampconvert.distributed import calibrated, go_on_alone
from ampconvert.dtypes import Low
from ampconvert.errors import UserError
from ampconvert.pipeline_evidence import proof_of
from ampconvert.pipeline_steps import Clock, check_plan, decide
from ampconvert.plan import Plan, make_plan
from ampconvert.ranges.sensitivity import lone_op_errors
from ampconvert.repairs import Repair
from ampconvert.repairs.correct_bias import halves
from ampconvert.summary import summarise

if TYPE_CHECKING:
    from torch.export import ExportedProgram

MEASURED = 2  # batches that the error of each op is measured on
# Backward passes for the error of each value: as many as this work allows, within limits.
PASS_FLOPS, LEAST_PASSES, MOST_PASSES = 4e10, 1, 16
FEW_PASSES = 4  # where only the report needs them


def batches_of(
    data: Iterable[Batch], args: tuple[Any, ...], kwargs: Mapping[str, Any] | None
) -> Sequence[Batch]:
    """The batches of `data`, which stay in their files where they are; else the example alone."""
    found = data if isinstance(data, Sequence) else list(data)
    return found if len(found) else [(tuple(args), dict(kwargs or {}))]


def captured(
    clock: Clock,
    model: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None,
    dynamic: Mapping[str, tuple[str | None, ...]] | None,
    dynamic_batch: bool,
    dynamic_shapes: Any = None,
) -> tuple[ExportedProgram, str]:
    """The program of `model` as it runs on `args` and `kwargs`, and what is dynamic in it."""
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
                    model,
                    tuple(args),
                    kwargs,
                    dynamic=dynamic,
                    dynamic_batch=dynamic_batch,
                    dynamic_shapes=dynamic_shapes,
                )
            finally:
                model.train(training)
    return found.program, found.dynamic


def analyse(
    clock: Clock,
    program: ExportedProgram,
    request: Request,
    batches: Sequence[Batch],
    dynamic: str,
) -> Analysis:
    """What `request` asks to be known of `program`, and the first plan for it."""
    from ampconvert.frontends import fx, fx_run

    low, target, plan = request.low, request.target, request.plan
    with clock.stage("read"):
        graph = fx.read(program)
    with clock.stage("calibrate"):
        ranges, _ = calibrated(
            batches,
            lambda own, tell: (fx_run.calibrate(program, own, tell, low=low), {}),
            lambda done, total: clock.progress("calibrate", done, total),
        )
    go_on_alone()
    said = target_named(target).notes.get(low, "") if target else ""
    notes = [said] if said else []
    errors = _errors(clock, program, batches, low, notes, request.hurried)
    unused: tuple[str, ...] = ()
    proof = proof_of(clock, graph, request, ranges)
    if plan is None:
        with clock.stage("classify"):
            verdicts, unused = decide(
                graph, low, request.rules, ranges, errors, target, proof=proof
            )
        with clock.stage("plan"):
            plan = make_plan(graph, verdicts, low, target_named(target))
    else:
        check_plan(plan, graph, low)
    found = Analysis(
        request.name, low, graph, plan, summarise(graph, plan, errors, target_named(target)),
        ranges, errors, dynamic, tuple(notes), unused, clock.seconds, program, target, proof=proof,
        proving=request.proving,
    )  # fmt: skip
    return _studied(clock, found, request, batches)


def _errors(
    clock: Clock,
    program: ExportedProgram,
    batches: Sequence[Batch],
    low: Low,
    notes: list[str],
    hurried: bool,
) -> Mapping[str, float] | None:
    """The squared output error of rounding each value; None, and a note, where it has no gradient.

    Small models can afford more passes, and need them: with few outputs one pass tells little.
    """
    from ampconvert.frontends import fx_errors

    with clock.stage("error per op"):
        passes = passes_for(program, batches)
        passes = min(passes, FEW_PASSES) if hurried else passes
        try:
            return fx_errors.predict(program, batches, low, probes=passes).values
        except UserError as error:
            notes.append(str(error))
            return None


def passes_for(program: ExportedProgram, batches: Sequence[Batch]) -> int:
    """How many backward passes the error of each value is averaged over: more for small programs,
    which can afford them, and with few outputs need them.
    """
    from torch.utils.flop_counter import FlopCounterMode

    from ampconvert.frontends import fx_run

    with FlopCounterMode(display=False) as counter:
        fx_run.outputs(program, batches[:1])
    work = max(1, counter.get_total_flops())
    return int(min(MOST_PASSES, max(LEAST_PASSES, PASS_FLOPS / work)))


def _studied(clock: Clock, found: Analysis, request: Request, batches: Sequence[Batch]) -> Analysis:
    """`found` with what is only looked into where it was asked for."""
    from ampconvert.frontends import fx_errors, fx_gradients
    from ampconvert.ranges.loss_scale import advise

    program = found.program
    assert program is not None
    if request.measure:
        with clock.stage("measure ops"):
            keep = {name: decision.keep for name, decision in found.plan.decisions.items()}
            measured = fx_errors.measured_op_errors(
                program, found.graph, batches[:MEASURED], found.low, keep=keep,
                tell=lambda done, total: clock.progress("measure ops", done, total),
            )  # fmt: skip
            edges = fx_errors.predict(
                program, batches, found.low, probes=passes_for(program, batches), edges=True
            )
            predicted = lone_op_errors(found.graph, edges, keep=keep)
        alone = {n: (predicted.get(n), energy) for n, energy in measured.items()}
        found = replace(found, alone=alone)
    if request.loss_scale:
        with clock.stage("loss scale"):
            exponents = fx_gradients.gradient_exponents(program, batches)
            full = [v.name for v in found.graph.values.values() if v.is_float32
                    and found.plan.type_of(found.graph, v.name) != found.low]  # fmt: skip
            advice = advise(
                exponents, found.low, found.graph, full=full,
                loss=fx_gradients.describe_loss(program),
            )  # fmt: skip
        found = replace(found, loss_scale=advice)
    return found


class TorchWays:
    """How a PyTorch model is rewritten and looked at again: what `pipeline_repair` asks for."""

    def __init__(
        self, clock: Clock, request: Request, batches: Sequence[Batch], dynamic: str
    ) -> None:
        self.clock = clock
        self.request = replace(request, measure=False, loss_scale=False)
        self.batches = batches
        self.dynamic = dynamic

    def again(self, analysis: Analysis, repairs: Sequence[Repair]) -> Analysis:
        """The analysis of the model with `repairs` made."""
        assert analysis.program is not None
        program = rewritten(analysis.program, repairs)
        return analyse(self.clock, program, self.request, self.batches, self.dynamic)

    def output_errors(self, analysis: Analysis, channels: Mapping[str, int]) -> Any:
        """How far layers are off on average, per channel, on half of the batches."""
        from ampconvert.frontends.fx_repair_bias import output_errors

        assert analysis.program is not None
        first, _ = halves(self.batches)
        return output_errors(analysis.program, first, analysis.low, channels)


def torch_trial(found: Analysis, batch: Batch) -> Callable[[Plan], float]:
    """A quick run of plans for that model on one batch: no export, no file, no runtime."""
    from ampconvert.frontends.fx_measured import Trials

    assert found.program is not None
    keep = {name: decision.keep for name, decision in found.plan.decisions.items()}
    trials = Trials(found.program, batch, found.low, keep)
    return lambda plan: trials.error([n for n, t in plan.compute.items() if t == found.low])


def rewritten(program: ExportedProgram, repairs: Sequence[Repair]) -> ExportedProgram:
    """`program` with the repairs made."""
    from ampconvert.frontends import fx_repair

    return fx_repair.rewrite(program, repairs)
