"""Device types ("cuda") that an expression may name."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ampconvert.lint.source import Source

_MOST = 4  # devices of devices followed: torch.device(torch.device(x).type)


def device_types(source: Source, expression: ast.expr | None) -> set[str]:
    """The device types that `expression` may name: {"cuda", "cpu"} for `device.type` with
    `device = torch.device("cuda:0" if available else "cpu")`. Empty where none shows.
    """
    return set() if expression is None else _named(source, expression, _MOST)


def _named(source: Source, expression: ast.expr, left: int) -> set[str]:
    found: set[str] = set()
    for value in source.values.of(expression) if left else ():
        text = value.values[0] if isinstance(value, ast.JoinedStr) and value.values else value
        if isinstance(text, ast.Constant) and isinstance(text.value, str):
            found.add(text.value.partition(":")[0])
        elif isinstance(value, ast.Attribute) and value.attr == "type":
            for maker in source.values.of(value.value):
                found |= _made(source, maker, left - 1)
        elif isinstance(value, ast.Call):
            found |= _made(source, value, left - 1)
        elif isinstance(value, ast.Subscript):
            found |= _split(source, value.value, left - 1)
    return found


def _made(source: Source, maker: ast.expr, left: int) -> set[str]:
    """Those of `torch.device("cuda")` and `str(device)`."""
    if isinstance(maker, ast.Call) and source.names.is_one(maker.func, "torch.device", "str"):
        given = [*maker.args, *(k.value for k in maker.keywords if k.arg == "type")]
        return _named(source, given[0], left) if given else set()
    return _named(source, maker, left) if isinstance(maker, ast.Constant) else set()


def _split(source: Source, value: ast.expr, left: int) -> set[str]:
    """Those of `device.split(":")[0]`."""
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute):
        is_split = value.func.attr in ("split", "partition")
        return _named(source, value.func.value, left) if is_split else set()
    return set()
