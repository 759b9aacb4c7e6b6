"""Which call made a module, through everything that gives it back: .to(), compile(), wrappers."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ampconvert.lint.names import data
from ampconvert.lint.values import is_self_attribute

if TYPE_CHECKING:
    from ampconvert.lint.source import Source

_PREPARING = ("prepare", "setup", "setup_module", "prepare_model")  # of Accelerate and of Fabric


# A call, the parameter that something comes from, or a name that nothing in the file binds.
Maker = ast.Call | ast.arg | tuple[str, ast.AST | None]


def makers(source: Source, expression: ast.expr) -> set[Maker]:
    """The calls that made what `expression` may be, the parameters that it may come from, and the
    names of this file or attributes of self that it may be where nothing shows what made them.

    `net`, `net.to(device)` and `DataParallel(net)` have one maker: two expressions with a common
    one stand for the same module.
    """
    return set(_made(source, expression, set()))


def steps(source: Source, expression: ast.expr) -> list[ast.Call]:
    """The calls through which `expression` went since its maker: `.half()`, DataParallel(...)."""
    seen: set[ast.expr] = set()
    for _ in _made(source, expression, seen):
        pass
    calls = [one for one in seen if isinstance(one, ast.Call) and _inner(source, one) is not None]
    return sorted(calls, key=lambda call: (call.lineno, call.col_offset))


def is_prepared(step: ast.Call) -> bool:
    """Whether a step is Accelerate's or Fabric's: their modules give float32 always."""
    return isinstance(step.func, ast.Attribute) and step.func.attr in _PREPARING


def _made(source: Source, expression: ast.expr, seen: set[ast.expr]) -> Iterator[Maker]:
    for value in source.values.of(expression):
        if value in seen:
            continue
        seen.add(value)
        inner = _inner(source, value) if isinstance(value, ast.Call) else None
        if inner is not None:
            yield from _made(source, inner, seen)
        elif isinstance(value, ast.Name):
            bindings = source.scopes.bindings(value)
            yield from (b.node for b in bindings if isinstance(b.node, ast.arg))
            if not bindings:
                yield value.id, None
        elif is_self_attribute(value):
            yield ast.unparse(value), source.class_of(value)
        elif isinstance(value, ast.Call):
            yield value


def _inner(source: Source, call: ast.Call) -> ast.expr | None:
    """What a call gives back; None where it makes something new."""
    through = data("kinds")["through"]
    names = source.names
    if names.is_one(call.func, *through["calls"]) and call.args:
        return call.args[0]
    if not isinstance(call.func, ast.Attribute) or names.of(call.func):
        return None
    if is_prepared(call):
        return call.args[0] if call.args else None
    return call.func.value if call.func.attr in through["methods"] else None
