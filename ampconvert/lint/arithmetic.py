"""The numbers that an expression may be: `-1e9`, `10**-8`, `2 * self.eps`, `info.min`."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ampconvert.lint.source import Source

_ARITHMETIC: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.Pow: operator.pow, ast.FloorDiv: operator.floordiv,
    ast.LShift: lambda a, b: a * 2.0**b,
}  # fmt: skip
_CONSTANTS = {
    "math.inf": math.inf, "numpy.inf": math.inf, "torch.inf": math.inf,
    "math.pi": math.pi, "numpy.pi": math.pi, "torch.pi": math.pi, "math.e": math.e,
    "sys.float_info.epsilon": 2.0**-52, "sys.float_info.max": (2 - 2.0**-52) * 2.0**1023,
}  # fmt: skip
_ARRAY_TYPES = {"float": "float64", "numpy.float64": "float64", "numpy.double": "float64",
                "numpy.float32": "float32", "numpy.float16": "float16"}  # fmt: skip
# Type -> bits of the fraction, smallest and largest exponent of normal numbers.
_FORMATS = {"float16": (10, -14, 15), "bfloat16": (7, -126, 127), "float32": (23, -126, 127),
            "float64": (52, -1022, 1023)}  # fmt: skip


def number(source: Source, value: ast.expr) -> set[float]:
    """The numbers that `value`, which is no name to follow, may be; empty for what is none."""
    if isinstance(value, ast.Constant):
        plain = isinstance(value.value, int | float) and not isinstance(value.value, bool)
        return {_as_float(value.value)} if plain else set()
    if isinstance(value, ast.UnaryOp) and isinstance(value.op, ast.USub | ast.UAdd):
        sign = -1.0 if isinstance(value.op, ast.USub) else 1.0
        return {sign * one for one in source.values.numbers(value.operand)}
    if isinstance(value, ast.BinOp) and type(value.op) in _ARITHMETIC:
        rights = source.values.numbers(value.right)
        lefts = source.values.numbers(value.left) if rights else set()
        return {r for a in lefts for b in rights
                if (r := _computed(_ARITHMETIC[type(value.op)], a, b)) is not None}  # fmt: skip
    if isinstance(value, ast.Attribute | ast.Name):
        name = source.names.of(value)
        return {_CONSTANTS[name]} if name in _CONSTANTS else _limits(source, value)
    if isinstance(value, ast.Call) and len(value.args) == 1:
        return _converted(source, value)
    return set()


def limit(type_name: str, which: str) -> float | None:
    """`torch.finfo(type).which` of a floating-point type; None for what it doesn't have."""
    if type_name not in _FORMATS:
        return None
    bits, lowest, highest = _FORMATS[type_name]
    largest = (2 - 2.0**-bits) * 2.0**highest
    return {
        "max": largest, "min": -largest, "eps": 2.0**-bits, "tiny": 2.0**lowest,
        "smallest_normal": 2.0**lowest,
    }.get(which)  # fmt: skip


def _limits(source: Source, value: ast.expr) -> set[float]:
    """`torch.finfo(torch.float32).min`, also `info.min` with `info = torch.finfo(...)`."""
    if not isinstance(value, ast.Attribute):
        return set()
    found = set()
    for made in source.values.of(value.value):
        if (
            isinstance(made, ast.Call)
            and made.args
            and source.names.is_one(made.func, "torch.finfo", "numpy.finfo")
        ):
            types = source.tensors.types(made.args[0]) or {
                _ARRAY_TYPES.get(name, "") for name in source.names.all_of(made.args[0])
            }
            limits = {limit(name, value.attr) for name in types}
            found |= {one for one in limits if one is not None}
    return found


def _converted(source: Source, call: ast.Call) -> set[float]:
    """The numbers that `float("-inf")` or `float(eps)` may be."""
    if source.names.of(call.func) != "float":
        return set()
    texts = {_as_float(t) for t in source.values.constants(call.args[0]) if isinstance(t, str)}
    return texts | source.values.numbers(call.args[0])


def _as_float(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (ValueError, OverflowError):
        return math.nan


def _computed(function: Callable[[float, float], float], a: float, b: float) -> float | None:
    try:
        result = function(a, b)
    except (ArithmeticError, ValueError):
        return None
    return float(result) if isinstance(result, int | float) else None
