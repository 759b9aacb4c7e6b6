"""A PyTorch module to a functional ExportedProgram, with a dynamic batch where the model allows it.

torch.export is used non-strict: it keeps every state_dict key and captures what Dynamo's strict
mode can't. Programs that update tensors in place are made functional, so that no later step can
lower one alias of a tensor and miss another.
"""

from __future__ import annotations

import io
import logging
import re
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from ampconvert.errors import UserError

Batch = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Capture:
    """A captured program and what its inputs may vary in: names of dynamic dimensions, "" when
    none.
    """

    program: ExportedProgram
    dynamic: str


def capture(
    module: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic: Mapping[str, tuple[str | None, ...]] | None = None,
    dynamic_batch: bool = True,
    dynamic_shapes: Any = None,
) -> Capture:
    """Capture `module` (in eval mode) as it runs on `args` and `kwargs`.

    `dynamic` names dimensions per parameter of forward ("" or None: fixed), `dynamic_shapes` gives
    them as torch.export takes them; with neither the first dimension of every tensor is tried as
    one dynamic batch. Buffers that forward writes keep what
    they held. Raises UserError with the line of the user's source that torch.export could not
    follow.
    """
    kwargs = dict(kwargs or {})
    with warnings.catch_warnings(), torch.no_grad(), _buffers_kept(module) as restore:
        warnings.simplefilter("ignore")
        expected = _run(module, args, kwargs)
        if not any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves(expected)):
            raise UserError("the model returns no tensor: there is nothing to convert")
        restore()
        named = dynamic and any(any(dims) for dims in dynamic.values())
        if dynamic_shapes is not None or named:
            shapes = dynamic_shapes
            if dynamic_shapes is None:
                shapes = _named_shapes(module, args, kwargs, dynamic or {})
            program = _functional(_export(module, args, kwargs, shapes))
            _refuse_another_answer(program, module, args, kwargs, expected, restore)
            return Capture(program, _dynamic_names(program))
        if dynamic_batch:
            found = _with_batch(module, args, kwargs, expected, restore)
            restore()
            if found is not None:
                return Capture(found, "batch")
        program = _functional(_export(module, args, kwargs, None))
        _refuse_another_answer(program, module, args, kwargs, expected, restore)
        return Capture(program, "")


def adopt(program: ExportedProgram) -> Capture:
    """A program that was captured before (.pt2)."""
    return Capture(_functional(program), _dynamic_names(program))


@contextmanager
def _buffers_kept(module: torch.nn.Module) -> Iterator[Callable[[], None]]:
    """Gives a function that puts every buffer back as it was, and calls it at the end."""
    held = [
        (owner, name, buffer, buffer.clone())
        for owner in module.modules()
        for name, buffer in owner._buffers.items()
        if buffer is not None
    ]

    def restore() -> None:
        for owner, name, buffer, content in held:
            owner._buffers[name] = buffer  # forward may have assigned another tensor
            if not torch.equal(buffer, content):
                buffer.copy_(content)

    try:
        yield restore
    finally:
        restore()


def _refuse_another_answer(
    program: ExportedProgram,
    module: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    expected: Any,
    restore: Callable[[], None],
) -> None:
    """UserError where the program answers otherwise than the model did, unless that draws random
    numbers.

    A model that answers otherwise with the same seed keeps state in Python. One that does so with
    another seed only is random, and a program may draw its numbers in another order.
    """
    agrees = _agrees(program, args, kwargs, expected)
    restore()
    if agrees:
        return
    repeats = _agrees(module, args, kwargs, expected)
    restore()
    is_random = repeats and not _agrees(module, args, kwargs, expected, seed=1)
    restore()
    if not is_random:
        raise UserError(
            "torch.export captured something else than the model: on the example input the "
            "captured program answers differently. Look for Python state that changes between "
            "calls."
        )


