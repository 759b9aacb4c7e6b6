"""Inputs for an ONNX model: from files, or random, of the types and shapes it declares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ampconvert.errors import UserError
from ampconvert.frontends.input_spec import InputSpec, parse_spec
from ampconvert.frontends.npz_files import npz_files, read_arrays, read_headers
from ampconvert.ranges.batches import Batches
from ampconvert.report.subject import Subject, Tensor
from ampconvert.verification_inputs_random import (
    GUESSES,
    Array,
    Feed,
    OnnxInput,
    draw,
    numpy_type,
)

if TYPE_CHECKING:
    import onnx_ir as ir

BATCHES = 4  # of random numbers, as for PyTorch models


def declared_inputs(model: ir.Model) -> list[OnnxInput]:
    """The inputs that a caller has to give, those without a default value, and what `model` does
    with each. Raises UserError for an input that no array can be made for.
    """
    from ampconvert.element_types import inlined
    from ampconvert.verification_inputs_reading import read_input

    if model.functions:
        model = inlined(model)
    return [
        replace(_declared(value), reading=read_input(value))
        for value in model.graph.inputs
        if value.name not in model.graph.initializers
    ]


def random_feeds(model: ir.Model, source: str, seed: int = 0) -> list[Feed]:
    """Random batches that `model` runs on, by its own declaration; `source` names it in messages.

    Raises UserError, which says what inputs to give, where it runs on none.
    """
    from ampconvert.verification_inputs_trial import draw_running

    return draw_running(model, source, declared_inputs(model), {}, seed, BATCHES)


def onnx_feeds(
    path: Path,
    inputs: Sequence[OnnxInput],
    specs: Sequence[str],
    npz: Path | None,
    data: Path | None,
    seed: int,
    model: ir.Model | None = None,
) -> tuple[Sequence[Feed], Subject]:
    """The batches to run `path` on, and what the report says of them.

    `npz` is one batch, `data` a folder of more, each file read when its batch is asked for; without
    either `specs` say what random numbers to make, and what they leave open the model's own
    declaration does: floats standard normal, integers 0 or 1, indices below the rows of their
    table, masks ones. With `model` random inputs are tried on it. A sequence is a list of arrays,
    in an .npz `name.0`, `name.1` and so on. Raises UserError for files and names that do not fit;
    for NaN, when a file is read.
    """
    files = [npz] if npz is not None else []
    files += npz_files(data) if data is not None else []
    for file in files:
        _named_arrays(read_headers(file), inputs, file)
    feeds: Sequence[Feed] = Batches([partial(_read, file, inputs) for file in files])
    if feeds and specs:
        raise UserError("--input makes random inputs; leave it out with --inputs or --data")
    words = " and ".join(str(place) for place in (npz, data) if place is not None)
    if not feeds:
        given = _specs(specs, inputs, path)
        if model is None:
            feeds = draw(inputs, given, seed, BATCHES, GUESSES[0])
        else:
            from ampconvert.verification_inputs_trial import draw_running

            feeds = draw_running(model, str(path), inputs, given, seed, BATCHES)
        words = f"random numbers, {_what(specs)}"
    subject = Subject(
        target=str(path), name=path.name, how="ONNX model", tensors=tuple(_shown(feeds[0])),
        inputs_source=words, inputs_random=npz is None and data is None, data_source=words,
        data_random=npz is None and data is None, batches=len(feeds),
    )  # fmt: skip
    return feeds, subject


def _what(specs: Sequence[str]) -> str:
    return "as --input asks" if specs else "of the types and shapes that the model declares"


def _shown(feed: Feed) -> Iterator[Tensor]:
    for name, fed in feed.items():
        if isinstance(fed, list):
            yield Tensor(name, f"sequence of {len(fed)} {fed[0].dtype}", fed[0].shape)
        else:
            yield Tensor(name, "string" if fed.dtype == object else str(fed.dtype), fed.shape)


def _specs(specs: Sequence[str], inputs: Sequence[OnnxInput], path: Path) -> dict[str, InputSpec]:
    given = {}
    for text in specs:
        wanted = _named(text, inputs, path)
        # An ONNX name may hold colons and slashes, which the grammar of --input does not allow.
        spec = replace(parse_spec(f"x{text[len(wanted.name) :]}"), name=wanted.name)
        _refuse_misfit(text, spec, wanted)
        given[wanted.name] = spec
    return given


def _named(text: str, inputs: Sequence[OnnxInput], path: Path) -> OnnxInput:
    """The input that a `--input` speaks of: the longest name that it begins with."""
    fitting = [i for i in inputs if text == i.name or text.startswith(f"{i.name}:")]
    if not fitting:
        names = ", ".join(i.name for i in inputs)
        raise UserError(
            f"--input: {path} has no input {text.partition(':')[0]!r}; its inputs are {names}"
        )
    return max(fitting, key=lambda i: len(i.name))


def _refuse_misfit(text: str, spec: InputSpec, wanted: OnnxInput) -> None:
    shape = wanted.shape if wanted.shape is not None else (None,) * len(spec.shape)
    fits = len(shape) == len(spec.shape) and all(
        own.size in (None, size) or not isinstance(size, int)
        for own, size in zip(spec.shape, shape, strict=True)
    )
    if not fits or spec.dtype not in (None, wanted.dtype):
        raise UserError(f"--input {text!r}: the model takes {wanted.dtype} {_form(shape)} there")


def _form(shape: Sequence[object]) -> str:
    return "x".join("?" if d is None else str(d) for d in shape) or "scalar"


def _read(path: Path, inputs: Sequence[OnnxInput]) -> Feed:
    """One batch from an .npz: arrays by input name, or arr_0.. by position."""
    arrays = _named_arrays(read_arrays(path), inputs, path)
    return {wanted.name: _fed(arrays[wanted.name], wanted, path) for wanted in inputs}


def _named_arrays(arrays: Feed, inputs: Sequence[OnnxInput], path: Path) -> Feed:
    """The arrays of a file by input, for sequences lists of them; UserError where names, types or
    shapes do not fit. The numbers are not looked at.
    """
    if inputs and set(arrays) == {f"arr_{i}" for i in range(len(inputs))}:
        arrays = {wanted.name: arrays[f"arr_{i}"] for i, wanted in enumerate(inputs)}
    for wanted in inputs:
        if wanted.sequence:
            _gather(arrays, wanted.name)
    missing = [i.name for i in inputs if i.name not in arrays]
    extra = sorted(set(arrays) - {i.name for i in inputs})
    if missing or extra:
        raise UserError(
            f"{path}: holds {', '.join(arrays) or 'nothing'}; "
            f"the model's inputs are {', '.join(i.name for i in inputs) or 'none'}"
        )
    for wanted in inputs:
        for item in _items(arrays[wanted.name], wanted):
            _refuse_array(item, wanted, path)
    return arrays


def _gather(arrays: Feed, name: str) -> None:
    """Make a list under `name` of the arrays `name.0`, `name.1` and so on."""
    items: list[Array] = []
    while f"{name}.{len(items)}" in arrays:
        items.append(arrays.pop(f"{name}.{len(items)}"))
    if items:
        arrays[name] = items


def _fed(given: Array | list[Array], wanted: OnnxInput, path: Path) -> Array | list[Array]:
    items = [_fitting(item, wanted, path) for item in _items(given, wanted)]
    return items if wanted.sequence else items[0]


def _items(given: Array | list[Array], wanted: OnnxInput) -> list[Array]:
    """The tensors of an input: one, or those of a sequence, which an array is of its rows."""
    if isinstance(given, list):
        return given
    return [np.asarray(row) for row in np.atleast_1d(given)] if wanted.sequence else [given]


def _fitting(array: Array, wanted: OnnxInput, path: Path) -> Array:
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise UserError(f"{path}: {wanted.name} holds NaN: nothing can be compared with NaN")
    return array.astype(numpy_type(wanted.dtype), copy=False)


def _refuse_array(array: Array, wanted: OnnxInput, path: Path) -> None:
    """Raise UserError where the model takes no tensor of that shape, or that type can't become
    what it takes.
    """
    target = numpy_type(wanted.dtype)
    taken = array.dtype == target or (
        (array.dtype.kind == "f" and "float" in wanted.dtype)
        or (array.dtype.kind in "iub" and "int" in wanted.dtype)
        or (array.dtype.kind == "U" and wanted.dtype == "string")
    )
    shape = wanted.shape if wanted.shape is not None else (None,) * array.ndim
    fits = array.ndim == len(shape) and all(
        size == own or not isinstance(size, int)
        for size, own in zip(shape, array.shape, strict=True)
    )
    if not fits or not taken:
        raise UserError(
            f"{path}: {wanted.name} is {array.dtype} {list(array.shape)}; "
            f"the model takes {wanted.dtype} {_form(shape)}"
        )


def _declared(value: ir.Value) -> OnnxInput:
    import onnx_ir

    if value.dtype is None:
        raise UserError(f"input {value.name}: the model declares no type for it")
    kind = value.type
    sequence = isinstance(kind, onnx_ir.SequenceType)
    plain = isinstance(kind, onnx_ir.TensorType) or (
        isinstance(kind, onnx_ir.SequenceType | onnx_ir.OptionalType)
        and isinstance(kind.elem_type, onnx_ir.TensorType)
    )
    name = value.dtype.name.lower()
    if not plain or name.startswith("complex"):
        raise UserError(
            f"input {value.name}: inputs of type {kind} can't be made; give models without them"
        )
    dtype = {"float": "float32", "double": "float64"}.get(name, name)
    return OnnxInput(value.name or "", dtype, _shape(value), sequence)


def _shape(value: ir.Value) -> tuple[Any, ...] | None:
    if value.shape is None:
        return None
    sizes = (d if isinstance(d, int) else d.value or None for d in value.shape)
    # Some converters write -1 for a dimension that may be anything.
    return tuple(None if isinstance(d, int) and d < 0 else d for d in sizes)
