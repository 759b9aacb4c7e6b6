"""A model's example inputs and calibration data: the user's own where there are any."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from ampconvert.errors import UserError
from ampconvert.frontends.entry import Entry
from ampconvert.frontends.forward import Batch, Forward, Parameter, check_call, shown_type
from ampconvert.frontends.infer_inputs import device_of, guess, likely
from ampconvert.frontends.input_data import (
    LIMIT,
    Data,
    calibration_batches,
    checked,
    draws_random,
    example_in_file,
    read_npz,
    shown_name,
)
from ampconvert.frontends.input_spec import Dim, InputSpec, parse_spec
from ampconvert.frontends.random_data import Recipe, draw_all
from ampconvert.ranges.batches import Batches

__all__ = ["InputSpec", "Inputs", "parse_spec", "resolve"]

MORE_RANDOM = 3  # random batches beside a random example, when there is no calibration data
Dynamic = Mapping[str, tuple[str | None, ...]]


@dataclass(frozen=True)
class Inputs:
    """What a model is captured, calibrated and compared on."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    source: str  # "example_inputs() in model.py", "--input", "guessed from Conv2d(3, ...): ..."
    random: bool  # the example's values are random numbers
    dynamic: Dynamic  # per tensor with dynamic dimensions: name, "" (no name) or None (fixed)
    calibration: Sequence[Batch]  # the example itself first; those in files are read when asked for
    calibration_source: str
    calibration_random: bool  # every batch is random numbers
    names: tuple[str, ...]  # the example's tensors, flat: "x", "states.0"


def resolve(
    entry: Entry,
    specs: Sequence[str] = (),
    npz: Path | None = None,
    data: Path | None = None,
    seed: int = 0,
    max_batches: int | None = None,
    limits_only: bool = False,
) -> Inputs:
    """Find inputs for `entry` and prove that its forward takes them, by running it once.

    The example comes from, in this order: the file `npz`; `specs` (`--input`, random values, or the
    values of the next two where their shapes fit); `example_inputs` in the model's file; the first
    batch of the calibration data; what a saved program keeps; else a guess from the first layers.
    Calibration comes from `data` (a folder of .npz) or `calibration_data` in the model's file; at
    most `max_batches` batches, the example included: by default all files of `data`, and 16 of
    anything else. Random values depend on `seed` alone. With `limits_only` the range in a spec says
    what an input may hold: one whose own values lie inside keeps them. Raises UserError for
    anything that does not fit, naming the input and its source; for what a file of `data` holds,
    when it is read.
    """
    forward = Forward.of(entry)
    declared = _declared(specs)
    limit = max(max_batches, 1) if max_batches is not None else None
    if limit is None and data is None:
        limit = LIMIT
    found = calibration_batches(entry, forward, data, limit, seed)
    example = _example(entry, forward, declared, npz, found, seed, limits_only)
    dynamic = _dynamic(declared, forward, example)
    if not example.proved:
        check_call(entry, forward, example.batch, example.source)
    inputs = Inputs(
        *example.batch,
        source=example.source,
        random=example.random,
        dynamic=dynamic,
        calibration=(example.batch,),
        calibration_source=example.source,
        calibration_random=example.random,
        names=tuple(forward.tensors(example.batch, example.source)),
    )
    if found is not None:
        drawn = data is None and draws_random(entry, "calibration_data")
        first = 1 if example.first_of_data else 0
        places = range(first, len(found.batches))[: limit - 1 if limit is not None else None]
        return _calibrated(inputs, found, places, drawn, forward)
    if example.random and example.redraw is not None:
        most = MORE_RANDOM if limit is None else min(MORE_RANDOM, limit - 1)
        more = [example.redraw(seed + i) for i in range(1, most + 1)]
        words = f"random, {1 + len(more)} batches like the example"
        calibration = (example.batch, *more)
        return replace(inputs, calibration=calibration, calibration_source=words)
    return inputs


@dataclass(frozen=True)
class _Example:
    """One batch, and how to draw others like it when it is random."""

    batch: Batch
    source: str
    random: bool
    redraw: Callable[[int], Batch] | None = None
    proved: bool = False  # forward ran on it already
    first_of_data: bool = False  # it is the first batch of the calibration data


def _example(
    entry: Entry,
    forward: Forward,
    declared: Mapping[str, InputSpec],
    npz: Path | None,
    data: Data | None,
    seed: int,
    limits_only: bool,
) -> _Example:
    if npz is not None:
        example = _Example(read_npz(npz, entry, forward), str(npz), False)
        misfit = _misfit(declared, forward, example, limits_only)
        if misfit:
            raise UserError(f"{npz}: does not fit --input: {misfit}")
        return example
    found = _own_example(entry, forward, data, seed)
    if declared and (found is None or _misfit(declared, forward, found, limits_only)):
        return _specified(entry, forward, declared, seed)
    if found is not None:
        return found
    guessed = guess(entry, forward, seed)
    device = device_of(entry.model)

    def draw(with_seed: int) -> Batch:
        return forward.pack(draw_all(guessed.recipes, with_seed, device))

    ran = not isinstance(entry.model, ExportedProgram)
    return _Example(draw(seed), f"guessed from {guessed.why}", True, draw, proved=ran)


