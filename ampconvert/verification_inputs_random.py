"""Random batches for an ONNX model: of the types and shapes it declares, of numbers it can take.

Dimensions that share a name get one size; a name that is a sum of others gets their sum. What no
declaration settles is a guess, and `GUESSES` has more than one.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ampconvert.errors import UserError
from ampconvert.frontends.input_spec import InputSpec

Array = np.ndarray[Any, Any]
Size = int | str  # a dynamic dimension is its name
Feed = dict[str, Any]  # an array, or a list of arrays for a sequence

ITEMS = 3  # tensors in a random sequence
_PICTURE_RANK = 4
_FULL = {"uint8": (0, 255), "int8": (-128, 127), "uint4": (0, 15), "int4": (-8, 7)}


@dataclass
class Reading:
    """What is asked of one input's numbers and dimensions.

    `low` and `high` bound the numbers, both included; `below` has the rows of every table that they
    index, `known` constants that they are compared with. `word` is "branch", "length", "reshape",
    "axes", "sizes" or "parts" where no interval says it; the last two are about the dimensions
    `dims`. `sizes` gives the input's own dimensions by axis, as the weights that it meets have
    them.
    """

    low: float | None = None
    high: float | None = None
    below: list[Size] = field(default_factory=list)
    known: list[int] = field(default_factory=list)
    word: str = ""
    dims: tuple[Size, ...] = ()
    sizes: dict[int, int] = field(default_factory=dict)
    rank: int | None = None


@dataclass(frozen=True)
class OnnxInput:
    """One input that an ONNX model declares.

    `shape` has a size, a name, or None for each dimension, and is None where no shape is declared.
    `sequence`: it takes a list of tensors of this type. `reading` is what the model does with it.
    """

    name: str
    dtype: str
    shape: tuple[Size | None, ...] | None
    sequence: bool = False
    reading: Reading = field(default_factory=Reading, compare=False)


@dataclass(frozen=True)
class Guess:
    """Sizes for dimensions that nothing settles: the first, those of a picture, and all others."""

    batch: int
    picture: int
    other: int


# In the order of trial: small; for models that are made for one sample; larger; large pictures
# and sound.
GUESSES = (Guess(2, 64, 16), Guess(1, 64, 16), Guess(1, 224, 512), Guess(1, 512, 16000))
_STATES = frozenset({"state", "hidden", "h", "c", "h0", "c0", "hn", "cn"})  # of recurrent cells


@dataclass(frozen=True)
class _Batch:
    """What the inputs of one batch share: its number, its random numbers, sizes by name, and how
    long its sequences are.
    """

    number: int
    generator: np.random.Generator
    names: Mapping[str, int]
    length: int


def draw(
    inputs: Sequence[OnnxInput], given: Mapping[str, InputSpec], seed: int, count: int, guess: Guess
) -> list[Feed]:
    """`count` batches of inputs; `given` is what the user says of some of them.

    Raises UserError for an input whose rank nobody knows, or that no memory holds.
    """
    names: dict[str, int] = {}
    shapes = {i.name: _sizes(i, given.get(i.name), names, guess) for i in _ordered(inputs, given)}
    length = _length(inputs, shapes)
    batches = [
        _Batch(number, np.random.default_rng(seed + number), names, length)
        for number in range(count)
    ]
    return [
        {i.name: _made(i, shapes[i.name], given.get(i.name), batch) for i in inputs}
        for batch in batches
    ]


def numpy_type(dtype: str) -> Any:
    """The type of arrays that hold `dtype`, which is spelled as in numpy ("float32", "bfloat16"),
    or as ONNX does where numpy has no such type.
    """
    import onnx_ir as ir

    found = {"float32": "FLOAT", "float64": "DOUBLE"}.get(dtype, dtype.upper())
    return np.dtype(ir.DataType[found].numpy())


def _ordered(inputs: Sequence[OnnxInput], given: Mapping[str, InputSpec]) -> list[OnnxInput]:
    """Inputs in an order in which sizes that the user gave come first, and sums of others last."""

    def order(wanted: OnnxInput) -> tuple[bool, bool]:
        return wanted.name not in given, any(_is_sum(d) for d in wanted.shape or ())

    return sorted(inputs, key=order)


def _sizes(
    wanted: OnnxInput, spec: InputSpec | None, names: dict[str, int], guess: Guess
) -> tuple[int, ...]:
    declared = _declared(wanted, spec)
    dims: list[int | None] = [None] * len(declared)
    if spec is not None:
        dims = [d.size for d in spec.shape]
    sizes = []
    for axis, (dim, size) in enumerate(zip(declared, dims, strict=True)):
        if size is None and isinstance(dim, int):
            size = dim
        elif size is None and isinstance(dim, str):
            size = names.get(dim) or (_sum(dim, names) if _is_sum(dim) else None)
        if size is None:
            size = _guessed(wanted, axis, dim if isinstance(dim, str) else "", guess)
        if isinstance(dim, str):
            names.setdefault(dim, size)
        sizes.append(size)
    return tuple(sizes)


def _declared(wanted: OnnxInput, spec: InputSpec | None) -> tuple[Size | None, ...]:
    if wanted.shape is not None:
        return wanted.shape
    if spec is not None:
        return (None,) * len(spec.shape)
    if wanted.reading.rank is not None or wanted.sequence:
        return (None,) * (wanted.reading.rank or 1)
    raise UserError(
        f"input {wanted.name}: the model declares no shape for it; "
        f"give --input '{wanted.name}:SHAPE'"
    )


def _guessed(wanted: OnnxInput, axis: int, name: str, guess: Guess) -> int:
    rank = len(wanted.shape) if wanted.shape is not None else wanted.reading.rank or 0
    known = wanted.reading.sizes.get(axis, wanted.reading.sizes.get(axis - rank))
    if known:
        return known
    words = _words(name)
    if rank == 3 and axis == 1 and _words(wanted.name) & _STATES:  # layers, batch, width
        return guess.batch
    if "batch" in words or (axis == 0 and not words & {"seq", "sequence", "time", "length", "len"}):
        return guess.batch
    is_picture = rank == _PICTURE_RANK and wanted.dtype.startswith(("float", "uint8"))
    if is_picture and not words & {"past", "seq", "sequence", "length"}:
        last = wanted.shape[-1] if wanted.shape else None
        channels_last = isinstance(last, int) and last <= 4
        return guess.picture if axis in ((1, 2) if channels_last else (2, 3)) else 3
    return guess.other


def _is_sum(dim: Size | None) -> bool:
    """Whether a dimension's name is arithmetic: "past_sequence_length + 1"."""
    return isinstance(dim, str) and re.search(r"\w\s*[-+*/]\s*\w|^total_", dim) is not None