def _run(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        return _answer(module, args, kwargs)
    except Exception as error:
        raise UserError(
            f"the model does not run on its inputs: {_first_line(error)}{_at(error)}. "
            "Give inputs that fit with --input NAME:DTYPE:SHAPE."
        ) from error


def _export(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any
) -> ExportedProgram:
    try:
        return _silent_export(module, args, kwargs, shapes)
    except Exception as error:
        raise UserError(
            f"torch.export can't capture the model: {_first_line(error)}{_at(error)}. "
            f"{_advice(error)}"
        ) from error


def _silent_export(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any
) -> ExportedProgram:
    """torch.export, which logs and prints whole graphs when it fails; the error says enough."""
    aside = io.StringIO()
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(aside), redirect_stderr(aside):
            return torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=False)
    finally:
        logging.disable(disabled)


def _functional(program: ExportedProgram) -> ExportedProgram:
    """The same program without in-place updates, without assertions about the types it had, and
    with reshape for view: a view holds for the strides of the kernel that ran when it was
    captured, and attention in another type or with gradients may run a kernel with other strides.
    """
    program = _without_updates(program)
    for module in program.graph_module.modules():
        graph = getattr(module, "graph", None)
        if graph is None:
            continue
        for node in list(graph.nodes):
            if node.target is torch.ops.aten._assert_tensor_metadata.default:
                graph.erase_node(node)
            elif node.target is torch.ops.aten.view.default:
                node.target = torch.ops.aten.reshape.default
            elif node.target is torch.ops.aten.copy.default:
                _as_expansion(node)
        module.recompile()
    return program


def _as_expansion(copied: torch.fx.Node) -> None:
    """copy(into, source) is `source` in the type and shape of `into`; PyTorch has no gradient of
    copy.
    """
    into, source = copied.args[:2]
    assert isinstance(into, torch.fx.Node) and isinstance(source, torch.fx.Node)
    old, new = source.meta["val"], into.meta["val"]
    aten = torch.ops.aten
    steps: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []
    if old.dtype != new.dtype:
        steps.append((aten._to_copy.default, (), {"dtype": new.dtype}, old.to(new.dtype)))
    if old.shape != new.shape:
        steps.append((aten.expand_as.default, (into,), {}, new))
    steps.append((aten.clone.default, (), {}, new))
    graph = copied.graph
    with graph.inserting_before(copied):
        for target, more, kwargs, fake in steps:
            source = graph.call_function(target, (source, *more), kwargs)
            source.meta = {**copied.meta, "val": fake}
    name = copied.name
    copied.replace_all_uses_with(source)
    graph.erase_node(copied)
    source.name = name  # the signature may speak of it: a buffer's new content


def _without_updates(program: ExportedProgram) -> ExportedProgram:
    for module in program.graph_module.modules():
        for node in getattr(module, "graph", torch.fx.Graph()).nodes:
            target = node.target
            mutates = isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable
            wraps = isinstance(target, torch._ops.HigherOrderOperator) and "wrap" in target._name
            if mutates or wraps:
                functional: ExportedProgram = program.run_decompositions({})
                return functional
    return program


def _with_batch(
    module: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    expected: Any,
    restore: Callable[[], None],
) -> ExportedProgram | None:
    """The program with a dynamic first dimension, or None where the model is bound to its batch."""
    tensors = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    sizes = {t.shape[0] if t.ndim else 0 for t in tensors}
    if len(sizes) != 1 or 0 in sizes:
        return None
    trace_args, trace_kwargs = args, kwargs
    if sizes == {1}:  # torch.export takes a size of 1 for a constant
        trace_args, trace_kwargs = pytree.tree_map_only(
            torch.Tensor, lambda t: torch.cat([t, t]), (args, kwargs)
        )
    shapes = pytree.tree_map(
        lambda leaf: {0: Dim.AUTO} if isinstance(leaf, torch.Tensor) else None,
        (trace_args, trace_kwargs),
    )
    try:
        _answer(module, trace_args, trace_kwargs)
        restore()
        by_name = _by_parameter(module, *shapes)
        program = _silent_export(module, trace_args, trace_kwargs, by_name)
        if not _all_dynamic(program):
            return None
        program = _functional(program)
        return program if _agrees(program, args, kwargs, expected) else None
    except Exception:
        return None


