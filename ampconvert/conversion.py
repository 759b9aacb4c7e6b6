"""What a conversion gives: the analysis it rests on, and the finished model with its parity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ampconvert.dtypes import Low
from ampconvert.errors import UserError
from ampconvert.graph import Graph
from ampconvert.plan import Plan
from ampconvert.ranges.calibrate import Range
from ampconvert.summary import Summary

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch
    from torch.export import ExportedProgram

    from ampconvert.verify.compare import Verification

Batch = tuple[tuple[Any, ...], dict[str, Any]]


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
    program: ExportedProgram = field(repr=False)


@dataclass(frozen=True)
class Conversion:
    """A finished conversion.

    `program` is the lowered ExportedProgram, `onnx` the model that was checked, `verification` how
    far its answers are off, `files` what was written by kind ("onnx", "pt2", "plan").
    """

    analysis: Analysis
    program: ExportedProgram = field(repr=False)
    onnx: ir.Model | None = field(repr=False)
    verification: Verification | None
    files: Mapping[str, Path]
    seconds: Mapping[str, float]
    casts_onnx: int = 0

    @property
    def plan(self) -> Plan:
        """The plan that was applied."""
        return self.analysis.plan

    @property
    def summary(self) -> Summary:
        """What the plan amounts to."""
        return self.analysis.summary

    @property
    def ok(self) -> bool:
        """Whether parity was measured and held."""
        return self.verification is not None and self.verification.ok

    @property
    def module(self) -> torch.nn.Module:
        """The converted model: same signature, outputs and state_dict keys as the original."""
        return self.program.module()

    def run(self, batches: Sequence[Batch]) -> list[list[np.ndarray[Any, Any]]]:
        """What the converted model answers, with every stored value rounded to its type, batch by
        batch.

        Runs the emulated model on ONNX Runtime's CPU provider: the same numbers that parity is
        judged by.
        """
        from ampconvert.frontends.fx_run import input_arrays
        from ampconvert.verify.emulate import emulate
        from ampconvert.verify.runtimes import run_onnx

        if self.onnx is None:
            raise UserError("this conversion exported no ONNX model to run")
        names = [value.name or "" for value in self.onnx.graph.inputs]
        feeds = [dict(zip(names, input_arrays(self.program, b), strict=True)) for b in batches]
        results = run_onnx(emulate(self.onnx), feeds)
        wanted = [value.name or "" for value in self.onnx.graph.outputs]
        return [[result[name] for name in wanted] for result in results]