def _sum(dim: str, names: Mapping[str, int]) -> int | None:
    import onnx_ir as ir

    new = dim.removeprefix("total_")
    if new != dim and {new, f"past_{new}"} <= names.keys():
        return names[new] + names[f"past_{new}"]
    try:
        symbol = ir.SymbolicDim(dim)
        if not symbol.free_symbols() <= names.keys():
            return None
        size = symbol.evaluate(dict(names))
    except (ValueError, TypeError, ArithmeticError):  # a name like any other: "batch-size"
        return None
    return size if isinstance(size, int) and size > 0 else None


def _length(inputs: Sequence[OnnxInput], shapes: Mapping[str, tuple[int, ...]]) -> int:
    """How long the sequences are that the other inputs hold."""
    ranked = [i for i in inputs if len(shapes[i.name]) > 1 and not _is_length(i)]
    for i in ranked:
        for axis, dim in enumerate(i.shape or ()):
            if isinstance(dim, str) and _words(dim) & _LENGTHS:
                return shapes[i.name][axis]
    return min((shapes[i.name][1] for i in ranked), default=1)


def _made(wanted: OnnxInput, shape: tuple[int, ...], spec: InputSpec | None, batch: _Batch) -> Any:
    try:
        # numpy counts bytes in 64 bits, of float64 numbers at the most.
        if math.prod(shape) > sys.maxsize // 16:
            raise MemoryError
        return _input(wanted, shape, spec, batch)
    except MemoryError:
        raise UserError(
            f"input {wanted.name}: there is no memory for {wanted.dtype} "
            f"{'x'.join(map(str, shape))}; give smaller dimensions with --input"
        ) from None


