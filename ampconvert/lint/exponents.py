"""What stands in an exponential: can it get large?"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ampconvert.lint.patterns import Operation
    from ampconvert.lint.source import Source

# Where float16's exponential overflows: log(65504).
LARGEST = 11.09

_SMALL = frozenset({"neg", "log", "log_softmax", "logsigmoid", "clamp", "clamp_max", "clamp_",
                    "clamp_max_", "sigmoid", "tanh", "softmax", "cos", "sin",
                    "cosine_similarity"})  # fmt: skip
_MAXIMA = frozenset({"max", "amax", "maximum", "logsumexp", "logaddexp"})


def is_bounded(source: Source, exponent: ast.expr) -> bool:
    """Whether the exponential of this hardly overflows: a negated tensor, logarithms, or what a
    maximum was subtracted from.
    """
    return any(_is_small(source, value) for value in source.values.of(exponent))


def _is_small(source: Source, value: ast.expr) -> bool:
    if isinstance(value, ast.UnaryOp):
        return isinstance(value.op, ast.USub)
    operation = source.operations.of(value)
    if operation is None:
        return False
    if operation.name in _SMALL:
        return True
    if operation.name == "sub" and len(operation.operands) > 1:
        return _takes_maximum_off(source, operation)
    if operation.name in ("mul", "div"):
        return any(
            max(source.values.numbers(one), default=0.0) < 0 or is_bounded(source, one)
            for one in operation.operands[:2]
        )
    return False


def _takes_maximum_off(source: Source, difference: Operation) -> bool:
    """Whether `a - b` has a maximum for b, or a b of which nothing is known, or a number for a."""
    a, b = difference.operands[:2]
    if source.values.numbers(a):
        return True
    return any(
        (source.operations.of(value) is None and not source.values.numbers(value))
        or any(isinstance(part, ast.Attribute) and part.attr in _MAXIMA for part in ast.walk(value))
        for value in source.values.of(b)
    )