def _own_example(entry: Entry, forward: Forward, data: Data | None, seed: int) -> _Example | None:
    """The example that comes with the model: in its file, its calibration data or its archive."""
    batch = example_in_file(entry, forward, seed)
    if batch is not None:
        random = draws_random(entry, "example_inputs")
        source = shown_name(entry, "example_inputs") + (" (random numbers)" if random else "")

        def draw(with_seed: int) -> Batch:
            again = example_in_file(entry, forward, with_seed)
            if again is None or _equal(again, batch):  # it seeds itself, or is a value
                return _shuffled(batch, with_seed)
            return again

        return _Example(batch, source, random, draw)
    if data is not None:
        random = draws_random(entry, "calibration_data") and "calibration_data" in data.source
        source = f"first batch of {data.source}"
        return _Example(data.batches[0], source, random, first_of_data=True)
    if isinstance(entry.model, ExportedProgram) and entry.model.example_inputs is not None:
        args, kwargs = entry.model.example_inputs
        source = f"the example stored in {entry.path.name if entry.path else entry.name}"
        return _Example(checked((args, kwargs), forward, source, entry), source, False)
    return None


def _specified(
    entry: Entry, forward: Forward, declared: Mapping[str, InputSpec], seed: int
) -> _Example:
    """Random values as `--input` asks for them."""
    missing = [name for name in forward.required if name not in declared]
    if missing and not set(declared) - set(forward.names):
        found = {name: likely(entry, forward, name) or Recipe((2, 16)) for name in missing}
        options = " ".join(recipe.option(name) for name, recipe in found.items())
        raise UserError(
            f"--input: {forward.shown} also needs {', '.join(missing)}; add for example {options}"
        )
    forward.check_names(tuple(declared), "--input")
    guesses = {name: likely(entry, forward, name) for name in declared}
    sizes = _sizes(declared, guesses)
    parameters = {p.name: p for p in forward.parameters}
    recipes = {
        name: _recipe(spec, guesses[name], sizes, parameters.get(name))
        for name, spec in declared.items()
    }
    device = device_of(entry.model)

    def draw(with_seed: int) -> Batch:
        return forward.pack(draw_all(recipes, with_seed, device))

    return _Example(draw(seed), "--input", True, draw)


def _recipe(
    spec: InputSpec,
    guessed: Recipe | None,
    sizes: Mapping[tuple[str, int], int],
    parameter: Parameter | None,
) -> Recipe:
    """What a spec asks for; what it leaves open is taken from the layer the input meets first."""
    shape = tuple(
        dim.size if dim.size is not None else sizes[_key(spec, dim, axis)]
        for axis, dim in enumerate(spec.shape)
    )
    if parameter is not None and parameter.plain is not None and not shape:
        return Recipe((), plain=parameter.plain(1 if spec.low is None else spec.low))
    dtype = spec.dtype or (guessed.dtype if guessed is not None else "float32")
    if spec.low is not None or guessed is None:
        return Recipe(shape, dtype, spec.low, spec.high)
    alike = _is_integer(dtype) == _is_integer(guessed.dtype)
    if guessed.fill != "random" and shape:
        return Recipe(shape, dtype, fill=guessed.fill)
    return Recipe(shape, dtype, guessed.low, guessed.high) if alike else Recipe(shape, dtype)


def _sizes(
    declared: Mapping[str, InputSpec], guesses: Mapping[str, Recipe | None]
) -> dict[tuple[str, int], int]:
    """The example's size of each dynamic dimension; one name has one size everywhere.

    Never 1: torch.export would take a 1 for fixed.
    """
    sizes: dict[tuple[str, int], int] = {}
    for spec in declared.values():
        for dim in spec.shape:
            if dim.name and dim.size is not None:
                known = sizes.setdefault((dim.name, -1), dim.size)
                if known != dim.size:
                    raise UserError(f"--input: {dim.name} is given as {known} and as {dim.size}")
    for name, spec in declared.items():
        guessed = guesses[name]
        for axis, dim in enumerate(spec.shape):
            if dim.dynamic and dim.size is None:
                usual = 2 if axis == 0 else 16
                if guessed is not None and len(guessed.shape) == len(spec.shape):
                    usual = max(guessed.shape[axis], 2)
                sizes.setdefault(_key(spec, dim, axis), usual)
    return sizes


def _key(spec: InputSpec, dim: Dim, axis: int) -> tuple[str, int]:
    return (dim.name, -1) if dim.name else (spec.name + ".", axis)


def _declared(specs: Sequence[str]) -> dict[str, InputSpec]:
    declared: dict[str, InputSpec] = {}
    for text in specs:
        spec = parse_spec(text)
        if spec.name in declared:
            raise UserError(f"--input {text!r}: {spec.name} is given twice")
        declared[spec.name] = spec
    return declared


