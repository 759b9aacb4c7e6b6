"""Which expressions a name, an attribute of self, a parameter or a call may stand for."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

from ampconvert.lint.arithmetic import number
from ampconvert.lint.callees import Callees, elements, unwrapped
from ampconvert.lint.callees import is_self as is_self
from ampconvert.lint.callees import is_self_attribute as is_self_attribute
from ampconvert.lint.fields import fields, is_default
from ampconvert.lint.scopes import Binding

if TYPE_CHECKING:
    from ampconvert.lint.source import Source

Function = ast.FunctionDef | ast.AsyncFunctionDef

_MOST_STEPS = 12  # how far values are followed
_MOST_VALUES = 24  # how many are kept: more say nothing

# What is followed next, with the indices that unpack it; None for what can't be followed.
_Step = tuple[ast.expr | None, tuple[int, ...]]
# `a, b = accelerator.prepare(a, b)` gives back what it is given, wrapped, in this order.
_IN_ORDER = frozenset({"prepare", "setup", "setup_optimizers", "setup_dataloaders"})


class Values:
    """Follows names, attributes of self, parameters and calls of functions within one file."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._known: dict[ast.expr, tuple[ast.expr, ...]] = {}
        self._numbers: dict[ast.expr, set[float]] = {}
        self._callees = Callees(source)

    def of(self, expression: ast.expr) -> tuple[ast.expr, ...]:
        """The expressions that `expression` may stand for; itself, where it leads nowhere, or also
        somewhere that can't be followed: a parameter that nothing in the file gives has its default
        or any other value.

        Follows names to what they were assigned, `self.x` to what methods of the class assign,
        parameters to arguments of calls in this file and to defaults, calls of functions in this
        file and its properties to what they return, and both arms of `a if c else b`.
        """
        found = self._known.get(expression)
        if found is None:
            self._known[expression] = (expression,)  # ends circles
            ends: dict[ast.expr, None] = {}
            self._follow(expression, (), _MOST_STEPS, ends, set())
            found = tuple(ends)[:_MOST_VALUES] or (expression,)
            self._known[expression] = found
        return found

    def numbers(self, expression: ast.expr) -> set[float]:
        """The numbers that `expression` may be: constants, `-1e9`, `10**-8`, `2 * self.eps`."""
        found = self._numbers.get(expression)
        if found is None:
            found = self._numbers[expression] = set()  # ends circles: x = x + 1
            for value in self.of(expression):
                found |= number(self._source, value)
        return found

    def constants(self, expression: ast.expr) -> set[object]:
        """The literal constants that `expression` may be: strings, booleans, None, numbers."""
        return {v.value for v in self.of(expression) if isinstance(v, ast.Constant)}

    def definition(self, expression: ast.expr) -> Function | ast.ClassDef | None:
        """The function or class of this file that `expression` names: `train`, `self.step`."""
        if isinstance(expression, ast.Name):
            bindings = self._source.scopes.bindings(expression)
            if len(bindings) == 1:
                node = bindings[0].node
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    return node
        if isinstance(expression, ast.Attribute):
            owner = self._source.class_of(expression)
            if owner is not None and is_self(expression.value):
                return self.method(owner, expression.attr)
            if owner is not None and _is_super(expression.value):
                above = self.lineage(owner)[1:]
                return next((m for o in above if (m := self.method(o, expression.attr))), None)
        return None

    def method(self, owner: ast.ClassDef, name: str) -> Function | None:
        """A method of a class, or of the bases of it that this file defines."""
        for one in self.lineage(owner):
            for node in one.body:
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
                    return node
        return None

    def lineage(self, owner: ast.ClassDef) -> list[ast.ClassDef]:
        """A class, and all its bases that this file defines."""
        found = [owner]
        for one in found:
            for base in one.bases:
                defined = self.definition(base)
                if isinstance(defined, ast.ClassDef) and defined not in found:
                    found.append(defined)
        return found

    def calls_of(self, function: Function | ast.ClassDef) -> list[ast.Call]:
        """The calls of a function, method or class in this file, as far as they can be seen.

        `model(x)` calls the `forward` of the class that `model` was made of.
        """
        return self._callees.calls_of(function)

    def argument(self, call: ast.Call, function: Function, name: str) -> ast.expr | None:
        """What `call` gives for the parameter `name`; None where it gives nothing, or `*args`."""
        for keyword in call.keywords:
            if keyword.arg == name:
                return keyword.value
        positional = [a.arg for a in (*function.args.posonlyargs, *function.args.args)]
        if name not in positional:
            return None
        position = positional.index(name) - (1 if _is_bound(self._source, call, function) else 0)
        if any(isinstance(a, ast.Starred) for a in call.args[: position + 1]):
            return None
        return call.args[position] if 0 <= position < len(call.args) else None

    def default(self, function: Function | ast.Lambda, name: str) -> ast.expr | None:
        """The default of a parameter, or None."""
        arguments = function.args
        positional = [*arguments.posonlyargs, *arguments.args]
        first = len(positional) - len(arguments.defaults)
        for argument, value in zip(positional[first:], arguments.defaults, strict=True):
            if argument.arg == name:
                return value
        for argument, given in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
            if argument.arg == name:
                return given
        return None

    def attributes(self, owner: ast.ClassDef, name: str) -> list[tuple[ast.expr, tuple[int, ...]]]:
        """What methods of a class, or its body, assign to `self.name`, with the unpacking path."""
        return [
            found
            for one in self.lineage(owner)
            for found in self._self_assigned.get((one, name), [])
        ]

    def returned(self, function: Function) -> list[ast.expr]:
        """The expressions that a function returns; none of a generator, whose call gives another
        thing.
        """
        if any(isinstance(n, ast.Yield | ast.YieldFrom) for n in self._source.walk(function)):
            return []
        return [
            node.value
            for node in self._source.walk(function)
            if isinstance(node, ast.Return) and node.value is not None
        ]

    def _follow(
        self,
        expression: ast.expr,
        path: tuple[int, ...],
        left: int,
        ends: dict[ast.expr, None],
        seen: set[tuple[ast.expr, tuple[int, ...]]],
    ) -> bool:
        """Add what `expression`, unpacked by `path`, may stand for to `ends`. False where some of
        that is unknown, and nothing was added in its place.
        """
        if (expression, path) in seen:
            return True
        seen.add((expression, path))
        further = list(self._next(expression, path)) if left else []
        known = [
            value is not None and self._follow(value, inner, left - 1, ends, seen)
            for value, inner in further
        ]
        if further and all(known):
            return True
        if not path:
            ends[expression] = None
        return not path

    def _next(self, expression: ast.expr, path: tuple[int, ...]) -> Iterator[_Step]:
        if isinstance(expression, ast.IfExp):
            yield from ((expression.body, path), (expression.orelse, path))
        elif isinstance(expression, ast.BoolOp):
            yield from ((value, path) for value in expression.values)
        elif isinstance(expression, ast.NamedExpr | ast.Await):
            yield expression.value, path
        elif isinstance(expression, ast.Tuple | ast.List) and path:
            if path[0] < len(expression.elts):
                yield expression.elts[path[0]], path[1:]
        elif isinstance(expression, ast.ListComp | ast.GeneratorExp) and path:
            yield expression.elt, path[1:]
        elif isinstance(expression, ast.Name):
            for binding in self._source.scopes.bindings(expression):
                yield from self._bound(binding, path)
        elif isinstance(expression, ast.Attribute):
            yield from self._attribute(expression, path)
        elif isinstance(expression, ast.Call):
            yield from self._result(expression, path)
        elif isinstance(expression, ast.Subscript) and isinstance(expression.slice, ast.Constant):
            index = expression.slice.value
            if isinstance(index, int) and index >= 0:
                yield expression.value, (index, *path)
            elif isinstance(index, str):
                yield from ((value, path) for value in self._entries(expression.value, index))

    def _bound(self, binding: Binding, path: tuple[int, ...]) -> Iterator[_Step]:
        if binding.how == "value" and binding.value is not None:
            yield binding.value, binding.path + path
        elif binding.how == "element" and binding.value is not None:
            yield from self._elements(binding.value, binding.path + path)
        elif binding.how == "parameter":
            yield from ((value, path) for value in self._given(binding))
        else:
            yield None, path

    def _elements(self, iterable: ast.expr, path: tuple[int, ...]) -> Iterator[_Step]:
        unpacked = unwrapped(self._source, iterable, path)
        for value in () if unpacked is None else self.of(unpacked[0]):
            found = elements(self._source, value)
            yield from ((one, unpacked[1] if unpacked else ()) for one in found or (None,))
        if unpacked is None:
            yield None, path

    def _given(self, binding: Binding) -> Iterator[ast.expr | None]:
        """What calls give for a parameter, and its default; None for what can't be seen."""
        function = self._source.parents[self._source.parents[binding.node]]
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            yield None
            return
        calls = self.calls_of(function)
        given = {self.argument(call, function, binding.name): None for call in calls}
        if not calls or None in given:
            yield self.default(function, binding.name)
        if not calls:
            yield None
        yield from (value for value in given if value is not None)

    def _attribute(self, expression: ast.Attribute, path: tuple[int, ...]) -> Iterator[_Step]:
        """What a class of this file assigns to an attribute, or its property returns."""
        if is_self(expression.value):
            owner = self._source.class_of(expression)
            owners = [] if owner is None else [owner]
        else:
            owners = self.made_of(expression.value)
        if not owners and expression.attr in self._attribute_names:
            yield from fields(self._source, expression, path)
        for one in owners:
            given = self.attributes(one, expression.attr)
            for value, inner in given:
                yield value, inner + path
                if is_default(self._source, value):
                    yield None, path
            method = self.method(one, expression.attr)
            if method is not None and not given and _has_decorator(method, "property"):
                yield from ((value, path) for value in self.returned(method))

    def _result(self, call: ast.Call, path: tuple[int, ...]) -> Iterator[_Step]:
        function = self.definition(call.func)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from ((value, path) for value in self.returned(function))
        elif isinstance(call.func, ast.Attribute) and call.func.attr in _IN_ORDER:
            plain = not any(isinstance(a, ast.Starred) for a in call.args)
            if plain and path and path[0] < len(call.args):
                yield call.args[path[0]], path[1:]
            elif plain and len(call.args) == 1:
                yield call.args[0], path

    def _entries(self, table: ast.expr, key: str) -> Iterator[ast.expr]:
        """The entries `key` of the dictionaries written out that `table` may be."""
        for value in self.of(table):
            if isinstance(value, ast.Dict):
                for name, entry in zip(value.keys, value.values, strict=True):
                    if isinstance(name, ast.Constant) and name.value == key:
                        yield entry

    def made_of(self, expression: ast.expr) -> list[ast.ClassDef]:
        """The classes of this file of which `expression` is an instance: by `x = Class(...)`, by
        the annotation of a parameter, or as an element of a list or ModuleList written out.
        """
        return self._callees.made_of(expression)

    @cached_property
    def _attribute_names(self) -> frozenset[str]:
        return frozenset(name for _, name in self._self_assigned)

    @cached_property
    def _self_assigned(
        self,
    ) -> dict[tuple[ast.ClassDef, str], list[tuple[ast.expr, tuple[int, ...]]]]:
        found: dict[tuple[ast.ClassDef, str], list[tuple[ast.expr, tuple[int, ...]]]] = {}
        source = self._source
        for assigned in source.nodes(ast.Assign, ast.AnnAssign):
            if assigned.value is None:
                continue
            targets = assigned.targets if isinstance(assigned, ast.Assign) else [assigned.target]
            for target in targets:
                for leaf, path in _leaves(target, ()):
                    name = ""
                    if isinstance(leaf, ast.Attribute) and is_self(leaf.value):
                        name = leaf.attr
                    elif isinstance(leaf, ast.Name) and isinstance(
                        source.parents[assigned], ast.ClassDef
                    ):
                        name = leaf.id
                    owner = source.class_of(assigned) if name else None
                    if owner is not None:
                        found.setdefault((owner, name), []).append((assigned.value, path))
        return found


def _is_bound(source: Source, call: ast.Call, function: Function) -> bool:
    """Whether the call leaves out the function's first parameter, self."""
    if not isinstance(source.parents.get(function), ast.ClassDef):
        return False
    return not _has_decorator(function, "staticmethod")


def _has_decorator(function: Function, name: str) -> bool:
    return any(isinstance(d, ast.Name) and d.id == name for d in function.decorator_list)


def _is_super(expression: ast.expr) -> bool:
    """Whether this is `super()`."""
    called = expression.func if isinstance(expression, ast.Call) else None
    return isinstance(called, ast.Name) and called.id == "super"


def _leaves(target: ast.expr, path: tuple[int, ...]) -> Iterator[tuple[ast.expr, tuple[int, ...]]]:
    if isinstance(target, ast.Tuple | ast.List):
        if not any(isinstance(e, ast.Starred) for e in target.elts):
            for i, element in enumerate(target.elts):
                yield from _leaves(element, (*path, i))
    else:
        yield target, path
