"""The grammar of `--input`: one tensor's name, type, shape and range of values in one word.

NAME[:DTYPE]:SHAPE[:LOW..HIGH], for example

- `x:1x3x224x224`: float32, normally distributed
- `ids:int64:1x128:0..30521`: integers from 0 to 30521, both included
- `x:?x3x224x224`: the first dimension is dynamic
- `ids:int64:batchxseq`: two dynamic dimensions with names
- `x:batch=4x3x224x224`: dynamic, and 4 in the example
- `x:1,max_len,64`: commas, for names that contain an x
- `scale:float32:scalar`: a tensor without dimensions
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import NoReturn

from ampconvert.errors import UserError

DTYPES = {
    "float32": "float32", "float": "float32", "fp32": "float32", "f32": "float32",
    "float64": "float64", "double": "float64", "fp64": "float64", "f64": "float64",
    "float16": "float16", "half": "float16", "fp16": "float16", "f16": "float16",
    "bfloat16": "bfloat16", "bf16": "bfloat16",
    "int64": "int64", "long": "int64", "int": "int64", "i64": "int64",
    "int32": "int32", "i32": "int32", "int16": "int16", "i16": "int16",
    "int8": "int8", "i8": "int8", "uint8": "uint8", "u8": "uint8",
    "bool": "bool", "complex64": "complex64",
}  # fmt: skip
_INTEGERS = {"int64": (-(2**63), 2**63 - 1), "int32": (-(2**31), 2**31 - 1), "uint8": (0, 255),
             "int16": (-(2**15), 2**15 - 1), "int8": (-128, 127), "bool": (0, 1)}  # fmt: skip
_MOST_DIGITS = 18  # of a dimension: sizes are 64-bit integers
_LONGEST = 400  # characters of a number: float64's largest has 309 digits
_NAME = re.compile(r"[A-Za-z_]\w*(\.\w+)*")
_DIM_NAME = re.compile(r"[A-Za-z_]\w*")
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})")
FORM = "NAME[:DTYPE]:SHAPE[:LOW..HIGH], for example x:float32:1x3x224x224 or ids:int64:1x128:0..999"


@dataclass(frozen=True)
class Dim:
    """One dimension: fixed (a size alone), or dynamic: named, or "" for one without a name."""

    size: int | None = None  # None: dynamic, the example's size is chosen later
    name: str | None = None  # None: fixed

    @property
    def dynamic(self) -> bool:
        """Whether the converted model should take any size here."""
        return self.name is not None

    def __str__(self) -> str:
        if self.name is None:
            return str(self.size)
        return (self.name or "?") + (f"={self.size}" if self.size is not None else "")


@dataclass(frozen=True)
class InputSpec:
    """What one `--input` says. `dtype`, `low` and `high` are None where it is silent."""

    name: str
    shape: tuple[Dim, ...]
    dtype: str | None = None
    low: float | None = None
    high: float | None = None  # included for integers, excluded for floating point

    def __str__(self) -> str:
        """The spec as `parse_spec` reads it."""
        dims = [str(dim) for dim in self.shape]
        if not dims:
            shape = "scalar"
        elif any("x" in (dim.name or "") for dim in self.shape) or (
            len(dims) == 1 and self.shape[0].name  # "ids:batch," as a lone word could be a type
        ):
            shape = ",".join(dims) + ("," if len(dims) == 1 else "")
        else:
            shape = "x".join(dims)
        parts = [self.name, *([self.dtype] if self.dtype else []), shape]
        if self.low is not None and self.high is not None:
            parts.append(f"{_number(self.low)}..{_number(self.high)}")
        return ":".join(parts)


def parse_spec(text: str) -> InputSpec:
    """Read one `--input`: NAME[:DTYPE]:SHAPE[:LOW..HIGH].

    SHAPE is dimensions joined by "x" ("1x3x224x224"), or by commas where a name contains an x; or
    "scalar". A dimension is a size, "?" (dynamic), a name (dynamic), or "name=size". Raises
    UserError that quotes the text and says which part is wrong.
    """
    name, *rest = [part.strip() for part in text.split(":")]
    if not _NAME.fullmatch(name):
        _fail(text, f"{name!r} is no name of an argument")
    dtype = DTYPES.get(rest[0].lower()) if rest else None
    if dtype is not None:
        rest = rest[1:]
    elif len(rest) == 3 or (len(rest) == 2 and ".." not in rest[1]):
        _fail(text, f"{rest[0]!r} is no type; use one of {', '.join(sorted(set(DTYPES.values())))}")
    if not rest:
        _fail(text, "it has no SHAPE" + (" (write scalar for none)" if dtype else ""))
    if len(rest) > 2:
        _fail(text, f"{rest[2]!r} is left over")
    shape = _shape(text, rest[0])
    if len(rest) == 1:
        return InputSpec(name, shape, dtype)
    low, high = _range(text, rest[1], dtype)
    return InputSpec(name, shape, dtype, low, high)


def _shape(text: str, shape: str) -> tuple[Dim, ...]:
    if shape in ("scalar", "()"):
        return ()
    if "," in shape:
        words = shape.removesuffix(",").split(",")
    else:
        words = re.split("[x×]", shape)
    if not all(word.strip() for word in words):
        hint = "" if "," in shape else "; separate with commas where a name contains an x"
        _fail(text, f"the shape {shape!r} has an empty dimension{hint}")
    return tuple(_dim(text, word.strip()) for word in words)


def _dim(text: str, word: str) -> Dim:
    if re.fullmatch(r"\d+", word):
        return Dim(_size(text, word))
    if word == "-1":
        return Dim(None, "")
    name, equals, size = word.partition("=")
    if (name != "?" and not _DIM_NAME.fullmatch(name)) or (equals and not size.isdecimal()):
        _fail(text, f"{word!r} is no dimension; write a size, ?, a name, or name=size")
    return Dim(_size(text, size) if equals else None, "" if name == "?" else name)


def _size(text: str, digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        _fail(text, f"{digits[:10]}... is no dimension that a tensor can have")
    size = int(digits)
    if size < 1:
        _fail(text, "a dimension of size 0 leaves nothing to compare; use 1 or more")
    return size


def _range(text: str, word: str, dtype: str | None) -> tuple[float, float]:
    found = _RANGE.fullmatch(word)
    if found is None:
        _fail(text, f"{word!r} is no range; write LOW..HIGH")
    if max(len(found[1]), len(found[2])) > _LONGEST:
        _fail(text, "the range is written with more digits than any type holds")
    low, high = _value(found[1]), _value(found[2])
    if not (math.isfinite(low) and math.isfinite(high)):
        _fail(text, f"the range {word!r} is not finite")
    if low > high:
        _fail(text, f"the range {word!r} is empty: its low end is above its high end")
    limits = _INTEGERS.get(dtype or "")
    if limits is not None:
        if not (isinstance(low, int) and isinstance(high, int)):
            _fail(text, f"{dtype} needs whole numbers as its range")
        if low < limits[0] or high > limits[1]:
            _fail(text, f"{dtype} holds {limits[0]}..{limits[1]}")
    return low, high


def _value(digits: str) -> float:
    """An int where it is written as one, so that `0..30521` stays exact."""
    return int(digits) if re.fullmatch(r"[-+]?\d+", digits) else float(digits)


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(float(value))


def _fail(text: str, what: str) -> NoReturn:
    raise UserError(f"--input {text!r}: {what}. Its form is {FORM}")
