"""PyTorch models as `ampconvert verify` takes them: run eagerly on the CPU, and in float64."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from ampconvert.dtypes import Low
from ampconvert.errors import UserError
from ampconvert.frontends.capture import adopt, capture
from ampconvert.frontends.entry import Entry
from ampconvert.frontends.fx_run import array as array
from ampconvert.frontends.fx_run import outputs_float64

Array = np.ndarray[Any, Any]
Call = tuple[tuple[Any, ...], dict[str, Any]]


def run(entry: Entry, call: Call) -> dict[str, torch.Tensor]:
    """The tensors that the model returns for one batch, by name, in torch.export's order.

    A module in half precision throughout gets its float inputs in its own type, as its owner would
    give them. Raises UserError when the model does not run.
    """
    args, kwargs = call
    module: torch.nn.Module
    dtype = None
    if isinstance(entry.model, ExportedProgram):
        module = entry.model.module()
    else:
        module = entry.model
        dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), None)
    with torch.no_grad():
        try:
            return _named(module(*args, **kwargs))
        except UserError:
            raise
        except Exception as error:
            if dtype in (torch.float16, torch.bfloat16):
                with contextlib.suppress(Exception):
                    return _named(module(*_as_type(args, dtype), **_as_type(kwargs, dtype)))
            first = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError(
                f"{entry.name} ({entry.how}) does not run on these inputs: {first}"
            ) from error


def call_of(entry: Entry, feed: Mapping[str, Array]) -> Call:
    """Arrays as a model's arguments: by name where forward has all the names, else by position."""
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in feed.items()}
    if isinstance(entry.model, torch.nn.Module):
        names = inspect.signature(entry.model.forward).parameters
        if set(tensors) <= set(names):
            return (), tensors
    return tuple(tensors.values()), {}


def in_float64(
    entry: Entry, calls: list[Call], full: list[list[Array]]
) -> list[list[Array]] | None:
    """The same answers from float64, batch by batch.

    None where the model can't be captured, an operator has no such kernel, or the captured program
    gives other tensors than `full`, the float32 answers.
    """
    try:
        if isinstance(entry.model, ExportedProgram):
            program = adopt(entry.model).program
        else:
            program = capture(entry.model, *calls[0]).program
        found = outputs_float64(program, calls)
    except UserError:
        return None
    if found is None or _shapes(found) != _shapes(full):
        return None
    return found


def low_of_torch(model: torch.nn.Module | ExportedProgram) -> Low | None:
    """The low type of most weights, or of a saved program's results; None when there is none."""
    tensors: list[object] = (
        [node.meta.get("val") for node in model.graph.nodes]
        if isinstance(model, ExportedProgram)
        else [*model.parameters(), *model.buffers()]
    )
    types = [tensor.dtype for tensor in tensors if isinstance(tensor, torch.Tensor)]
    half, brain = types.count(torch.float16), types.count(torch.bfloat16)
    if not half and not brain:
        return None
    return "float16" if half >= brain else "bfloat16"


def _as_type(tree: Any, dtype: torch.dtype) -> Any:
    return pytree.tree_map_only(
        torch.Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t, tree
    )


def _named(result: Any) -> dict[str, torch.Tensor]:
    found = dict(_tensors(result, ""))
    if not found:
        raise UserError("the model returns no tensor: there is nothing to compare")
    return {name or "output": tensor for name, tensor in found.items()}


def _tensors(result: Any, path: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(result, torch.Tensor):
        yield path, result
        return
    parts: list[tuple[str, Any]] = []
    if isinstance(result, Mapping):
        parts = [(str(key), value) for key, value in result.items()]
    elif is_dataclass(result) and not isinstance(result, type):
        parts = [(f.name, getattr(result, f.name)) for f in fields(result)]
    elif isinstance(result, list | tuple):
        parts = [(str(i), value) for i, value in enumerate(result)]
    for key, value in parts:
        yield from _tensors(
            value, f"{path}.{key}" if path else (f"output {key}" if key.isdecimal() else key)
        )


def _shapes(batches: list[list[Array]]) -> list[list[tuple[int, ...]]]:
    return [[answer.shape for answer in batch] for batch in batches]