def _by_parameter(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Shapes as torch.export wants them: by parameter name where there are keyword arguments."""
    if not kwargs:
        return args
    import inspect

    parameters = inspect.signature(module.forward).parameters
    names = [
        n for n, p in parameters.items() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    return dict(zip(names, args, strict=False)) | kwargs


def _all_dynamic(program: ExportedProgram) -> bool:
    tensors = [
        n.meta["val"]
        for n in program.graph.nodes
        if n.op == "placeholder"
        and n.name in program.graph_signature.user_inputs
        and isinstance(n.meta.get("val"), torch.Tensor)
    ]
    return bool(tensors) and all(isinstance(t.shape[0], torch.SymInt) for t in tensors)


def _named_shapes(
    module: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    dynamic: Mapping[str, tuple[str | None, ...]],
) -> dict[str, Any]:
    import inspect

    names = list(inspect.signature(module.forward).parameters)[: len(args)] + list(kwargs)
    given = dict(zip(names, args, strict=False)) | kwargs
    shapes: dict[str, Any] = {}
    for name, value in given.items():
        dims = dynamic.get(name, ())
        if isinstance(value, torch.Tensor):
            shapes[name] = {i: Dim.DYNAMIC for i, dim in enumerate(dims) if dim} or None
        else:
            shapes[name] = pytree.tree_map(lambda _: None, value)
    return shapes


def _dynamic_names(program: ExportedProgram) -> str:
    return ", ".join(str(symbol) for symbol in program.range_constraints)


def _answer(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], seed: int = 0) -> Any:
    """What `module` returns for copies of its inputs, which it may write, with a seed of its
    own.
    """
    args, kwargs = pytree.tree_map_only(torch.Tensor, torch.clone, (args, kwargs))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return module(*args, **kwargs)


def _agrees(
    candidate: Any, args: tuple[Any, ...], kwargs: dict[str, Any], expected: Any, seed: int = 0
) -> bool:
    """Whether `candidate` gives the expected answer, within what another order of sums may
    change.
    """
    module = candidate.module() if isinstance(candidate, ExportedProgram) else candidate
    answer = _answer(module, args, kwargs, seed)
    got = [t for t in pytree.tree_leaves(answer) if isinstance(t, torch.Tensor)]
    want = [t for t in pytree.tree_leaves(expected) if isinstance(t, torch.Tensor)]
    return len(got) == len(want) and all(
        a.shape == b.shape
        and a.dtype == b.dtype
        and torch.allclose(_real(a), _real(b), rtol=1e-3, atol=1e-3 * _scale(b), equal_nan=True)
        for a, b in zip(got, want, strict=True)
    )


def _real(tensor: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(tensor).double() if tensor.is_complex() else tensor.double()


def _scale(tensor: torch.Tensor) -> float:
    finite = _real(tensor)
    finite = finite[finite.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 1.0


def _first_line(error: Exception) -> str:
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")


def _at(error: Exception) -> str:
    """Where in the user's source: the innermost frame outside PyTorch and this package."""
    own = str(Path(__file__).parent.parent)
    frames = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if "/torch/" not in f.filename.replace("\\", "/") and not f.filename.startswith((own, "<"))
    ]
    if frames:
        return f" (at {frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line})"
    quoted = re.findall(r'File "([^"]+)", line (\d+)', str(error))
    own_code = [(p, n) for p, n in quoted if "/torch/" not in p.replace("\\", "/")]
    return f" (at {own_code[-1][0]}:{own_code[-1][1]})" if own_code else ""


def _advice(error: Exception) -> str:
    text = str(error)
    if "data-dependent" in text or "GuardOnDataDependent" in type(error).__name__:
        return (
            "A Python `if`, loop or `.item()` depends on a tensor's content: write it as "
            "torch.where, torch.cond or a masked operation, or leave that part out of forward."
        )
    if "script" in text.lower() or "ScriptModule" in text:
        return "TorchScript holds no Python source to trace: build the model from its nn.Module."
    if "FakeTensor" in text or "numpy" in text.lower():
        return (
            "The code leaves PyTorch (numpy, .data_ptr, a C extension): keep forward in torch "
            "operators."
        )
    return "torch.export.export(model, args, strict=False) shows PyTorch's full message."
