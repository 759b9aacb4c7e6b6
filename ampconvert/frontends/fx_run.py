"""Runs of a captured program that measure: reference outputs, value ranges, error per value.

The error of rounding a value z to `low` is estimated to first order with one forward and one
backward pass: with random signs v over the outputs and g the gradient of v . y in z, the
expectation of sum g_j^2 d_j^2 over v is the output's squared error if the rounding errors d_j =
low(z_j) - z_j are independent (Hutchinson's estimator; cf. ADAPT, SC'18, for error estimates from
reverse differentiation).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export._tree_utils import reorder_kwargs
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from ampconvert.errors import UserError
from ampconvert.frontends.capture import Batch
from ampconvert.frontends.fx import user_outputs, weight
from ampconvert.frontends.fx_apply import TORCH
from ampconvert.ranges.calibrate import MASK_BELOW, Range


def calibrate(
    program: ExportedProgram,
    batches: Sequence[Batch],
    progress: Callable[[int], None] | None = None,
) -> dict[str, Range]:
    """The range of every float value over `batches`, streamed: nothing but the figures is kept.

    Raises UserError naming the first value that is NaN, and the source line that made it.
    """
    ranges: dict[str, Range] = {}

    def record(node: fx.Node, result: Any) -> None:
        if isinstance(result, torch.Tensor) and result.dtype == torch.float32:
            found = _range(result)
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
                    _Double(program.graph_module).run(*_doubled(flat_inputs(program, a, k))),
                )
                for a, k in batches
            ]
    except (RuntimeError, TypeError, NotImplementedError):
        return None


def rounding_error(
    program: ExportedProgram, batch: Batch, low: str, seed: int = 0
) -> dict[str, float]:
    """For each float value (weights included) the squared relative output error of rounding it to
    `low`.

    Infinite where rounding overflows. Buffers count unless an operator has no derivative in one
    (running statistics). Raises UserError when the program can't be differentiated.
    """
    try:
        return _rounding_error(program, batch, low, seed, skip=frozenset())
    except RuntimeError:
        buffers = program.graph_signature.inputs_to_buffers
    try:
        return _rounding_error(program, batch, low, seed, skip=frozenset(buffers))
    except RuntimeError as error:
        raise UserError(
            f"the error per op can't be estimated: {str(error).splitlines()[0]}"
        ) from error


def _rounding_error(
    program: ExportedProgram, batch: Batch, low: str, seed: int, skip: frozenset[str]
) -> dict[str, float]:
    generator = torch.Generator().manual_seed(seed)
    kept: dict[str, torch.Tensor] = {}

    def keep(node: fx.Node, result: Any) -> Any:
        if node.name in skip:
            return result
        if isinstance(result, torch.Tensor) and result.dtype == torch.float32:
            if not result.requires_grad:
                result = result.detach().requires_grad_(True)
            result.retain_grad()
            kept[node.name] = result
        return result

    flat = [t.detach() if isinstance(t, torch.Tensor) else t for t in flat_inputs(program, *batch)]
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = _Watcher(program, keep).run(*flat)
        loss = torch.zeros(())
        for tensor in _user_tensors(program, results):
            if tensor.dtype == torch.float32 and tensor.requires_grad and tensor.numel():
                signs = torch.randint(0, 2, tensor.shape, generator=generator).float() * 2 - 1
                finite = torch.where(tensor.isfinite(), tensor, torch.zeros(()))
                norm = finite.detach().norm().clamp_min(1e-30)
                loss = loss + (finite * signs).sum() / norm
        if loss.requires_grad:  # a model of integers alone has nothing to round
            torch.autograd.backward(loss)
    return {
        name: _energy(tensor, TORCH[low])
        for name, tensor in kept.items()
        if tensor.grad is not None
    }


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
        leaf.detach().cpu().numpy()
        for entry, leaf in user
        if entry.kind == InputKind.USER_INPUT and isinstance(leaf, torch.Tensor)
    ]


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


class _Double(fx.Interpreter):
    """Runs a float32 program in float64: type arguments are raised, and results that are float32
    all the same.
    """

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        args, kwargs = pytree.tree_map_only(torch.dtype, _double_type, (args, kwargs))
        return _doubled(super().call_function(target, args, kwargs))


def _double_type(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float32 else dtype


def _doubled(tree: Any) -> Any:
    return pytree.tree_map_only(
        torch.Tensor, lambda t: t.double() if t.dtype == torch.float32 else t, tree
    )


def _range(tensor: torch.Tensor) -> Range:
    flat = tensor.detach().reshape(-1)
    if flat.numel() == 0:
        return Range()
    finite = flat[flat.isfinite()] if not bool(flat.isfinite().all()) else flat
    has_nan, has_inf = bool(flat.isnan().any()), bool(flat.isinf().any())
    if finite.numel() == 0:
        return Range(has_nan=has_nan, has_inf=has_inf, elements=flat.numel())
    low, high = (float(v) for v in finite.aminmax())
    magnitudes = finite.abs()
    nonzero = magnitudes[magnitudes > 0]
    shown = magnitudes[finite > MASK_BELOW] if low <= MASK_BELOW else magnitudes
    return Range(
        low,
        high,
        float(shown.max()) if shown.numel() else 0.0,
        float(nonzero.min()) if nonzero.numel() else float("inf"),
        has_nan,
        has_inf,
        flat.numel(),
    )


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


def _energy(tensor: torch.Tensor, low: torch.dtype) -> float:
    if tensor.grad is None:
        return 0.0
    value = tensor.detach()
    error = value.to(low).float() - value
    error = torch.where(value.isfinite(), error, torch.zeros(()))
    moved = (error != 0) & (tensor.grad != 0)
    total = float(((tensor.grad * error)[moved].double() ** 2).sum())
    return total if np.isfinite(total) else float("inf")


def _user_tensors(program: ExportedProgram, results: Sequence[Any]) -> list[torch.Tensor]:
    wanted = set(user_outputs(program))
    specs = program.graph_signature.output_specs
    return [
        result
        for spec, result in zip(specs, results, strict=True)
        if isinstance(result, torch.Tensor) and spec.arg.name in wanted and spec.target is None
    ]


def _user_arrays(program: ExportedProgram, results: Sequence[Any]) -> list[np.ndarray[Any, Any]]:
    tensors = (t.detach() for t in _user_tensors(program, results))
    return [
        (t.float() if t.dtype in (torch.float16, torch.bfloat16) else t).cpu().numpy()
        for t in tensors
    ]
