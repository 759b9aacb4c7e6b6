"""Models repaired and run: what float32 and the emulated low model answer, in both formats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch.export import ExportedProgram

from ampconvert.classify import Decision, classify
from ampconvert.cost import load_target
from ampconvert.dtypes import Low
from ampconvert.frontends import (
    fx,
    fx_apply,
    fx_export,
    fx_repair,
    fx_run,
    onnx_apply,
    onnx_repair,
    onnx_run,
)
from ampconvert.frontends import onnx as onnx_read
from ampconvert.frontends.capture import capture
from ampconvert.graph import Graph
from ampconvert.plan import Plan, make_plan
from ampconvert.ranges.calibrate import Range
from ampconvert.repairs import Repair
from ampconvert.rules import RuleBook, load
from ampconvert.verify.emulate import emulate
from ampconvert.verify.runtimes import run_onnx

Arrays = Sequence[np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Outcome:
    """How far the emulated model is off float32's answers, and which nodes ran in the low type."""

    errors: tuple[float, ...]
    low: frozenset[str]

    @property
    def error(self) -> float:
        """The worst relative L2 error of an output; infinite where one is not finite."""
        return max(self.errors)


@dataclass(frozen=True)
class Torch:
    """A PyTorch model with one batch."""

    program: ExportedProgram
    args: tuple[torch.Tensor, ...]

    @staticmethod
    def of(module: torch.nn.Module, *args: torch.Tensor) -> Torch:
        """Captured as a conversion does, with a dynamic batch."""
        return Torch(capture(module.eval(), args).program, args)

    @property
    def graph(self) -> Graph:
        """The core Graph."""
        return fx.read(self.program)

    def ranges(self, low: Low = "float16") -> Mapping[str, Range]:
        """What the batch shows."""
        return fx_run.calibrate(self.program, [(self.args, {})], low=low)

    def repaired(self, repairs: Iterable[Repair]) -> Torch:
        """The model with the repairs made."""
        return replace(self, program=fx_repair.rewrite(self.program, tuple(repairs)))

    def answers(self) -> Arrays:
        """What float32 answers."""
        return fx_run.outputs(self.program, [(self.args, {})])[0]

    def run(
        self,
        low: Low,
        expected: Arrays,
        allows: Iterable[str] = (),
        ranges: Mapping[str, Range] | None = None,
    ) -> Outcome:
        """The converted program as PyTorch runs it on the CPU: no export, so it is quick."""
        plan = _plan(self.graph, low, ranges, allows, ())
        found = fx_run.outputs(fx_apply.apply(self.program, plan), [(self.args, {})])[0]
        return _outcome(found, expected, plan)

    def emulated(
        self,
        low: Low,
        expected: Arrays,
        allows: Iterable[str] = (),
        keeps: Iterable[str] = (),
        ranges: Mapping[str, Range] | None = None,
    ) -> Outcome:
        """The converted model, exported and emulated."""
        plan = _plan(self.graph, low, ranges, allows, keeps)
        lowered = fx_apply.apply(self.program, plan)
        exported = fx_export.to_onnx(lowered, self.program, plan)
        assert not fx_export.illegal_nodes(exported, low)
        model = exported.model
        onnx.checker.check_model(ir.to_proto(model), full_check=True)
        names = [value.name for value in model.graph.inputs]
        arrays = fx_run.input_arrays(self.program, (self.args, {}))
        feed = dict(zip(names, arrays, strict=True))
        return _outcome(_emulated(model, feed), expected, plan)


@dataclass(frozen=True)
class Onnx:
    """An ONNX model with one batch."""

    model: ir.Model
    feed: Mapping[str, np.ndarray[Any, Any]]

    @property
    def graph(self) -> Graph:
        """The core Graph."""
        return onnx_read.read(self.model, "float16")

    def ranges(self, low: Low = "float16") -> Mapping[str, Range]:
        """What the batch shows."""
        return onnx_run.calibrate(self.model, [self.feed], lambda done: None, low=low)[0]

    def repaired(self, repairs: Iterable[Repair]) -> Onnx:
        """The model with the repairs made, checked in full."""
        model = onnx_repair.rewrite(self.model, tuple(repairs))
        onnx.checker.check_model(ir.to_proto(model), full_check=True)
        return replace(self, model=model)

    def answers(self) -> Arrays:
        """What float32 answers."""
        return list(onnx_run.outputs(self.model, [self.feed])[0].values())

    def emulated(
        self,
        low: Low,
        expected: Arrays,
        allows: Iterable[str] = (),
        keeps: Iterable[str] = (),
        ranges: Mapping[str, Range] | None = None,
    ) -> Outcome:
        """The converted model, emulated."""
        plan = _plan(self.graph, low, ranges, allows, keeps)
        lowered = onnx_apply.apply(self.model, plan)
        onnx.checker.check_model(ir.to_proto(lowered), full_check=True)
        return _outcome(_emulated(lowered, self.feed), expected, plan)


def _plan(
    graph: Graph,
    low: Low,
    ranges: Mapping[str, Range] | None,
    allows: Iterable[str],
    keeps: Iterable[str],
) -> Plan:
    """By the rules, and by ranges if there are any; then what a repair allows or keeps."""
    verdicts = classify(graph, RuleBook(load()), low, ranges)
    asked = dict.fromkeys(allows, "allow") | dict.fromkeys(keeps, "deny")
    decisions = {
        name: Decision(cls, "repair", "asked for", evidence="search")  # type: ignore[arg-type]
        for name, cls in asked.items()
    }
    assert decisions.keys() <= verdicts.decisions.keys()
    verdicts = replace(verdicts, decisions={**verdicts.decisions, **decisions})
    return make_plan(graph, verdicts, low, load_target("h100"))


def _emulated(model: ir.Model, feed: Mapping[str, Any]) -> Arrays:
    found = run_onnx(emulate(model), [feed])[0]
    return [found[value.name or ""] for value in model.graph.outputs]


def _outcome(found: Arrays, expected: Arrays, plan: Plan) -> Outcome:
    errors = [_relative(own, truth) for own, truth in zip(found, expected, strict=True)]
    lowered = frozenset(name for name, held in plan.compute.items() if held == plan.low)
    return Outcome(tuple(errors), lowered)


def _relative(found: np.ndarray[Any, Any], truth: np.ndarray[Any, Any]) -> float:
    truth = truth.astype(np.float64)
    with np.errstate(invalid="ignore"):
        off = np.linalg.norm(found.astype(np.float64) - truth) / np.linalg.norm(truth)
    return float(off) if np.isfinite(off) else np.inf
