"""What the error of a captured program is judged by."""

from __future__ import annotations

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind

from ampconvert.frontends.fx_nodes import is_tensor


def target_nodes(program: ExportedProgram) -> list[fx.Node]:
    """The floating-point (or complex) tensors that the caller gets, each once.

    Where there is none, as behind an argmax, the last ones that the outputs are computed from.
    What is written back to buffers is no target.
    """
    named = {node.name: node for node in program.graph.nodes}
    found = [
        named[spec.arg.name]
        for spec in program.graph_signature.output_specs
        if spec.kind == OutputKind.USER_OUTPUT and getattr(spec.arg, "name", None) in named
    ]
    outputs = list(dict.fromkeys(node for node in found if is_tensor(node)))
    return [node for node in outputs if _is_float(node)] or _last_floats(outputs)


def as_real(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor`, a complex one as pairs of real numbers."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _last_floats(outputs: list[fx.Node]) -> list[fx.Node]:
    """The floats next to `outputs`, going back over everything that is none."""
    found: dict[fx.Node, None] = {}
    waiting, seen = list(outputs), set(outputs)
    while waiting:
        for source in waiting.pop().all_input_nodes:
            if source in seen:
                continue
            seen.add(source)
            if is_tensor(source) and _is_float(source):
                found[source] = None
            else:
                waiting.append(source)
    return list(found)


def _is_float(node: fx.Node) -> bool:
    dtype = node.meta["val"].dtype
    return bool(dtype.is_floating_point or dtype.is_complex)
