"""Keras models of one file: the policy they are built under, how they end, and their losses."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ampconvert.findings import Edit
from ampconvert.lint.frameworks import makers

if TYPE_CHECKING:
    from ampconvert.lint.source import Source

SET_POLICY = (
    "keras.mixed_precision.set_global_policy",
    "keras.mixed_precision.set_dtype_policy",
    "keras.mixed_precision.experimental.set_policy",
    "keras.config.set_dtype_policy",
)
_POLICIES = (
    "keras.mixed_precision.Policy",
    "keras.mixed_precision.DTypePolicy",
    "keras.mixed_precision.experimental.Policy",
    "keras.dtype_policies.DTypePolicy",
    "keras.DTypePolicy",
)
_SEQUENTIAL = ("keras.Sequential", "keras.models.Sequential")
_FUNCTIONAL = ("keras.Model", "keras.models.Model", "keras.Functional")
_LOW = frozenset({"mixed_float16", "mixed_bfloat16", "float16", "bfloat16"})


@dataclass(frozen=True, eq=False)
class Compiled:
    """One `model.compile(...)`, and the layer calls with which the model may end."""

    call: ast.Call
    last: tuple[ast.Call, ...]
    outputs: int

    def argument(self, name: str) -> ast.expr | None:
        """The argument of `compile` of this name: optimizer and loss may come by position."""
        position = {"optimizer": 0, "loss": 1}.get(name, len(self.call.args))
        given = {keyword.arg: keyword.value for keyword in self.call.keywords}
        at = self.call.args[position : position + 1]
        return given.get(name, at[0] if at else None)


def policies(source: Source) -> frozenset[str]:
    """The low types that the global policies of the file set, mixed or pure: "mixed_float16".

    Empty if some call sets none of them, unless it is the other branch of a decision: a file that
    changes from policy to policy says nothing.
    """
    found: set[str] = set()
    low: list[ast.Call] = []
    other: list[ast.Call] = []
    for call in source.names.calls(*SET_POLICY):
        names = {name for name in _LOW if name in _policy_names(source, call)}
        (low if names else other).append(call)
        found |= names
    if any(not any(_is_alternative(source, a, b) for b in low) for a in other):
        return frozenset()
    return frozenset(found)


def compiled(source: Source) -> Iterator[Compiled]:
    """The models of this file that are compiled here, as far as their last layers are known."""
    for call in source.names.methods("compile"):
        assert isinstance(call.func, ast.Attribute)
        ends: list[list[ast.Call]] = []
        for value in source.values.of(call.func.value):
            if isinstance(value, ast.Call):
                ends += _ends(source, value)
        last = tuple(dict.fromkeys(layer for end in ends for layer in end))
        if last:
            yield Compiled(call, last, len(ends))


def layer(source: Source, call: ast.Call) -> str:
    """The name of the class of keras.layers that `call` makes; "" for another call."""
    module, _, name = source.names.of(call.func).rpartition(".")
    return name if module == "keras.layers" else ""


def activation(source: Source, call: ast.Call) -> str:
    """The activation with which a layer ends: "softmax", "linear"; "" where it isn't known."""
    name = layer(source, call)
    if name in ("Softmax", "ReLU"):
        return name.lower()
    given = next((k.value for k in call.keywords if k.arg == "activation"), None)
    at = {"Activation": 0, "Dense": 1}.get(name, len(call.args))
    if given is None and call.args[at : at + 1]:
        given = call.args[at]
    if given is None:
        return "linear"
    constants = source.values.constants(given)
    names = {source.names.of(value).rpartition(".")[2] for value in source.values.of(given)}
    found = {c for c in constants if isinstance(c, str)} or names - {""}
    if constants == {None}:
        return "linear"
    return found.pop() if len(found) == 1 and len(source.values.of(given)) == 1 else ""


def spelled(source: Source, dotted: str, at: ast.AST) -> tuple[str, tuple[Edit, ...]]:
    """How to write a name of Keras ("keras.layers.Dense") where TensorFlow may bring it in."""
    if not uses_tensorflow(source):
        return source.edits.spelled(dotted, at)
    text, edits = source.edits.spelled(f"tensorflow.{dotted}", at)
    if edits and not source.scopes.seen("keras", at):
        return dotted, (source.edits.imported("from tensorflow import keras"),)
    return text, edits


def uses_tensorflow(source: Source) -> bool:
    """Whether this file imports TensorFlow, or Keras through it."""
    return any(_top(s) == "tensorflow" for s in source.nodes(ast.Import, ast.ImportFrom))


def _is_alternative(source: Source, one: ast.AST, other: ast.AST) -> bool:
    """Whether one stands in the `if` and the other in the `else` of the same decision."""
    path = [other, *source.ancestors(other)]
    for above in source.ancestors(one):
        if above in path:
            return isinstance(above, ast.If) and (
                _is_in(source, one, above.body) != _is_in(source, other, above.body)
            )
    return False


def _is_in(source: Source, node: ast.AST, block: list[ast.stmt]) -> bool:
    return any(above in block for above in (node, *source.ancestors(node)))


def _top(statement: ast.Import | ast.ImportFrom) -> str:
    name = statement.module if isinstance(statement, ast.ImportFrom) else statement.names[0].name
    return (name or "").partition(".")[0]


def _policy_names(source: Source, call: ast.Call) -> set[object]:
    given = [*call.args, *(k.value for k in call.keywords)][:1]
    found: set[object] = set()
    for value in given:
        found |= source.values.constants(value)
        for made in makers(source, value, *_POLICIES):
            for name in [*made.args, *(k.value for k in made.keywords if k.arg == "name")][:1]:
                found |= source.values.constants(name)
    return found


def _ends(source: Source, model: ast.Call) -> list[list[ast.Call]]:
    """For each output of a model the layers that may make it."""
    if source.names.is_one(model.func, *_SEQUENTIAL):
        end = _end_of_sequential(source, model)
        return [end] if end else []
    if source.names.is_one(model.func, *_FUNCTIONAL):
        given = {keyword.arg: keyword.value for keyword in model.keywords}
        outputs = given.get("outputs", model.args[1] if len(model.args) > 1 else None)
        return [] if outputs is None else list(_ends_of_outputs(source, outputs))
    return []


def _end_of_sequential(source: Source, model: ast.Call) -> list[ast.Call]:
    added = [
        call for call in source.names.methods("add")
        if call.args and isinstance(call.func, ast.Attribute)
        and model in source.values.of(call.func.value)
    ]  # fmt: skip
    if added:
        block = source.block(source.statement(model))
        statement = source.statement(added[-1])
        return _layers(source, added[-1].args[0]) if statement in block else []
    given = [*model.args, *(k.value for k in model.keywords if k.arg == "layers")][:1]
    for value in given:
        for layers in source.values.of(value):
            if isinstance(layers, ast.List | ast.Tuple) and layers.elts:
                return _layers(source, layers.elts[-1])
    return []


def _ends_of_outputs(source: Source, outputs: ast.expr) -> Iterator[list[ast.Call]]:
    for value in source.values.of(outputs):
        if isinstance(value, ast.List | ast.Tuple):
            for element in value.elts:
                yield from _ends_of_outputs(source, element)
        elif isinstance(value, ast.Dict):
            for element in value.values:
                yield from _ends_of_outputs(source, element)
        elif isinstance(value, ast.Call):
            yield _layers(source, value.func)


def _layers(source: Source, expression: ast.expr) -> list[ast.Call]:
    return [
        value for value in source.values.of(expression)
        if isinstance(value, ast.Call) and layer(source, value)
    ]  # fmt: skip
