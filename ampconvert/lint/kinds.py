"""What sort of thing an expression is: an optimizer, a module, a gradient scaler."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from ampconvert.lint.names import data, fits
from ampconvert.lint.scopes import Binding
from ampconvert.lint.values import is_self, is_self_attribute

if TYPE_CHECKING:
    from ampconvert.lint.source import Source

Kind = Literal[
    "scheduler", "optimizer", "scaler", "autocast", "device", "loader", "module", "function"
]
_PRETRAINED = ("transformers.", "diffusers.", "timm.", "sentence_transformers.")
# Classes below torch.nn that are no modules.
_NO_MODULES = ("Parameter", "UninitializedParameter", "Buffer", "UninitializedBuffer")
_MODULE = frozenset[Kind]({"module"})
# Attributes whose use tells a kind.
_TELLING = frozenset({
    "unscale_", "scale", "zero_grad", "step", "backward", "get_last_lr", "parameters",
    "named_parameters", "named_modules", "train", "eval",
})  # fmt: skip


class Kinds:
    """Tells kinds by what made a thing, by annotations, and by how it is used."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._known: dict[ast.expr, frozenset[Kind]] = {}

    def of(self, expression: ast.expr) -> frozenset[Kind]:
        """The kinds that `expression` may be of; empty where nothing is known."""
        found = self._known.get(expression)
        if found is None:
            self._known[expression] = frozenset()  # ends circles
            found = frozenset(
                kind for value in self._source.values.of(expression) for kind in self._made(value)
            )
            self._known[expression] = found = found or self._used(expression)
        return found

    def is_a(self, expression: ast.expr, kind: Kind) -> bool:
        """Whether `expression` is known to be of this kind, in at least one case."""
        return kind in self.of(expression)

    def of_class(self, defined: ast.ClassDef) -> frozenset[Kind]:
        """What instances of a class of this file are, by its bases."""
        bases: dict[Kind, list[str]] = data("kinds")["bases"]
        names = {
            name
            for one in self._source.values.lineage(defined)
            for base in one.bases
            for name in self._source.names.all_of(_unsubscripted(base))
        }
        return frozenset(
            kind
            for kind, wanted in bases.items()
            if any(fits(name, want) for name in names for want in wanted)
        )

    def modules(self) -> list[ast.ClassDef]:
        """The subclasses of torch.nn.Module that this file defines."""
        return [c for c in self._source.nodes(ast.ClassDef) if "module" in self.of_class(c)]

    def _made(self, value: ast.expr) -> frozenset[Kind]:
        if isinstance(value, ast.Call):
            return self._called(value)
        if isinstance(value, ast.Name):
            return self._bound(value)
        if isinstance(value, ast.Attribute) and value.attr == "module":
            return self.of(value.value) & _MODULE  # of DistributedDataParallel
        if isinstance(value, ast.Subscript):
            return self.of(value.value) & _MODULE  # of ModuleList and Sequential
        return frozenset()

    def _called(self, call: ast.Call) -> frozenset[Kind]:
        through = data("kinds")["through"]
        function = call.func
        for name in self._functions(function):
            if name in through["calls"] and call.args:
                wrapped = self._source.values.definition(call.args[0])
                is_function = isinstance(wrapped, ast.FunctionDef | ast.AsyncFunctionDef)
                return frozenset() if is_function else self.of(call.args[0]) or _MODULE
            kinds = _kinds_made_by(name)
            if kinds is not None:
                return kinds
        for made in self._source.values.of(function):
            maker = self._partial(made)
            defined = self._source.values.definition(made if maker is None else maker)
            if isinstance(defined, ast.ClassDef):
                return self.of_class(defined)
        if isinstance(function, ast.Attribute) and function.attr in through["methods"]:
            return self.of(function.value)
        return frozenset()

    def _functions(self, function: ast.expr) -> Iterator[str]:
        """The dotted names that `function` may have, also behind `functools.partial(f, ...)`,
        `getattr(torch.optim, name)` and `{"adam": torch.optim.Adam}[name]`.
        """
        names = self._source.names
        yield from names.all_of(function)
        for made in self._source.values.of(function):
            maker = self._partial(made)
            if maker is not None:
                yield from names.all_of(maker)
            elif isinstance(made, ast.Call) and names.of(made.func) == "getattr" and made.args:
                yield from (f"{owner}.?" for owner in names.all_of(made.args[0]))
            elif isinstance(made, ast.Subscript):
                for table in self._source.values.of(made.value):
                    if isinstance(table, ast.Dict):
                        yield from (n for entry in table.values for n in names.all_of(entry))

    def _partial(self, made: ast.expr) -> ast.expr | None:
        """`f` of `functools.partial(f, ...)`."""
        if not isinstance(made, ast.Call) or not made.args:
            return None
        is_partial = self._source.names.is_one(made.func, "functools.partial")
        return made.args[0] if is_partial else None

    def _bound(self, name: ast.Name) -> frozenset[Kind]:
        """A name that values can't follow: a loop's variable, or a parameter with an annotation."""
        bindings = self._source.scopes.bindings(name)
        if len(bindings) != 1:
            return frozenset()
        node = bindings[0].node
        if isinstance(node, ast.arg):
            if is_self(name):
                owner = self._source.class_of(name)
                return frozenset() if owner is None else self.of_class(owner)
            return self._annotated(node.annotation)
        if bindings[0].how == "element":
            return self._element(bindings[0]) & _MODULE
        return frozenset()

    def _element(self, binding: Binding) -> frozenset[Kind]:
        """An element of `layers`, `enumerate(layers)` or `zip(layers, sizes)`."""
        call = binding.value
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and binding.path:
            at = binding.path[0] - (1 if call.func.id == "enumerate" else 0)
            known = call.func.id in ("enumerate", "zip") and len(binding.path) == 1
            return self.of(call.args[at]) if known and 0 <= at < len(call.args) else frozenset()
        return self.of(call) if call is not None and not binding.path else frozenset()

    def _annotated(self, annotation: ast.expr | None) -> frozenset[Kind]:
        if annotation is None:
            return frozenset()
        found: set[Kind] = set()
        for part in ast.walk(annotation):
            if isinstance(part, ast.Name | ast.Attribute):
                for name in self._source.names.all_of(part):
                    found |= _annotation_kind(name)
                defined = self._source.values.definition(part)
                if isinstance(defined, ast.ClassDef):
                    found |= self.of_class(defined)
        return frozenset(found)

    def _used(self, expression: ast.expr) -> frozenset[Kind]:
        """What only one kind of thing can do: `x.scale(loss).backward()`, `x.unscale_(...)`."""
        used = self._uses.get(self._place(expression) or ("", None), set())
        if "unscale_" in used or "scale.backward" in used:
            return frozenset({"scaler"})
        if "zero_grad" in used and "step" in used and "backward" not in used:
            return frozenset({"optimizer"})
        if "get_last_lr" in used and "step" in used:
            return frozenset({"scheduler"})
        called = "()" in used and used & {"train", "eval"}
        if called or used & {"parameters", "named_parameters", "named_modules"}:
            return _MODULE
        return frozenset()

    def _place(self, expression: ast.expr) -> tuple[str, ast.AST | None] | None:
        """What tells `x` and `self.x` from those of other functions and classes."""
        if isinstance(expression, ast.Name):
            return expression.id, self._source.scopes.owner(expression)
        if is_self_attribute(expression):
            assert isinstance(expression, ast.Attribute)
            return f"self.{expression.attr}", self._source.class_of(expression)
        return None

    @cached_property
    def _uses(self) -> dict[tuple[str, ast.AST | None], set[str]]:
        """Telling attributes of names and attributes of self, and "()" where they are called."""
        found: dict[tuple[str, ast.AST | None], set[str]] = {}
        parents = self._source.parents
        for node in self._source.nodes(ast.Attribute):
            place = self._place(node.value) if node.attr in _TELLING else None
            if place is None:
                continue
            used = found.setdefault(place, set())
            call = parents[node]
            if isinstance(call, ast.Call) and call.func is node:
                used.add(node.attr)
                after = parents[call]
                if isinstance(after, ast.Attribute):
                    used.add(f"{node.attr}.{after.attr}")
        names = {name for name, _ in found}
        for call in self._source.nodes(ast.Call):
            if _spelled(call.func) in names:
                found.get(self._place(call.func) or ("", None), set()).add("()")
        return found


