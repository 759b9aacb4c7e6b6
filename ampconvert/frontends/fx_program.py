"""Editing an ExportedProgram: take a copy of its graph, change it, put a program around it
again.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import ExportGraphSignature, OutputSpec, TensorArgument

from ampconvert.frontends.fx_nodes import is_tensor, returned


def editable(program: ExportedProgram) -> fx.GraphModule:
    """A module with a copy of the program's graph: same names, same fake tensors, weights
    untouched.
    """
    return copied(program.graph_module)


def copied(module: fx.GraphModule) -> fx.GraphModule:
    """`module` with a graph of its own, of the same names; what its calls hold is shared."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.output(graph.graph_copy(module.graph, copies))
    for before, after in copies.items():
        # fx never lets a copy be called "input" or another word of Python; nn.Linear's argument is.
        after.name = before.name
        after.meta = dict(before.meta)
    graph.output_node().meta = dict(module.graph.output_node().meta)
    twin = fx.GraphModule(module, graph)
    twin.meta = dict(module.meta)
    return twin


def rebuilt(
    program: ExportedProgram,
    module: fx.GraphModule,
    state: Mapping[str, Any],
    constants: Mapping[str, Any] | None = None,
) -> ExportedProgram:
    """`program` with the graph of `module` and other weights; inputs, outputs and modules stay as
    they were.
    """
    module.graph.lint()
    module.recompile()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own pytree, copied
        calls = copy.deepcopy(program.module_call_graph)
    return ExportedProgram(
        root=module,
        graph=module.graph,
        graph_signature=_signature(program, module.graph),
        state_dict=dict(state),
        range_constraints=copy.copy(program.range_constraints),
        module_call_graph=calls,
        example_inputs=program.example_inputs,
        constants=dict(program.constants if constants is None else constants),
        verifiers=[program.verifier],
    )


def _signature(program: ExportedProgram, graph: fx.Graph) -> ExportGraphSignature:
    """The signature with the names of what is now returned."""
    specs: list[OutputSpec] = []
    old = program.graph_signature.output_specs
    for spec, value in zip(old, returned(graph), strict=True):
        arg = TensorArgument(name=value.name) if is_tensor(value) else spec.arg
        specs.append(OutputSpec(kind=spec.kind, arg=arg, target=spec.target))
    return ExportGraphSignature(list(program.graph_signature.input_specs), specs)
