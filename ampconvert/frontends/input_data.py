"""Inputs that the user has: npz files, example_inputs and calibration_data in the model's file."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from ampconvert.errors import UserError
from ampconvert.frontends.entry import Entry
from ampconvert.frontends.forward import Batch, Forward
from ampconvert.frontends.infer_inputs import device_of
from ampconvert.frontends.npz_files import Array, npz_files, read_arrays, read_headers
from ampconvert.frontends.run_source import first_line, running
from ampconvert.frontends.static_check import parse
from ampconvert.ranges.batches import Batches

LIMIT = 16  # batches of calibration_data, which all stay in memory

_DRAWS = {
    "rand", "randn", "randint", "rand_like", "randn_like", "randint_like", "randperm", "normal",
    "uniform", "random", "standard_normal", "integers", "normal_", "uniform_", "random_", "choice",
    "bernoulli", "random_sample",
}  # fmt: skip


@dataclass(frozen=True)
class Data:
    """Calibration data: `batches`, the same in `kind` with tensors that hold no numbers (on the
    meta device) where these would have to be read, and the words that name the source.
    """

    batches: Batches[Batch]
    kinds: Batches[Batch]
    source: str


def read_npz(path: Path, entry: Entry, forward: Forward) -> Batch:
    """One batch from an .npz file: arrays by forward's parameter names, or arr_0.. by position.

    Floating point arrays become the model's own type (NumPy makes float64 unless told otherwise).
    Raises UserError for a missing or damaged file, names that forward does not have, object
    arrays, and NaN.
    """
    arrays = _by_name(read_arrays(path), path, forward)
    values = {name: _tensor(array, f"{path}: {name}", entry) for name, array in arrays.items()}
    return checked(forward.pack(values), forward, str(path), entry)


def kind_of_npz(path: Path, entry: Entry, forward: Forward) -> Batch:
    """What `read_npz` gives, with tensors on the meta device: the file's arrays are not read.

    Raises UserError as `read_npz`, but for NaN.
    """
    arrays = _by_name(read_headers(path), path, forward)
    kinds = {name: _kind(array, f"{path}: {name}", entry) for name, array in arrays.items()}
    return forward.pack(kinds)


def example_in_file(entry: Entry, forward: Forward, seed: int) -> Batch | None:
    """What `example_inputs` (a function without arguments, or a value) in the model's file gives.

    It is a tensor, a tuple or list of arguments, a dict of keyword arguments, or (args, kwargs).
    None when the file has no such name. Raises UserError when it raises or does not fit forward.
    """
    found = getattr(entry.namespace, "example_inputs", None)
    if found is None:
        return None
    source = shown_name(entry, "example_inputs")
    if callable(found) and not isinstance(found, torch.nn.Module):
        with running(f"calling {source}", entry.folders, seed):
            found = found()
    if isinstance(found, Iterator):
        raise UserError(f"{source}: gives an iterator; name it calibration_data, or return one")
    return as_batch(found, forward, source, entry)


def calibration_batches(
    entry: Entry, forward: Forward, data: Path | None, limit: int | None, seed: int
) -> Data | None:
    """At most `limit` batches of calibration data.

    From `data`, a folder of .npz files (one batch each) or one such file, each read when it is
    asked for; else from `calibration_data` in the model's file: a function or generator, or an
    iterable, of what example_inputs could be, LIMIT batches at most. None when there is none.
    Raises UserError when there is some and it is empty, raises, or does not fit forward; for what a
    file holds, when it is read.
    """
    if data is not None:
        return _npz_batches(data, entry, forward, limit)
    found = getattr(entry.namespace, "calibration_data", None)
    if found is None:
        return None
    source = shown_name(entry, "calibration_data")
    with running(f"calling {source}", entry.folders, seed):
        produced = found() if callable(found) and not isinstance(found, Iterable) else found
        if isinstance(produced, torch.Tensor | np.ndarray | Mapping):
            produced = [produced]  # one batch
        if not isinstance(produced, Iterable):
            kind = type(produced).__name__
            raise UserError(f"{source}: gives a {kind}; it should yield batches")
        values = list(itertools.islice(produced, LIMIT if limit is None else limit))
    if not values:
        raise UserError(f"{source}: yields no batch")
    named = [(f"batch {i} of {source}", value) for i, value in enumerate(values)]
    batches = Batches.of([as_batch(value, forward, name, entry) for name, value in named])
    words = f"{source}, {len(batches)} batch{'es' if len(batches) > 1 else ''}"
    return Data(batches, batches, words)


def as_batch(value: Any, forward: Forward, source: str, entry: Entry) -> Batch:
    """One call's (args, kwargs) from whatever a user wrote; arrays become tensors.

    Raises UserError when forward cannot be called like that, or the data holds NaN.
    """
    if isinstance(value, list | tuple) and len(value) == 2 and _is_args_kwargs(*value):
        args, kwargs = tuple(value[0]), dict(value[1])
    elif isinstance(value, Mapping):
        by_name = all(isinstance(key, str) for key in value) and set(value) <= set(forward.names)
        one = not by_name and len(forward.required) == 1 and not set(value) & set(forward.names)
        args, kwargs = ((dict(value),), {}) if one else ((), dict(value))
    elif isinstance(value, list | tuple):
        # forward(self, tensors) with one parameter may want the list itself.
        one = len(forward.names) == 1 and len(value) != 1 and not forward.positional
        args, kwargs = ((value,) if one else tuple(value)), {}
    elif isinstance(value, torch.Tensor | np.ndarray | int | float):
        args, kwargs = (value,), {}
    else:
        raise UserError(
            f"{source}: is a {type(value).__name__}; give a tensor, a tuple of arguments, a dict "
            "of keyword arguments, or (args, kwargs)"
        )
    args, kwargs = pytree.tree_map(
        lambda leaf: _tensor(leaf, source, entry) if isinstance(leaf, np.ndarray) else leaf,
        (args, kwargs),
    )
    return checked((args, kwargs), forward, source, entry)


def checked(batch: Batch, forward: Forward, source: str, entry: Entry) -> Batch:
    """The batch on the model's device. Raises UserError if forward does not take it, or for NaN."""
    device = device_of(entry.model)
    args, kwargs = pytree.tree_map(
        lambda leaf: leaf.to(device) if isinstance(leaf, torch.Tensor) else leaf, batch
    )
    for name, tensor in forward.tensors((args, kwargs), source).items():
        if tensor.layout != torch.strided or tensor.is_quantized:
            kind = "quantized" if tensor.is_quantized else "sparse"
            raise UserError(
                f"{source}: input {name} is a {kind} tensor, which no converted model takes; give "
                "a dense one of plain numbers"
            )
        if tensor.is_floating_point() or tensor.is_complex():
            count = int(torch.isnan(tensor).sum())
            if count:
                raise UserError(
                    f"{source}: input {name} holds {count} NaN of {tensor.numel()} values; "
                    "nothing can be compared on NaN: replace them or leave that batch out"
                )
    return tuple(args), dict(kwargs)


