"""The weights of a captured program while it is repaired: changed ones, and new ones.

A new weight is a constant of the program: a placeholder behind the other weights. State_dict keys
stay as they were. A weight that nothing else changes is shared with the original, never copied.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputSpec,
    TensorArgument,
)

from ampconvert.dtypes import Low
from ampconvert.frontends.fx import weight_targets
from ampconvert.frontends.fx_apply import TORCH
from ampconvert.frontends.fx_nodes import is_tensor, returned

_AFTER = (InputKind.USER_INPUT, InputKind.CUSTOM_OBJ, InputKind.TOKEN)  # what weights stand before


class Weights:
    """State and constants of `program`, and the placeholders of `graph` that they fill."""

    def __init__(self, program: ExportedProgram, graph: fx.Graph) -> None:
        self.program = program
        self.graph = graph
        self.targets = weight_targets(program)
        self.state: dict[str, Any] = dict(program.state_dict)
        self.constants: dict[str, Any] = dict(program.constants)
        self.specs = list(program.graph_signature.input_specs)

    def scale(self, place: fx.Node, powers: Sequence[int], axis: int) -> None:
        """Multiply with 2^power: all of it, or each index along `axis` with its own."""
        data = self._data(place)
        if len(powers) == 1:
            self._store(place, torch.ldexp(data, torch.tensor(powers[0])))
            return
        shape = [1] * data.ndim
        shape[axis] = len(powers)
        self._store(place, torch.ldexp(data, torch.tensor(powers).reshape(shape)))

    def shift(self, place: fx.Node, shifts: Sequence[float]) -> None:
        """Add a number to each element of a vector; summed in float64, rounded once."""
        data = self._data(place)
        moved = data.double().reshape(-1) + torch.tensor(shifts, dtype=torch.float64)
        self._store(place, moved.to(data.dtype).reshape(data.shape))

    def split(self, place: fx.Node, low: Low, power: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The weight rounded to `low`, and what that took off it, times 2^power, rounded too."""
        data = self._data(place)
        high = data.to(TORCH[low])
        return high, torch.ldexp(data - high.float(), torch.tensor(power)).to(TORCH[low])

    def add(self, name: str, data: torch.Tensor) -> fx.Node:
        """A new weight: its placeholder."""
        taken = {*self.state, *self.constants, *(spec.arg.name for spec in self.specs)}
        taken |= {node.name for node in self.graph.nodes}
        target, number = name, 2
        while target in taken or f"c_{target}" in taken:
            target, number = f"{name}_{number}", number + 1
        place = self._number_of_weights()
        placeholders = [n for n in self.graph.nodes if n.op == "placeholder"]
        before = placeholders[place] if place < len(placeholders) else placeholders[-1].next
        with self.graph.inserting_before(before):
            node = self.graph.placeholder(f"c_{target}")
        node.name = f"c_{target}"
        mode = next((n.meta["val"].fake_mode for n in placeholders if is_tensor(n)), None)
        assert mode is not None, "a program without tensors has nothing to repair"
        node.meta["val"] = mode.from_tensor(data, static_shapes=True)
        spec = InputSpec(InputKind.CONSTANT_TENSOR, TensorArgument(name=node.name), target)
        self.specs.insert(place, spec)
        self.constants[target] = data
        self.targets[node.name] = target
        return node

    def rebuilt(self, module: fx.GraphModule) -> ExportedProgram:
        """The program around the edited graph of `module`, with these weights."""
        program = self.program
        module.graph.lint()
        module.recompile()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's own pytree, copied
            calls = copy.deepcopy(program.module_call_graph)
        outputs = [
            OutputSpec(spec.kind, TensorArgument(value.name) if is_tensor(value) else spec.arg,
                       spec.target)
            for spec, value in zip(
                program.graph_signature.output_specs, returned(module.graph), strict=True
            )
        ]  # fmt: skip
        return ExportedProgram(
            root=module,
            graph=module.graph,
            graph_signature=ExportGraphSignature(self.specs, outputs),
            state_dict=self.state,
            range_constraints=copy.copy(program.range_constraints),
            module_call_graph=calls,
            example_inputs=program.example_inputs,
            constants=self.constants,
            verifiers=[program.verifier],
        )

    def _number_of_weights(self) -> int:
        kinds = [spec.kind for spec in self.specs]
        return next((i for i, kind in enumerate(kinds) if kind in _AFTER), len(kinds))

    def _data(self, place: fx.Node) -> torch.Tensor:
        target = self.targets[place.name]
        held: torch.Tensor = (self.state if target in self.state else self.constants)[target]
        return held.detach()

    def _store(self, place: fx.Node, data: torch.Tensor) -> None:
        target = self.targets[place.name]
        held = self.state if target in self.state else self.constants
        old = held[target]
        if isinstance(old, torch.nn.Parameter):
            held[target] = torch.nn.Parameter(data, requires_grad=old.requires_grad)
        else:
            held[target] = data
