"""Runs of a model under random plans: values, weights and inputs rounded to a low type or not.

Every reader of a value may get it rounded or as it is, which is more than a real plan would mix.
What a proof doesn't show to fit is never rounded, as the proof's claim has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import torch
from onnx.reference import ReferenceEvaluator

from ampconvert.dtypes import Low
from ampconvert.graph import Graph
from ampconvert.ranges.prove import Proof

TYPES: dict[str, Any] = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
TORCH = {"float16": torch.float16, "bfloat16": torch.bfloat16}
MASK = -1e4  # below it an element may be one that a mask hides


class OnnxRun:
    """A model without control flow, run node by node by ONNX's own reference."""

    def __init__(self, model: onnx.ModelProto, low: Low, fits: set[str]) -> None:
        self.model, self.low, self.fits = model, low, fits
        self.steps = [(node, ReferenceEvaluator(self._alone(node))) for node in model.graph.node]
        self.weights = {w.name: onnx.numpy_helper.to_array(w) for w in model.graph.initializer}

    def __call__(
        self, feeds: Mapping[str, np.ndarray[Any, Any]], random: np.random.Generator
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Every value as its maker gave it."""
        values = {**self.weights, **feeds}
        for node, evaluator in self.steps:
            read = {name: self._read(name, values[name], random) for name in node.input if name}
            for name, made in zip(node.output, evaluator.run(None, read), strict=True):
                values[name] = self._read(name, np.asarray(made), random)
        return values

    def _read(self, name: str, data: Any, random: np.random.Generator) -> Any:
        if data.dtype != np.float32 or name not in self.fits or random.random() < 0.5:
            return data
        return data.astype(TYPES[self.low]).astype(np.float32)

    def _alone(self, node: onnx.NodeProto) -> onnx.ModelProto:
        inputs = [
            onnx.helper.make_empty_tensor_value_info(n) for n in dict.fromkeys(node.input) if n
        ]
        outputs = [onnx.helper.make_empty_tensor_value_info(n) for n in node.output if n]
        graph = onnx.helper.make_graph([node], "one", inputs, outputs)
        return onnx.helper.make_model(graph, opset_imports=self.model.opset_import, ir_version=10)


class TorchRun(torch.fx.Interpreter):
    """An exported program, run call by call; gradients flow through the roundings."""

    def __init__(self, program: torch.export.ExportedProgram, low: Low, fits: set[str]) -> None:
        super().__init__(program.graph_module)
        self.program, self.low, self.fits = program, low, fits
        self.values: dict[str, torch.Tensor] = {}
        self.random = np.random.default_rng(0)

    def __call__(
        self, args: tuple[Any, ...], random: np.random.Generator
    ) -> dict[str, torch.Tensor]:
        """Every value as its maker gave it."""
        self.values, self.random = {}, random
        signature = self.program.graph_signature
        state = {**self.program.state_dict, **self.program.constants}
        given = iter(args)
        flat = [
            state[s.target] if s.target in state else next(given) for s in signature.input_specs
        ]
        with torch.no_grad() if not any(a.requires_grad for a in args) else torch.enable_grad():
            self.run(*flat)
        return self.values

    def run_node(self, n: torch.fx.Node) -> Any:
        made = super().run_node(n)
        if isinstance(made, torch.Tensor) and n.op != "output":
            made = self._read(n.name, made)
            self.values[n.name] = made
        return made

    def fetch_args_kwargs_from_env(self, n: torch.fx.Node) -> Any:
        args, kwargs = super().fetch_args_kwargs_from_env(n)
        flat, spec = torch.utils._pytree.tree_flatten((args, kwargs))
        nodes, _ = torch.utils._pytree.tree_flatten((n.args, n.kwargs))
        if len(nodes) != len(flat):
            return args, kwargs
        read = [
            self._read(node.name, value)
            if isinstance(node, torch.fx.Node) and isinstance(value, torch.Tensor) else value
            for node, value in zip(nodes, flat, strict=True)
        ]  # fmt: skip
        return torch.utils._pytree.tree_unflatten(read, spec)

    def _read(self, name: str, data: torch.Tensor) -> torch.Tensor:
        if data.dtype != torch.float32 or name not in self.fits or self.random.random() < 0.5:
            return data
        return data.to(TORCH[self.low]).to(torch.float32)


def fitting(graph: Graph, proof: Proof) -> set[str]:
    """The values that a plan may round."""
    return {v.name for v in graph.values.values() if v.is_float32 and proof.fits(graph, v.name)}


def outside(proof: Proof, values: Mapping[str, Any]) -> list[str]:
    """What left its bound, in words; masked elements may lie as low as they like."""
    found = []
    for name, data in values.items():
        bound = proof.bounds.get(name)
        if bound is None:
            continue
        data = np.asarray(data.detach() if isinstance(data, torch.Tensor) else data)
        if data.size == 0 or data.dtype.kind not in "fiub":
            continue
        numbers = data.astype(np.float64).reshape(-1)
        if bound.hidden is not None:
            numbers = numbers[numbers > min(MASK, bound.lo)]
        if numbers.size and not (bound.lo <= numbers.min() and numbers.max() <= bound.hi):
            found.append(f"{name}: [{numbers.min()}, {numbers.max()}] not in {bound}")
    return found