def _misfit(
    declared: Mapping[str, InputSpec], forward: Forward, example: _Example, limits_only: bool
) -> str:
    """Why the example is not what the specs ask for; "" when it is."""
    tensors = forward.tensors(example.batch, example.source)
    for name, spec in declared.items():
        tensor = tensors.get(name)
        if tensor is None:
            return f"it gives no {name}"
        sizes = [dim.size for dim in spec.shape]
        same = len(sizes) == tensor.ndim and all(
            wanted in (None, size) for wanted, size in zip(sizes, tensor.shape, strict=True)
        )
        dtype = str(tensor.dtype).removeprefix("torch.")
        if not same or spec.dtype not in (None, dtype):
            return f"{name} is {shown_type(tensor)}, and {spec} is asked for"
        inside = limits_only and _inside(tensor, spec)
        if spec.low is not None and not inside:
            return f"{name} has its own values, and {spec} asks for random ones"
    return ""


def _inside(tensor: torch.Tensor, spec: InputSpec) -> bool:
    """Whether all values lie in the range that the spec gives."""
    if spec.low is None or spec.high is None or not tensor.numel():
        return True
    return spec.low <= float(tensor.min()) and float(tensor.max()) <= spec.high


def _dynamic(declared: Mapping[str, InputSpec], forward: Forward, example: _Example) -> Dynamic:
    """The dynamic dimensions that the specs declare, by tensor."""
    tensors = forward.tensors(example.batch, example.source)
    dynamic: dict[str, tuple[str | None, ...]] = {}
    for name, spec in declared.items():
        if not any(dim.dynamic for dim in spec.shape):
            continue
        for axis, dim in enumerate(spec.shape):
            if dim.dynamic and tensors[name].shape[axis] == 1:
                raise UserError(
                    f"--input '{spec}': dimension {axis} of {name} is dynamic, but 1 in the "
                    f"example from {example.source}, and torch.export takes 1 for a fixed size; "
                    "give an example with 2 or more there"
                )
        dynamic[name] = tuple(dim.name for dim in spec.shape)
    return dynamic


def _calibrated(
    inputs: Inputs, data: Data, places: Sequence[int], drawn: bool, forward: Forward
) -> Inputs:
    """The inputs with the batches at `places` of the data; those of another shape than the example
    stay out.
    """
    example = forward.tensors((inputs.args, inputs.kwargs), inputs.source)
    kept: list[int] = []
    other = ""
    for place in places:
        tensors = forward.tensors(data.kinds[place], data.source)
        why = _difference(example, tensors, inputs.dynamic)
        other = other or why
        if not why:
            kept.append(place)
    if places and not kept:
        raise UserError(
            f"{data.source}: no batch has the example's shape: {other}. Give all batches the shape "
            "of the example, or declare the dimensions that change as dynamic: --input 'x:?x3'"
        )
    left_out = len(places) - len(kept)
    own = (inputs.args, dict(inputs.kwargs))
    others = data.batches.pick(kept).mapped(lambda b: forward.called_like(own, b, data.source))
    words = data.source + (f" ({left_out} left out: {other})" if left_out else "")
    if inputs.random and not drawn:
        words += ", after one random example"
    return replace(
        inputs,
        calibration=Batches.of(inputs.calibration) + others,
        calibration_source=words + (" (random numbers)" if drawn else ""),
        calibration_random=inputs.random and (drawn or not kept),
    )


def _difference(
    example: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor], dynamic: Dynamic
) -> str:
    """Where a batch differs in kind from the example; "" when it does not."""
    if example.keys() != other.keys():
        return f"it gives {', '.join(other)} instead of {', '.join(example)}"
    for name, tensor in example.items():
        free = dynamic.get(name, (None,) * tensor.ndim)
        same = other[name].ndim == tensor.ndim and all(
            dim is not None or a == b
            for dim, a, b in zip(free, tensor.shape, other[name].shape, strict=True)
        )
        if not same or other[name].dtype != tensor.dtype:
            return f"{name} is {shown_type(other[name])}, the example {shown_type(tensor)}"
    return ""


def _equal(first: Batch, second: Batch) -> bool:
    pairs = zip(pytree.tree_leaves(first), pytree.tree_leaves(second), strict=False)
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else True
        for a, b in pairs
    )


def _shuffled(batch: Batch, seed: int) -> Batch:
    """The same values in another order: of the same range and distribution as the user's."""
    generator = torch.Generator().manual_seed(seed)

    def shuffle(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        order = torch.randperm(leaf.numel(), generator=generator).to(leaf.device)
        return leaf.flatten()[order].reshape(leaf.shape)

    args, kwargs = pytree.tree_map(shuffle, batch)
    return args, kwargs


def _is_integer(dtype: str) -> bool:
    return "int" in dtype or dtype == "bool"
