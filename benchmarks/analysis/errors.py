"""Predicted against measured error per op, and what others rank ops by instead."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from ampconvert.conversion import Analysis
from ampconvert.dtypes import Low, parse_low
from ampconvert.frontends.fx_apply import TORCH
from ampconvert.frontends.fx_errors import measured_op_errors, measured_total, predict
from ampconvert.frontends.fx_run import flat_inputs
from ampconvert.graph import Node
from ampconvert.pipeline import analyze
from ampconvert.pipeline_torch import passes_for
from ampconvert.ranges.sensitivity import Prediction, lone_op_errors
from ampconvert.summary import op_errors
from benchmarks.analysis import autocast
from benchmarks.analysis.subjects import Subject
from benchmarks.zoo.registry import Batch

BATCHES = 4  # that errors are measured on: one run of the rest of the model per op and batch


def measure(found: Subject, dtype: str) -> dict[str, Any]:
    """Rank correlations with the measured error per op, and the whole model's error both ways.

    An op is run in `dtype` alone: its float32 operands and results rounded, all else as it was, in
    float64. The whole model: all ops so at once.
    """
    low, sample = parse_low(dtype), found.sample()
    args, kwargs = sample.batches[0]
    batches = sample.batches[:BATCHES]
    analysis = analyze(sample.module, args, kwargs, dtype=dtype, data=batches, name=found.name)
    program, graph = analysis.program, analysis.graph
    assert program is not None
    keep = {name: decision.keep for name, decision in analysis.plan.decisions.items()}
    start = time.perf_counter()
    passes = passes_for(program, batches)
    prediction = predict(program, batches, low, probes=passes, edges=True)
    took = time.perf_counter() - start
    predicted = lone_op_errors(graph, prediction, keep=keep)
    start = time.perf_counter()
    measured = measured_op_errors(program, graph, batches, low, keep=keep)
    measuring = time.perf_counter() - start
    nodes = [node for node in graph.nodes if node.name in measured and node.name in predicted]
    truth = [measured[node.name] for node in nodes]
    rankings = {
        "ours": [predicted[node.name] for node in nodes],
        "largest value": [_largest(analysis, node) for node in nodes],
        "our deny rules": [float(analysis.plan.decisions[n.name].cls == "deny") for n in nodes],
        "autocast's FP32 list": [float(_in_full_list(node)) for node in nodes],
        "local error": _local_errors(program, batches, low, nodes),
    }
    whole = math.sqrt(measured_total(program, graph, batches, low, keep=keep))
    return {
        "ops": len(nodes),
        "passes": passes,
        "spearman": {name: _spearman(scores, truth) for name, scores in rankings.items()},
        "predicted": math.sqrt(_all_low(analysis, prediction)),
        "measured": whole,
        "seconds": {"predict": took, "measure": measuring},
    }


def measure_plan(found: Subject, dtype: str) -> dict[str, Any]:
    """The plan that a conversion takes, as a whole: predicted and measured relative L2 error."""
    low, sample = parse_low(dtype), found.sample()
    args, kwargs = sample.batches[0]
    batches = sample.batches[:BATCHES]
    analysis = analyze(sample.module, args, kwargs, dtype=dtype, data=batches, name=found.name)
    program, graph, plan = analysis.program, analysis.graph, analysis.plan
    assert program is not None
    keep = {name: decision.keep for name, decision in plan.decisions.items()}
    lowered = [name for name, runs_in in plan.compute.items() if runs_in == low]
    return {
        "ops": len(plan.compute),
        "low": len(lowered),
        "predicted": analysis.summary.predicted_error,
        "measured": math.sqrt(measured_total(program, graph, batches, low, lowered, keep=keep)),
    }


def _all_low(analysis: Analysis, prediction: Prediction) -> float:
    """The predicted energy of running everything in `low`."""
    graph, plan = analysis.graph, analysis.plan
    everything = replace(
        plan,
        compute=dict.fromkeys(plan.compute, plan.low),
        weights=dict.fromkeys(plan.weights, (plan.low,)),
        casts=(),
    )
    energies = {**prediction.values, **prediction.results}
    inputs = [n for n in graph.inputs if graph.values[n].is_float32]
    return sum(op_errors(graph, everything, energies).values()) + sum(
        prediction.values.get(name, 0.0) for name in inputs
    )


def _largest(analysis: Analysis, node: Node) -> float:
    """The largest magnitude among what a node reads and makes, as AutoCast judges nodes."""
    names = [*(n for n in node.inputs if n is not None), *node.outputs]
    return max((analysis.ranges[n].absmax for n in names if n in analysis.ranges), default=0.0)


def _in_full_list(node: Node) -> bool:
    key = (node.op.removeprefix("aten::"), node.overload or "default")
    return key in autocast.lists().full


def _spearman(scores: Sequence[float], truth: Sequence[float]) -> float | None:
    """The rank correlation; None where all scores are the same."""
    from scipy.stats import rankdata

    ranks, wanted = rankdata(scores), rankdata(truth)
    if len(scores) < 2 or np.ptp(ranks) == 0 or np.ptp(wanted) == 0:
        return None
    return float(np.corrcoef(ranks, wanted)[0, 1])


def _local_errors(
    program: ExportedProgram, batches: Sequence[Batch], low: Low, nodes: Sequence[Node]
) -> list[float]:
    """By node: how far its own result is off when it runs in `low` on exact operands, relative
    squared L2 over all batches.
    """
    lost, size = {n.name: 0.0 for n in nodes}, {n.name: 0.0 for n in nodes}
    for batch in batches:
        with torch.no_grad():
            _Local(program, TORCH[low], lost, size).run(*flat_inputs(program, *batch))
    return [lost[n.name] / size[n.name] if size[n.name] else 0.0 for n in nodes]


class _Local(fx.Interpreter):
    """Runs a program, and each call a second time with operands and results rounded."""

    def __init__(
        self,
        program: ExportedProgram,
        low: torch.dtype,
        lost: dict[str, float],
        size: dict[str, float],
    ) -> None:
        super().__init__(program.graph_module)
        self.low, self.lost, self.size = low, lost, size

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.op == "call_function" and n.name in self.lost:
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            again = self.call_function(n.target, self._rounded(args), self._rounded(kwargs))
            pairs = zip(pytree.tree_leaves(result), pytree.tree_leaves(again), strict=True)
            for right, rounded in pairs:
                if isinstance(right, torch.Tensor) and right.dtype == torch.float32:
                    off = (self._rounded(rounded) - right)[right.isfinite()]
                    self.lost[n.name] += float(off.double().square().sum())
                    self.size[n.name] += float(right[right.isfinite()].double().square().sum())
        return result

    def _rounded(self, tree: Any) -> Any:
        return pytree.tree_map_only(
            torch.Tensor, lambda t: t.to(self.low).float() if t.dtype == torch.float32 else t, tree
        )
