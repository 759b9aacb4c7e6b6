"""What a conversion gives: the analysis it rests on, and the finished model with its parity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ampconvert.differences import Differences
from ampconvert.dtypes import Low
from ampconvert.errors import UserError
from ampconvert.findings import Finding
from ampconvert.graph import Graph
from ampconvert.plan import Plan
from ampconvert.ranges.calibrate import Range
from ampconvert.ranges.loss_scale import LossScale
from ampconvert.ranges.prove import Assumption, Proof
from ampconvert.ranges.safety import Safety
from ampconvert.repairs import Declined, Repair
from ampconvert.rules import OpRule
from ampconvert.summary import Summary

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch
    from torch.export import ExportedProgram

    from ampconvert.front import Point
    from ampconvert.verify.compare import Verification

Batch = tuple[tuple[Any, ...], dict[str, Any]]
Feed = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Proving:
    """What a proof rests on: ranges of inputs by name, and contracts."""

    declared: Mapping[str, tuple[float, float]]
    assumptions: tuple[Assumption, ...] = ()


@dataclass(frozen=True)
class Request:
    """What an analysis or conversion was asked for. `rules` stand before the built-in ones,
    `target` names the table of costs and kernels; `plan`, where given, replaces rules and ranges.
    """

    low: Low
    rules: tuple[OpRule, ...] = ()
    target: str | None = None
    name: str = "model"
    plan: Plan | None = None
    proving: Proving | None = None
    measure: bool = False  # the error of each op, by running the model once for each
    loss_scale: bool = False  # advice on it, from one backward pass
    hurried: bool = False  # a few passes for the error per op are enough
    detailed: bool = False  # the error per op is wanted in any case, for a report


@dataclass(frozen=True)
class Offer:
    """One kind of repair: where it can be made, and what is predicted before and after it: relative
    L2 error, seconds of one run, and how many operators are FP32-required.
    """

    kind: str
    repairs: tuple[Repair, ...]
    error: tuple[float | None, float | None]
    seconds: tuple[float, float]
    required: tuple[int, int]

    @property
    def gains(self) -> bool:
        """Whether anything is predicted to get better: the error, the time, what has to stay."""
        before, after = self.error
        errs_less = before is not None and after is not None and after < 0.98 * before
        return (
            errs_less
            or self.seconds[1] < 0.99 * self.seconds[0]
            or (self.required[1] < self.required[0])
        )


@dataclass(frozen=True)
class Analysis:
    """A model as it is seen before anything is changed: graph, ranges, plan, and what the plan
    amounts to.
    """

    name: str
    low: Low
    graph: Graph
    plan: Plan
    summary: Summary
    ranges: Mapping[str, Range]
    errors: Mapping[str, float] | None
    dynamic: str
    notes: tuple[str, ...]
    unused_rules: tuple[str, ...]
    seconds: Mapping[str, float]
    program: ExportedProgram | None = field(repr=False)  # None for an ONNX model
    target: str | None = None
    # Measured instead of predicted: bounds on the error of rounding values that `low` hardly holds.
    measured: Mapping[str, float] = field(default_factory=dict)
    opset: int | None = None  # of an ONNX model
    findings: tuple[Finding, ...] = ()  # the hazards, and how the plan has dealt with them
    proving: Proving | None = None
    proof: Proof | None = None  # of the verdicts first, of the finished plan in the end
    safety: Mapping[str, Safety] = field(default_factory=dict)  # by node
    # Each op alone in `low`: the squared relative output error, predicted and measured.
    alone: Mapping[str, tuple[float | None, float]] = field(default_factory=dict)
    loss_scale: LossScale | None = None
    offers: tuple[Offer, ...] = ()  # repairs that can be made
    declined: tuple[Declined, ...] = ()  # and places that they do not fit
    repairs: tuple[Repair, ...] = ()  # those that were made
    model: ir.Model | None = field(default=None, repr=False)  # None for a PyTorch model


@dataclass(frozen=True)
class Attempt:
    """One parity run of a conversion: what its plan was predicted to do, and what was measured.

    `aim` is the predicted error that the plan was made for, None for the plan that the verdicts
    alone give. Errors are relative L2 errors of the worst output; `seconds` is the predicted time
    of one run of the model, `full` how many operators on floats stayed in float32.
    """

    aim: float | None
    predicted: float | None
    measured: float
    seconds: float
    full: int
    ok: bool
    trial: float | None = None  # what a quick run of this plan showed before
    trials: int = 0  # quick runs that it took to find this plan


@dataclass(frozen=True)
class Tried:
    """One point of a front, with the error that its parity run measured."""

    point: Point
    measured: float
    finite: bool


@dataclass(frozen=True)
class Pareto:
    """Predicted time against error: `points` from the fastest on, and the plan that the verdicts
    alone give, which another may beat. `seconds_full` is the float32 model's predicted time.
    """

    analysis: Analysis
    points: tuple[Tried, ...]
    default: Tried
    seconds_full: float
    seconds: Mapping[str, float]

    @property
    def runs(self) -> int:
        """How many parity runs it took."""
        return len(self.points) + 1


@dataclass(frozen=True)
class Conversion:
    """A finished conversion.

    `program` is the lowered ExportedProgram, None for a model that came as ONNX; `onnx` the model
    that was checked, `verification` how far its answers are off, `files` what was written by kind
    ("onnx", "onnx data", "pt2", "plan"). `unchecked` says that parity was not asked for.
    """

    analysis: Analysis
    program: ExportedProgram | None = field(repr=False)
    onnx: ir.Model | None = field(repr=False)
    verification: Verification | None
    files: Mapping[str, Path]
    seconds: Mapping[str, float]
    casts_onnx: int = 0
    unchecked: bool = False
    attempts: tuple[Attempt, ...] = ()  # every parity run that it took, in order
    differences: Differences | None = None  # each result's from float32, on the first batch
    front: tuple[Point, ...] = ()  # plans worth having by prediction, fastest first

    @property
    def plan(self) -> Plan:
        """The plan that was applied."""
        return self.analysis.plan

    @property
    def summary(self) -> Summary:
        """What the plan amounts to."""
        return self.analysis.summary

    @property
    def runs(self) -> int:
        """How many parity runs it took."""
        return len(self.attempts)

    @property
    def trials(self) -> int:
        """How many quick runs of candidate plans it took beside those."""
        return sum(attempt.trials for attempt in self.attempts)

    @property
    def ok(self) -> bool:
        """Whether parity was measured and held."""
        return self.verification is not None and self.verification.ok

    @property
    def module(self) -> torch.nn.Module:
        """The converted model: same signature, outputs and state_dict keys as the original."""
        if self.program is None:
            raise UserError("an ONNX model was converted: it has no PyTorch module; use .onnx")
        return self.program.module()

    def save(self, path: str | Path, *, overwrite: bool = False) -> list[Path]:
        """Write the converted ONNX model; weights from 1 GiB on stand in a second file beside it.

        Returns the files written. Raises UserError when there is no ONNX model or `path` exists.
        """
        from ampconvert.files import refuse_overwrite
        from ampconvert.frontends.onnx_save import save

        if self.onnx is None:
            raise UserError("this conversion has no ONNX model to write")
        refuse_overwrite([Path(path)], overwrite)
        return save(self.onnx, Path(path))

    def report(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the report: one page with everything (.html), a summary (.md) or the data (.json).

        Returns the file. Raises UserError for another suffix, or when `path` exists.
        """
        from ampconvert.files import refuse_overwrite
        from ampconvert.report.jsonable import conversion, plain
        from ampconvert.report.pages import write

        refuse_overwrite([Path(path)], overwrite)
        return write(plain(conversion(None, self)), [Path(path)])[0]

    def run(self, batches: Sequence[Batch | Feed]) -> list[list[np.ndarray[Any, Any]]]:
        """What the converted model answers, with every stored value rounded to its type, batch by
        batch: arguments as for the module, or for an ONNX model arrays by input name.

        Runs the emulated model on ONNX Runtime's CPU provider: the same numbers that parity is
        judged by.
        """
        from ampconvert.verify.emulate import emulate
        from ampconvert.verify.runtimes import run_onnx

        if self.onnx is None:
            raise UserError("this conversion exported no ONNX model to run")
        results = run_onnx(emulate(self.onnx), [self._feed(batch) for batch in batches])
        wanted = [value.name or "" for value in self.onnx.graph.outputs]
        return [[result[name] for name in wanted] for result in results]

    def _feed(self, batch: Batch | Feed) -> Mapping[str, np.ndarray[Any, Any]]:
        if isinstance(batch, Mapping):
            return batch
        assert self.onnx is not None
        if self.program is None:
            raise UserError("give each batch as a dictionary of arrays by input name")
        from ampconvert.frontends.fx_run import input_arrays

        names = [value.name or "" for value in self.onnx.graph.inputs]
        return dict(zip(names, input_arrays(self.program, batch), strict=True))