def _input(wanted: OnnxInput, shape: tuple[int, ...], spec: InputSpec | None, batch: _Batch) -> Any:
    if wanted.sequence:
        return [_array(wanted, shape, spec, batch) for _ in range(ITEMS)]
    return _array(wanted, shape, spec, batch)


def _array(
    wanted: OnnxInput, shape: tuple[int, ...], spec: InputSpec | None, batch: _Batch
) -> Array:
    dtype, read = numpy_type(wanted.dtype), wanted.reading
    if wanted.dtype == "string":
        return batch.generator.choice(np.array(["a", "b"], dtype), shape)
    if spec is not None and spec.low is not None and spec.high is not None:
        return _between(spec.low, spec.high, shape, wanted.dtype, batch)
    if read.word in ("reshape", "axes", "sizes", "parts"):
        return _about_shapes(read, shape, batch).astype(dtype)
    fixed = _settled(wanted, batch)
    if fixed is not None:
        return np.full(shape, fixed, dtype)
    if read.low is not None and read.high is not None:
        return _between(read.low, read.high, shape, wanted.dtype, batch)
    if not _is_whole(wanted.dtype):
        return np.asarray(batch.generator.standard_normal(shape)).astype(dtype)
    rows = [batch.names.get(r, 1) if isinstance(r, str) else r for r in read.below]
    if rows:
        return _between(0, max(0, min(rows) - 1), shape, wanted.dtype, batch)
    if read.known and np.prod(shape) == 1:
        choices = [*read.known, 0]
        return np.full(shape, choices[batch.number % len(choices)], dtype)
    return _between(*_FULL.get(wanted.dtype, (0, 1)), shape, wanted.dtype, batch)


def _about_shapes(read: Reading, shape: tuple[int, ...], batch: _Batch) -> Array:
    """Whole numbers that speak of another tensor's dimensions, and are legal there."""
    dims = [batch.names.get(d, 1) if isinstance(d, str) else d for d in read.dims]
    whole = np.ones(shape, np.int64)
    flat = whole.reshape(-1)
    if read.word == "reshape":
        flat[:1] = -1  # everything along the first dimension
    elif read.word == "axes":
        flat[:] = np.arange(len(flat))
    elif read.word == "sizes" and len(dims) == len(flat):
        flat[:] = dims
    elif read.word == "parts" and len(flat):
        flat[:] = dims[0] // len(flat)
        flat[-1] += dims[0] % len(flat)
    return whole


def _settled(wanted: OnnxInput, batch: _Batch) -> float | None:
    """One number for every element, where that is what the input means."""
    read, words = wanted.reading, _words(wanted.name)
    if read.word == "branch":
        return float(batch.number % 2 == 0)  # both branches are seen
    if read.word == "length" or (_is_length(wanted) and not read.below and read.low is None):
        # Lengths as floating-point numbers are shares of the whole.
        return float(batch.length) if _is_whole(wanted.dtype) else 1.0
    if "mask" in wanted.name.lower() and not read.below and read.low is None:
        # PyTorch's padding masks are true for what is left out, all others for what counts.
        return 0.0 if words & {"padding", "pad"} and wanted.dtype == "bool" else 1.0
    return None


_LENGTHS = frozenset({"seq", "sequence", "time", "length", "len", "frames", "t", "s"})


def _is_length(wanted: OnnxInput) -> bool:
    """Whether the name says that it holds lengths: "seq_len", "input_lengths"."""
    rank = len(wanted.shape) if wanted.shape is not None else 1
    return rank <= 1 and bool(_words(wanted.name) & {"len", "lens", "length", "lengths"})


def _between(low: float, high: float, shape: tuple[int, ...], dtype: str, batch: _Batch) -> Array:
    """Numbers from `low` to `high`: whole ones with both ends, others without the upper one."""
    if _is_whole(dtype):
        found = batch.generator.integers(int(low), int(high), shape, dtype=np.int64, endpoint=True)
    else:
        found = np.asarray(batch.generator.uniform(low, high, shape))
    return np.asarray(found).astype(numpy_type(dtype))


def _is_whole(dtype: str) -> bool:
    return dtype == "bool" or "int" in dtype


def _words(name: str) -> set[str]:
    """The words in a name: input, seq, len and 1 in "inputSeq_len.1"."""
    spaced = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name)
    return {word for word in re.split(r"[^a-z0-9]+", spaced.lower()) if word}