def _kinds_made_by(name: str) -> frozenset[Kind] | None:
    """The kinds of what a call of `name` gives; None where nothing is known of it."""
    for entry in data("kinds")["kind"]:
        if any(fits(name, made) for made in entry["made_by"]):
            return frozenset({entry["name"]})
    last = name.rpartition(".")[2]
    if name.startswith("torch.nn.") and last[:1].isupper():
        return frozenset() if last in _NO_MODULES else _MODULE
    if last in ("from_pretrained", "from_config") and name.startswith(_PRETRAINED):
        is_model = not any(word in name for word in ("Tokenizer", "Processor", "Config"))
        return _MODULE if is_model else frozenset()
    return None


def _annotation_kind(name: str) -> set[Kind]:
    for entry in data("kinds")["kind"]:
        if any(fits(name, made) for made in entry["made_by"]):
            kind: Kind = entry["name"]
            return {kind}
    return {"module"} if fits(name, "torch.nn.*") else set()


def _spelled(expression: ast.expr) -> str:
    if isinstance(expression, ast.Name):
        return expression.id
    plain = isinstance(expression, ast.Attribute) and is_self(expression.value)
    return f"self.{expression.attr}" if plain and isinstance(expression, ast.Attribute) else ""


def _unsubscripted(base: ast.expr) -> ast.expr:
    return base.value if isinstance(base, ast.Subscript) else base
