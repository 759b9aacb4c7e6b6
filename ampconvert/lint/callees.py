"""Which functions and classes of a file each call means, and what objects are made of."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ampconvert.lint.source import Source

_LISTS = ("torch.nn.ModuleList", "list", "tuple", "reversed", "sorted")


class Callees:
    """The call graph of one file, as far as names, self and constructors show it.

    Nothing here follows values further than one assignment: it is asked for every call.
    """

    def __init__(self, source: Source) -> None:
        self._source = source

    def calls_of(self, target: ast.AST) -> list[ast.Call]:
        """The calls of a function, method or class."""
        return self._calls.get(target, [])

    def made_of(self, expression: ast.expr) -> list[ast.ClassDef]:
        """The classes of this file of which `expression` is an instance."""
        definition = self._source.values.definition
        found = []
        values = [expression] if isinstance(expression, ast.Call) else self._assigned(expression)
        if isinstance(expression, ast.Name):
            for binding in self._source.scopes.bindings(expression):
                if isinstance(binding.node, ast.arg) and binding.node.annotation is not None:
                    named = definition(binding.node.annotation)
                    found += [named] if isinstance(named, ast.ClassDef) else []
                elif binding.how == "element" and binding.value is not None:
                    values += self._elements(binding.value, binding.path)
        elif isinstance(expression, ast.Subscript):
            values = self._elements(expression.value, ())
        for value in values:
            while isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute):
                value = value.func.value  # Net().to(device)
            if isinstance(value, ast.Call):
                defined = definition(value.func)
                found += [defined] if isinstance(defined, ast.ClassDef) else []
        return found

    def _assigned(self, expression: ast.expr) -> list[ast.expr]:
        """What a name or an attribute of self is assigned, not unpacked."""
        if isinstance(expression, ast.Name):
            return [b.value for b in self._source.scopes.bindings(expression)
                    if b.how == "value" and not b.path and b.value is not None]  # fmt: skip
        owner = self._source.class_of(expression)
        if owner is None or not is_self_attribute(expression):
            return []
        assert isinstance(expression, ast.Attribute)
        given = self._source.values.attributes(owner, expression.attr)
        return [value for value, path in given if not path]

    def _elements(self, iterable: ast.expr, path: tuple[int, ...]) -> list[ast.expr]:
        unpacked = unwrapped(self._source, iterable, path)
        if unpacked is None or unpacked[1]:
            return []
        inner, _ = unpacked
        values = [inner] if isinstance(inner, ast.Call | ast.List) else self._assigned(inner)
        return [one for value in values for one in elements(self._source, value) or ()]

    @cached_property
    def _calls(self) -> dict[ast.AST, list[ast.Call]]:
        found: dict[ast.AST, list[ast.Call]] = {}
        for call in self._source.nodes(ast.Call):
            for target in self._called(call):
                found.setdefault(target, []).append(call)
        return found

    def _called(self, call: ast.Call) -> Iterator[ast.AST]:
        values = self._source.values
        target = values.definition(call.func)
        if isinstance(target, ast.ClassDef):
            yield target
            start = values.method(target, "__init__")
            if start is not None:
                yield start
        elif target is not None:
            yield target
        else:
            yield from dict.fromkeys(self._called_on_instance(call.func))

    def _called_on_instance(self, function: ast.expr) -> Iterator[ast.AST]:
        """`net(x)` with `net = Net()` calls Net.forward, or the `__call__` of a class of its own;
        `trainer.run()` calls Trainer.run.
        """
        instance = function
        names: tuple[str, ...] = ("__call__", "forward")
        if isinstance(function, ast.Attribute) and not is_self(function.value):
            instance, names = function.value, (function.attr,)
        for owner in self.made_of(instance):
            methods = (self._source.values.method(owner, name) for name in names)
            method = next((found for found in methods if found is not None), None)
            if method is not None:
                yield method


def elements(source: Source, value: ast.expr) -> list[ast.expr] | None:
    """The elements of a list, a ModuleList or a Sequential that is written out; None of others."""
    if isinstance(value, ast.Tuple | ast.List):
        return list(value.elts)
    if isinstance(value, ast.ListComp | ast.GeneratorExp):
        return [value.elt]
    if isinstance(value, ast.Call) and value.args:
        name = source.names.of(value.func)
        if name in _LISTS:
            return elements(source, value.args[0])
        if name == "torch.nn.Sequential" and not any(
            isinstance(a, ast.Starred) for a in value.args
        ):
            return list(value.args)
    return None


def unwrapped(
    source: Source, iterable: ast.expr, path: tuple[int, ...]
) -> tuple[ast.expr, tuple[int, ...]] | None:
    """What is iterated behind `enumerate` and `zip`, and how its elements are unpacked; None where
    `path` takes the index.
    """
    if isinstance(iterable, ast.Call) and iterable.args and path:
        name = source.names.of(iterable.func)
        if name == "enumerate":
            return unwrapped(source, iterable.args[0], path[1:]) if path[0] == 1 else None
        if name == "zip":
            known = path[0] < len(iterable.args)
            return unwrapped(source, iterable.args[path[0]], path[1:]) if known else None
    return iterable, path


def is_self(expression: ast.AST) -> bool:
    """Whether this is `self`, as methods call it."""
    return isinstance(expression, ast.Name) and expression.id in ("self", "cls")


def is_self_attribute(expression: ast.AST) -> bool:
    """Whether this is `self.something`."""
    return isinstance(expression, ast.Attribute) and is_self(expression.value)
