"""Difference per layer of a converted PyTorch model: its ONNX file, emulated, against the program.

The exporter notes on each ONNX node which node of the program it came from ("ampconvert.node"). The
last one of these makes the result. What the exporter folded or fused away is not compared.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import fx
from torch.export import ExportedProgram

from ampconvert.differences import Differences, DifferenceSums
from ampconvert.frontends.capture import Batch
from ampconvert.frontends.fx_run import flat_inputs, input_arrays
from ampconvert.graph import Graph
from ampconvert.verify.emulate import emulate
from ampconvert.verify.segments import visit

Array = np.ndarray[Any, Any]


def layer_differences(
    program: ExportedProgram, converted: ir.Model, graph: Graph, batches: Sequence[Batch]
) -> Differences:
    """Each float32 result of `graph`, read from `program`, in the emulated `converted` model.

    The program's results of one batch are in memory at a time. Raises UserError when the model does
    not load or run.
    """
    places = _results(converted, graph)
    inputs = [value.name or "" for value in converted.graph.inputs]
    feeds = [dict(zip(inputs, input_arrays(program, batch), strict=True)) for batch in batches]
    reference = _Reference(program, batches, set(places.values()))
    sums = DifferenceSums()

    def see(batch: int, name: str, value: Any) -> None:
        expected = reference.of(batch).get(places[name])
        if expected is not None and isinstance(value, np.ndarray):
            sums.add(places[name], value, expected)

    visit(emulate(converted), feeds, list(places), see)
    return sums.finish(graph, len(batches))


def _results(converted: ir.Model, graph: Graph) -> dict[str, str]:
    """The value of the ONNX model that holds each result of the graph, and that result's name."""
    last: dict[str, ir.Node] = {}
    for made_by in converted.graph:
        origin = made_by.metadata_props.get("ampconvert.node")
        if origin is not None:
            last[origin] = made_by
    found: dict[str, str] = {}
    for node in graph.nodes:
        made = last[node.name].outputs if node.name in last else ()
        if len(made) < len(node.outputs):
            continue
        for result, value in zip(graph.output_values(node), made, strict=False):
            if result.is_float32 and value.name:
                found[value.name] = result.name
    return found


class _Reference:
    """The program's own results, one batch at a time."""

    def __init__(
        self, program: ExportedProgram, batches: Sequence[Batch], names: Collection[str]
    ) -> None:
        self.program = program
        self.batches = batches
        self.names = names
        self.batch = -1
        self.results: dict[str, Array] = {}

    def of(self, batch: int) -> dict[str, Array]:
        """The results of this batch by name."""
        if batch != self.batch:
            self.results = {}
            with torch.no_grad():
                runner = _Collect(self.program, self.names, self.results)
                runner.run(*flat_inputs(self.program, *self.batches[batch]))
            self.batch = batch
        return self.results


class _Collect(fx.Interpreter):
    """Runs a program and keeps the named results."""

    def __init__(
        self, program: ExportedProgram, names: Collection[str], results: dict[str, Array]
    ) -> None:
        super().__init__(program.graph_module)
        self.names = names
        self.results = results

    def run_node(self, n: fx.Node) -> Any:
        """Its result."""
        result = super().run_node(n)
        if n.name in self.names and isinstance(result, torch.Tensor):
            self.results[n.name] = result.detach().cpu().numpy()
        return result