def draws_random(entry: Entry, name: str) -> bool:
    """Whether the definition of `name` in the model's file calls a random number generator."""
    file = getattr(entry.namespace, "__file__", None)
    if file is None or not str(file).endswith(".py"):
        return False
    for node in parse(Path(file)).body:
        if isinstance(node, ast.FunctionDef) and node.name == name and _calls_random(node):
            return True
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
            if name in names and _calls_random(node):
                return True
    return False


def shown_name(entry: Entry, name: str) -> str:
    """The words for a name of the model's file: `example_inputs() in model.py`."""
    called = "()" if callable(getattr(entry.namespace, name)) else ""
    file = getattr(entry.namespace, "__file__", None)
    where = Path(file).name if file else getattr(entry.namespace, "__name__", "")
    return f"{name}{called} in {where}"


def _calls_random(node: ast.AST) -> bool:
    calls = (n.func for n in ast.walk(node) if isinstance(n, ast.Call))
    return any(getattr(f, "attr", getattr(f, "id", "")) in _DRAWS for f in calls)


def _is_args_kwargs(first: object, second: object) -> bool:
    return (
        isinstance(first, list | tuple)
        and isinstance(second, dict)
        and all(isinstance(key, str) for key in second)
    )


def _npz_batches(data: Path, entry: Entry, forward: Forward, limit: int | None) -> Data:
    files = npz_files(data)
    used = files[:limit]
    some = f"{len(used)} of " if len(used) < len(files) else ""
    return Data(
        Batches([partial(read_npz, file, entry, forward) for file in used]),
        Batches([partial(kind_of_npz, file, entry, forward) for file in used]),
        f"{data}, {some}{len(files)} file{'s' if len(files) > 1 else ''}",
    )


def _by_name(arrays: dict[str, Array], path: Path, forward: Forward) -> dict[str, Array]:
    """The arrays of a file by forward's names, which are given by position where it names none."""
    numbered = [f"arr_{i}" for i in range(len(arrays))]
    if set(arrays) == set(numbered) and not set(arrays) <= set(forward.names):
        if len(arrays) > len(forward.names):
            raise UserError(f"{path}: holds {len(arrays)} arrays; the model is {forward.shown}")
        arrays = {name: arrays[key] for name, key in zip(forward.names, numbered, strict=False)}
    forward.check_names(tuple(arrays), str(path))
    return arrays


def _tensor(array: Array, source: str, entry: Entry) -> torch.Tensor:
    if array.dtype.kind not in "biufc":
        raise UserError(f"{source}: an array of {array.dtype} is no tensor; save numbers")
    native = array.astype(array.dtype.newbyteorder("="))
    try:
        tensor = torch.from_numpy(native)
    except TypeError as error:
        raise UserError(f"{source}: {first_line(error)}") from None
    if not tensor.is_floating_point():
        return tensor
    floating = (p.dtype for p in entry.model.parameters() if p.is_floating_point())
    return tensor.to(next(floating, torch.float32))


def _kind(array: Array, source: str, entry: Entry) -> torch.Tensor:
    """What `_tensor` gives, without its numbers."""
    dtype = _tensor(np.empty(0, array.dtype), source, entry).dtype
    return torch.empty(array.shape, dtype=dtype, device="meta")
