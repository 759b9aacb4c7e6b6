"""Facts about the floating point types: largest value, smallest normal and subnormal, unit
roundoff.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Low = Literal["float16", "bfloat16"]
SPELLINGS: dict[str, Low] = {
    "fp16": "float16", "f16": "float16", "half": "float16", "float16": "float16",
    "bf16": "bfloat16", "bfloat16": "bfloat16",
}  # fmt: skip


@dataclass(frozen=True)
class FloatType:
    """One IEEE-like binary format (IEEE 754-2019 for float16/32/64; Intel's white paper for
    bfloat16).
    """

    name: str
    bytes: int
    max: float  # largest finite value
    overflow: float  # from here on, round-to-nearest gives inf: max plus half a step
    tiny: float  # smallest normal
    smallest: float  # smallest subnormal
    unit: float  # unit roundoff: largest relative rounding error of a normal value
    exact_integers: int  # every integer up to here is exact


FLOAT16 = FloatType("float16", 2, 65504.0, 65520.0, 2.0**-14, 2.0**-24, 2.0**-11, 2048)
BFLOAT16 = FloatType(
    "bfloat16",
    2,
    (2 - 2**-7) * 2.0**127,
    (2 - 2**-8) * 2.0**127,
    2.0**-126,
    2.0**-133,
    2.0**-8,
    256,
)
FLOAT32 = FloatType(
    "float32",
    4,
    (2 - 2**-23) * 2.0**127,
    (2 - 2**-24) * 2.0**127,
    2.0**-126,
    2.0**-149,
    2.0**-24,
    2**24,
)
FLOAT_TYPES = {t.name: t for t in (FLOAT16, BFLOAT16, FLOAT32)}


def parse_low(spelling: str) -> Low:
    """The target type from any spelling a user types ("fp16", "BF16"); ValueError names the
    choices.
    """
    try:
        return SPELLINGS[spelling.lower()]
    except KeyError:
        raise ValueError(f"unknown type {spelling!r}: use fp16 or bf16") from None
