"""Objects of Accelerate, Lightning Fabric and DeepSpeed, and what they have wrapped."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from ampconvert.lint.values import is_self_attribute

if TYPE_CHECKING:
    from ampconvert.lint.source import Source

RUNNERS = ("accelerate.Accelerator", "lightning.fabric.Fabric")
_WRAP = ("prepare", "prepare_model", "prepare_optimizer", "setup", "setup_module",
         "setup_optimizers")  # fmt: skip


def assigned(source: Source, expression: ast.expr) -> list[ast.expr]:
    """What a name or an attribute of self is assigned, one step back and not unpacked."""
    if isinstance(expression, ast.Name):
        found = source.scopes.bindings(expression)
        return [b.value for b in found if b.how == "value" and b.value is not None]
    owner = source.class_of(expression)
    if owner is not None and is_self_attribute(expression):
        assert isinstance(expression, ast.Attribute)
        return [value for value, _ in source.values.attributes(owner, expression.attr)]
    return []


def makers(source: Source, expression: ast.expr, *classes: str) -> list[ast.Call]:
    """The calls of these classes that may have made `expression`."""
    return [
        value for value in source.values.of(expression)
        if isinstance(value, ast.Call) and source.names.is_one(value.func, *classes)
    ]  # fmt: skip


def is_runner(source: Source, expression: ast.expr) -> bool:
    """Whether `expression` is an Accelerator or a Fabric, made here or annotated so."""
    if makers(source, expression, *RUNNERS):
        return True
    if not isinstance(expression, ast.Name):
        return False
    return any(
        isinstance(b.node, ast.arg)
        and b.node.annotation is not None
        and source.names.is_one(b.node.annotation, *RUNNERS)
        for b in source.scopes.bindings(expression)
    )


def wrapping(source: Source, expression: ast.expr) -> ast.Call | None:
    """The call `accelerator.prepare(...)` or `fabric.setup(...)` that gave `expression`."""
    for value in assigned(source, expression):
        if not isinstance(value, ast.Call) or not isinstance(value.func, ast.Attribute):
            continue
        if value.func.attr in _WRAP and is_runner(source, value.func.value):
            return value
    return None


def is_engine(source: Source, expression: ast.expr) -> bool:
    """Whether `expression` is what `deepspeed.initialize` gives first."""
    if not isinstance(expression, ast.Name):
        calls = [value for value in assigned(source, expression) if isinstance(value, ast.Call)]
        return any(source.names.is_one(call.func, "deepspeed.initialize") for call in calls)
    return any(
        isinstance(b.value, ast.Call)
        and source.names.is_one(b.value.func, "deepspeed.initialize")
        and b.path in ((0,), ())
        for b in source.scopes.bindings(expression)
    )
