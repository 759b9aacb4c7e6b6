"""Constants that a low type can't hold."""

from __future__ import annotations

import ast
import math
from typing import TYPE_CHECKING

from ampconvert.lint.arithmetic import limit

if TYPE_CHECKING:
    from ampconvert.lint.source import Source

_TENSORS = ("torch.tensor", "torch.as_tensor", "torch.scalar_tensor")


def largest(low: str) -> float:
    """The largest finite number of "float16" (65504) or "bfloat16" (3.39e38)."""
    found = limit(low, "max")
    assert found is not None
    return found


def beyond(source: Source, value: ast.expr, low: str) -> float | None:
    """The number that `value` is, if it is finite and `low` has no such large one; None also where
    it may be another that fits, or something that doesn't show.
    """
    ends = source.values.of(value)
    numbers: set[float] = set()
    for end in ends:
        found = source.values.numbers(_unwrapped(source, end))
        if not found and not _is_open_parameter(source, end, len(ends)):
            return None
        numbers |= found
    fits = [n for n in numbers if not math.isfinite(n) or abs(n) <= largest(low)]
    return max(numbers, key=abs) if numbers and not fits else None


def becomes_inf(number: float, low: str) -> bool:
    """Whether rounding to `low` makes infinity of `number`: what lies less than half a step above
    the largest number is rounded down to it.
    """
    top = largest(low)
    eps = limit(low, "eps")
    assert eps is not None
    return abs(number) >= top * (1 + eps / (4 - 2 * eps))


def is_whole(source: Source, value: ast.expr) -> bool:
    """Whether `value` is written without a decimal point or exponent: -100, -(2**31)."""
    constants = [
        part.value
        for end in source.values.of(value)
        for part in ast.walk(end)
        if isinstance(part, ast.Constant)
    ]
    return bool(constants) and all(isinstance(one, int) for one in constants)


def _unwrapped(source: Source, value: ast.expr) -> ast.expr:
    """`-1e9` of `torch.tensor(-1e9)`, which has no dimensions and yields to the tensor it meets."""
    if not isinstance(value, ast.Call) or len(value.args) != 1 or _dtype(value):
        return value
    return value.args[0] if source.names.is_one(value.func, *_TENSORS) else value


def _dtype(call: ast.Call) -> ast.expr | None:
    return next((k.value for k in call.keywords if k.arg in ("dtype", None)), None)


def _is_open_parameter(source: Source, value: ast.expr, ends: int) -> bool:
    """Whether `value` is a parameter that has its default in this file's view: any other value
    that callers may give is theirs.
    """
    if ends < 2 or not isinstance(value, ast.Name):
        return False
    return any(isinstance(b.node, ast.arg) for b in source.scopes.bindings(value))
