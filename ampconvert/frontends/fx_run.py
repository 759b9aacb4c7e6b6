"""Runs of a captured program that measure: reference outputs and value ranges."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export._tree_utils import reorder_kwargs
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from ampconvert.dtypes import Low
from ampconvert.errors import UserError
from ampconvert.frontends.capture import Batch
from ampconvert.frontends.fx import user_outputs, weight
from ampconvert.frontends.fx_float64 import Float64, doubled
from ampconvert.ranges.calibrate import Range, array_range

_NUMPY_FLOATS = (torch.float16, torch.float32, torch.float64)


def calibrate(
    program: ExportedProgram,
    batches: Sequence[Batch],
    progress: Callable[[int], None] | None = None,
    *,
    low: Low = "float16",
) -> dict[str, Range]:
    """The range of every float value over `batches`, streamed: nothing but the figures is kept.

    What is small is counted by `low`.

    Raises UserError naming the first value that is NaN, and the source line that made it.
    """
    ranges: dict[str, Range] = {}

    def record(node: fx.Node, result: Any) -> None:
        if isinstance(result, torch.Tensor) and result.dtype == torch.float32:
            found = array_range(result.detach().cpu().resolve_neg().numpy(), low)
            if found.has_nan:
                raise UserError(_nan_message(program, node))
            ranges[node.name] = ranges[node.name].merge(found) if node.name in ranges else found

    for number, (args, kwargs) in enumerate(batches):
        with torch.no_grad():
            _Watcher(program, record).run(*flat_inputs(program, args, kwargs))
        if progress:
            progress(number + 1)
    return ranges


def outputs(program: ExportedProgram, batches: Iterable[Batch]) -> list[list[np.ndarray[Any, Any]]]:
    """What the program returns for each batch: the tensors a caller gets, in order, as numpy
    arrays.

    float16 and bfloat16 outputs are given as float32, which holds them exactly.
    """
    with torch.no_grad():
        return [
            _user_arrays(
                program, fx.Interpreter(program.graph_module).run(*flat_inputs(program, a, k))
            )
            for a, k in batches
        ]


def outputs_float64(
    program: ExportedProgram, batches: Iterable[Batch]
) -> list[list[np.ndarray[Any, Any]]] | None:
    """The same with every float32 tensor held and computed in float64; None where an operator has
    no such kernel.
    """
    try:
        with torch.no_grad():
            return [
                _user_arrays(
                    program,
                    Float64(program.graph_module).run(*doubled(flat_inputs(program, a, k))),
                )
                for a, k in batches
            ]
    except (RuntimeError, TypeError, NotImplementedError):
        return None


def rounding_error(
    program: ExportedProgram, batch: Batch, low: str, seed: int = 0
) -> dict[str, float]:
    """The predicted error per value from one batch; see `fx_errors.rounding_error`."""
    from ampconvert.frontends import fx_errors

    return fx_errors.rounding_error(program, batch, low, seed)


def flat_inputs(
    program: ExportedProgram, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> list[Any]:
    """Weights, state and user inputs in the order of the program's placeholders."""
    spec = program.call_spec.in_spec
    ordered = reorder_kwargs(dict(kwargs), spec) if spec is not None else dict(kwargs)
    user = iter(pytree.tree_leaves((args, ordered)))
    flat: list[Any] = []
    for entry in program.graph_signature.input_specs:
        if entry.kind == InputKind.USER_INPUT:
            flat.append(next(user))
        elif entry.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
            flat.append(weight(program, entry.target or ""))
        else:
            flat.append(program.constants[entry.target or ""])
    return flat


def input_arrays(program: ExportedProgram, batch: Batch) -> list[np.ndarray[Any, Any]]:
    """The tensors among a batch's inputs, in the order that an exported model takes them."""
    user = zip(program.graph_signature.input_specs, flat_inputs(program, *batch), strict=True)
    return [
        array(leaf)
        for entry, leaf in user
        if entry.kind == InputKind.USER_INPUT and isinstance(leaf, torch.Tensor)
    ]


def array(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """A tensor as numpy; a type that numpy lacks, such as bfloat16, as float32, which holds it
    exactly.
    """
    plain = tensor.detach().cpu().resolve_conj().resolve_neg()
    lacking = plain.is_floating_point() and plain.dtype not in _NUMPY_FLOATS
    found: np.ndarray[Any, Any] = (plain.float() if lacking else plain).numpy()
    return found


class _Watcher(fx.Interpreter):
    """Runs a program and shows every result to `see`, which may hand back another tensor."""

    def __init__(self, program: ExportedProgram, see: Callable[[fx.Node, Any], Any]) -> None:
        super().__init__(program.graph_module)
        self.extra_traceback = False  # else torch adds the graph's text to what `see` raises
        self.see = see

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.op == "output":
            return result
        seen = self.see(n, result)
        return result if seen is None else seen


def _nan_message(program: ExportedProgram, node: fx.Node) -> str:
    from ampconvert.frontends.fx import weight_targets
    from ampconvert.frontends.stack_trace import source_line

    target = weight_targets(program).get(node.name)
    if target is not None:
        return (
            f"the weight {target} holds NaN: nothing can be compared with NaN. Check the weights."
        )
    where = source_line(node.meta.get("stack_trace") or "")
    at = f" ({where})" if where else ""
    return (
        f"the float32 model itself gives NaN at {node.name}{at} on the data it was given: "
        "nothing can be compared with NaN. Check the inputs and weights."
    )


def _user_tensors(program: ExportedProgram, results: Sequence[Any]) -> list[torch.Tensor]:
    wanted = set(user_outputs(program))
    specs = program.graph_signature.output_specs
    return [
        result
        for spec, result in zip(specs, results, strict=True)
        if isinstance(result, torch.Tensor) and spec.arg.name in wanted and spec.target is None
    ]


def _user_arrays(program: ExportedProgram, results: Sequence[Any]) -> list[np.ndarray[Any, Any]]:
    return [
        array(t.float() if t.dtype == torch.float16 else t) for t in _user_tensors(program, results)
    ]
