"""Inputs for an ONNX reference: from files, or random, of the types and shapes it declares."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ampconvert.errors import UserError
from ampconvert.frontends.input_spec import DTYPES, InputSpec, parse_spec
from ampconvert.report.subject import Subject, Tensor

if TYPE_CHECKING:
    import onnx_ir as ir

Array = np.ndarray[Any, Any]
Feed = dict[str, Array]
BATCHES = 4  # of random numbers, as for PyTorch models
MOST = 16  # batches read from a folder


@dataclass(frozen=True)
class OnnxInput:
    """One input that an ONNX model declares; None for an unknown dimension, or no shape at all."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None


def declared_inputs(model: ir.Model) -> list[OnnxInput]:
    """The inputs that a caller has to give: those without a default value."""
    return [
        OnnxInput(value.name or "", _dtype(value), _shape(value))
        for value in model.graph.inputs
        if value.name not in model.graph.initializers
    ]


def onnx_feeds(
    path: Path,
    inputs: Sequence[OnnxInput],
    specs: Sequence[str],
    npz: Path | None,
    data: Path | None,
    seed: int,
) -> tuple[list[Feed], Subject]:
    """The batches to run `path` on, and what the report says of them.

    `npz` is one batch, `data` a folder of more; without either `specs` say what random numbers to
    make, and what they leave open the model's own declaration does: floats standard normal,
    integers 0 or 1, masks ones. Raises UserError for files and names that do not fit.
    """
    feeds = [_read(npz, inputs)] if npz is not None else []
    if data is not None:
        feeds += [_read(file, inputs) for file in _files(data)]
    if feeds and specs:
        raise UserError("--input makes random inputs; leave it out with --inputs or --data")
    words = " and ".join(str(place) for place in (npz, data) if place is not None)
    if not feeds:
        given = _specs(specs, inputs, path)
        feeds = [_draw(inputs, given, seed + i) for i in range(BATCHES)]
        words = f"random numbers, {_what(specs)}"
    shown = tuple(Tensor(name, str(a.dtype), a.shape) for name, a in feeds[0].items())
    subject = Subject(
        target=str(path), name=path.name, how="ONNX model", tensors=shown, inputs_source=words,
        inputs_random=npz is None and data is None, data_source=words,
        data_random=npz is None and data is None, batches=len(feeds),
    )  # fmt: skip
    return feeds, subject


def _what(specs: Sequence[str]) -> str:
    return "as --input asks" if specs else "of the types and shapes that the model declares"


def _specs(specs: Sequence[str], inputs: Sequence[OnnxInput], path: Path) -> dict[str, InputSpec]:
    given = {spec.name: spec for spec in map(parse_spec, specs)}
    unknown = sorted(set(given) - {i.name for i in inputs})
    if unknown:
        names = ", ".join(i.name for i in inputs)
        raise UserError(f"--input: {path} has no input {unknown[0]!r}; its inputs are {names}")
    return given


def _draw(inputs: Sequence[OnnxInput], given: Mapping[str, InputSpec], seed: int) -> Feed:
    generator = np.random.default_rng(seed)
    return {i.name: _random(i, given.get(i.name), generator) for i in inputs}


def _random(wanted: OnnxInput, spec: InputSpec | None, generator: np.random.Generator) -> Array:
    dtype = spec.dtype if spec and spec.dtype else wanted.dtype
    sizes = wanted.shape if spec is None else [d.size for d in spec.shape]
    if sizes is None:
        raise UserError(
            f"input {wanted.name}: the model declares no shape for it; "
            f"give --input '{wanted.name}:SHAPE'"
        )
    shape = [
        size if size is not None else (2 if axis == 0 else 16) for axis, size in enumerate(sizes)
    ]
    low, high = (spec.low, spec.high) if spec else (None, None)
    if dtype == "bool" or "int" in dtype:
        if low is None and "mask" in wanted.name.lower():
            return np.ones(shape, dtype)
        first, last = int(low or 0), int(1 if high is None else high)
        return generator.integers(first, last, shape, dtype=np.int64, endpoint=True).astype(dtype)
    numbers = (
        generator.standard_normal(shape)
        if low is None or high is None
        else generator.uniform(low, high, shape)
    )
    return numbers.astype(_numpy_type(dtype))


def _numpy_type(dtype: str) -> Any:
    if dtype == "bfloat16":
        import onnx_ir

        return onnx_ir.DataType.BFLOAT16.numpy()
    return np.dtype(dtype)


def _files(folder: Path) -> list[Path]:
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder of .npz files")
    found = sorted(folder.glob("*.npz"))[:MOST]
    if not found:
        raise UserError(f"{folder}: there are no .npz files in this folder")
    return found


def _read(path: Path, inputs: Sequence[OnnxInput]) -> Feed:
    """One batch from an .npz: arrays by input name, or arr_0.. by position."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise UserError(
                    f"{path}: one array, not an .npz; save it with numpy.savez(name=array)"
                )
            arrays = {name: archive[name] for name in archive.files}
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or 'not an .npz file'}") from None
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{path}: not a readable .npz of plain arrays: {error}") from None
    if set(arrays) == {f"arr_{i}" for i in range(len(inputs))}:
        arrays = {wanted.name: arrays[f"arr_{i}"] for i, wanted in enumerate(inputs)}
    missing = [i.name for i in inputs if i.name not in arrays]
    extra = sorted(set(arrays) - {i.name for i in inputs})
    if missing or extra:
        raise UserError(
            f"{path}: holds {', '.join(arrays) or 'nothing'}; "
            f"the model's inputs are {', '.join(i.name for i in inputs)}"
        )
    return {wanted.name: _fitting(arrays[wanted.name], wanted, path) for wanted in inputs}


def _fitting(array: Array, wanted: OnnxInput, path: Path) -> Array:
    floats = array.dtype.kind == "f" and "float" in wanted.dtype
    if floats and np.isnan(array).any():
        raise UserError(f"{path}: {wanted.name} holds NaN: nothing can be compared with NaN")
    if array.dtype != _numpy_type(wanted.dtype) and (
        floats or (array.dtype.kind in "iub" and "int" in wanted.dtype)
    ):
        array = array.astype(_numpy_type(wanted.dtype))
    shape = wanted.shape if wanted.shape is not None else (None,) * array.ndim
    fits = array.ndim == len(shape) and all(
        size in (None, own) for size, own in zip(shape, array.shape, strict=True)
    )
    if not fits or array.dtype != _numpy_type(wanted.dtype):
        shown = "x".join("?" if d is None else str(d) for d in shape) or "scalar"
        raise UserError(
            f"{path}: {wanted.name} is {array.dtype} {list(array.shape)}; "
            f"the model takes {wanted.dtype} {shown}"
        )
    return array


def _dtype(value: ir.Value) -> str:
    if value.dtype is None:
        raise UserError(f"input {value.name}: the model declares no type for it")
    name = value.dtype.name.lower()
    aliases = {"float": "float32", "double": "float64"}
    dtype = aliases.get(name, name)
    if dtype not in DTYPES and dtype not in ("uint16", "uint32", "uint64"):
        raise UserError(
            f"input {value.name}: inputs of type {name} can't be made; give models without them"
        )
    return dtype


def _shape(value: ir.Value) -> tuple[int | None, ...] | None:
    if value.shape is None:
        return None
    return tuple(d if isinstance(d, int) else None for d in value.shape)
