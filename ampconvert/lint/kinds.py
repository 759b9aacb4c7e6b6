"""What sort of thing an expression is: an optimizer, a module, a gradient scaler."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Literal

from ampconvert.lint.names import data, fits
from ampconvert.lint.scopes import FUNCTIONS

if TYPE_CHECKING:
    from ampconvert.lint.source import Source

Kind = Literal[
    "scheduler", "optimizer", "scaler", "autocast", "device", "loader", "module", "function"
]
_PRETRAINED = ("transformers.", "diffusers.", "timm.", "sentence_transformers.")


class Kinds:
    """Tells kinds by what made a thing, by annotations, and by how a parameter is used."""

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
            self._known[expression] = found
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
            return self._parameter(value)
        return frozenset()

    def _called(self, call: ast.Call) -> frozenset[Kind]:
        names = self._source.names
        through = data("kinds")["through"]
        if names.is_one(call.func, *through["calls"]) and call.args:
            return self.of(call.args[0]) or frozenset({"module"})
        for name in names.all_of(call.func):
            for entry in data("kinds")["kind"]:
                if any(fits(name, made) for made in entry["made_by"]):
                    return frozenset({entry["name"]})
            last = name.rpartition(".")[2]
            if name.startswith("torch.nn.") and last[:1].isupper():
                return frozenset({"module"})
            if last in ("from_pretrained", "from_config") and name.startswith(_PRETRAINED):
                is_model = "Tokenizer" not in name and "Processor" not in name
                return frozenset({"module"}) if is_model else frozenset()
        defined = self._source.values.definition(call.func)
        if isinstance(defined, ast.ClassDef):
            return self.of_class(defined)
        if isinstance(call.func, ast.Attribute) and call.func.attr in through["methods"]:
            return self.of(call.func.value)
        return frozenset()

    def _parameter(self, name: ast.Name) -> frozenset[Kind]:
        """A parameter that no call in this file gives: its annotation, then its use."""
        bindings = self._source.scopes.bindings(name)
        if len(bindings) != 1 or not isinstance(bindings[0].node, ast.arg):
            return frozenset()
        argument = bindings[0].node
        annotated = self._annotated(argument.annotation)
        return annotated or self._used(argument)

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

    def _used(self, argument: ast.arg) -> frozenset[Kind]:
        """What only one kind of thing can do: `x.scale(loss).backward()`, `x.unscale_(...)`."""
        function = self._source.parents[self._source.parents[argument]]
        if not isinstance(function, FUNCTIONS):
            return frozenset()
        used = self._uses(function).get(argument.arg, set())
        if "unscale_" in used or "scale.backward" in used:
            return frozenset({"scaler"})
        if "zero_grad" in used and "step" in used:
            return frozenset({"optimizer"})
        return frozenset()

    def _uses(self, function: ast.AST) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for node in self._source.walk(function, functions=True):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                found.setdefault(node.value.id, set()).add(node.attr)
                call = self._source.parents.get(node)
                after = self._source.parents.get(call) if call is not None else None
                if isinstance(call, ast.Call) and isinstance(after, ast.Attribute):
                    found[node.value.id].add(f"{node.attr}.{after.attr}")
        return found


def _annotation_kind(name: str) -> set[Kind]:
    for entry in data("kinds")["kind"]:
        if any(fits(name, made) for made in entry["made_by"]):
            kind: Kind = entry["name"]
            return {kind}
    return {"module"} if fits(name, "torch.nn.*") else set()


def _unsubscripted(base: ast.expr) -> ast.expr:
    return base.value if isinstance(base, ast.Subscript) else base
