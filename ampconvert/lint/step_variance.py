"""Which conditions change from turn to turn of a loop, and which of those count turns."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

from ampconvert.lint.scopes import Binding
from ampconvert.lint.step_events import Guard
from ampconvert.lint.step_places import Place, Places
from ampconvert.lint.values import is_self

if TYPE_CHECKING:
    from ampconvert.lint.source import Source


class Variance:
    """Tells a condition on the configuration from one on the turn of a loop."""

    def __init__(self, source: Source, places: Places) -> None:
        self._source = source
        self._places = places

    def is_fixed(self, guard: Guard, loop: ast.stmt) -> bool:
        """Whether a condition is certainly the same in all turns of a loop."""
        if any(isinstance(node, ast.Call) for node in ast.walk(guard.node)):
            return False
        return not any(self._changes(place, loop) for place in self._read(guard))

    def varies(self, guard: Guard, loop: ast.stmt) -> bool:
        """Whether a condition certainly depends on what the loop does."""
        return any(self._changes(place, loop) for place in self._read(guard))

    def counts(self, guard: Guard, loop: ast.stmt) -> bool:
        """Whether a condition says when enough turns were taken: `(i + 1) % n == 0`, by the number
        of the turn or by what is counted up in the loop.
        """
        text = _words(guard.test.atoms())
        changing = [place for place in self._read(guard) if self._changes(place, loop)]
        if "Mod" in text and changing:
            return True
        return bool(changing) and all(self._is_counter(place, loop) for place in changing)

    def _read(self, guard: Guard) -> list[Place]:
        return [Place(*pair) for atom in guard.test.atoms() for pair in _places(atom)]

    def _changes(self, place: Place, loop: ast.stmt) -> bool:
        if place.path.startswith("self."):
            return self._is_changed_attribute(place, loop)
        return any(self._is_in(binding.node, loop) for binding in self._bindings(place))

    def _is_changed_attribute(self, place: Place, loop: ast.stmt) -> bool:
        name = place.path.split(".")[1].partition("[")[0]
        return any(
            self._is_in(node, loop) or not self._is_in_init(node)
            for node in self._self_stores.get(name, ())
        )

    def _is_counter(self, place: Place, loop: ast.stmt) -> bool:
        """Whether a variable is a whole number that counts: of `enumerate`, `range` or `+= 1`."""
        if place.path.startswith("self."):
            name = place.path.split(".")[1]
            return any(
                isinstance(self._source.parents[node], ast.AugAssign)
                for node in self._self_stores.get(name, ())
            )
        bindings = [b for b in self._bindings(place) if self._is_in(b.node, loop)]
        return bool(bindings) and all(self._counted(binding) for binding in bindings)

    def _counted(self, binding: Binding) -> bool:
        above = self._source.parents[binding.node]
        if isinstance(above, ast.AugAssign):
            return isinstance(above.value, ast.Constant) and isinstance(above.value.value, int)
        if binding.how == "element" and isinstance(binding.value, ast.Call):
            name = self._source.names.of(binding.value.func)
            return name == "range" or (name == "enumerate" and binding.path == (0,))
        if binding.how == "value" and binding.value is not None and not binding.path:
            value = binding.value
            if isinstance(value, ast.Constant):
                return isinstance(value.value, int)
            numbers = (ast.BinOp, ast.Name, ast.Constant, ast.Compare)
            return isinstance(value, ast.BinOp | ast.Compare) and all(
                isinstance(node, (*numbers, ast.operator, ast.cmpop, ast.expr_context))
                for node in ast.walk(value)
            )
        return False

    def _bindings(self, place: Place) -> list[Binding]:
        if place.owner is None:
            return []
        name = place.path.partition(".")[0].partition("[")[0]
        return self._source.scopes.all_of(place.owner, name)

    def _is_in(self, node: ast.AST, loop: ast.stmt) -> bool:
        return any(above is loop for above in self._source.ancestors(node))

    def _is_in_init(self, node: ast.AST) -> bool:
        function = self._source.function(node)
        return function is not None and function.name in ("__init__", "setup", "build", "reset")

    @cached_property
    def _self_stores(self) -> dict[str, list[ast.Attribute]]:
        found: dict[str, list[ast.Attribute]] = {}
        for node in self._source.nodes(ast.Attribute):
            if isinstance(node.ctx, ast.Store) and is_self(node.value):
                found.setdefault(node.attr, []).append(node)
        return found


def _places(atom: tuple[object, ...]) -> Iterator[tuple[ast.AST | None, str]]:
    """The variables that an atom reads."""
    if len(atom) == 2 and isinstance(atom[1], str) and (
        atom[0] is None or isinstance(atom[0], ast.AST)
    ):  # fmt: skip
        yield atom[0], atom[1]
        return
    for part in atom:
        if isinstance(part, tuple):
            yield from _places(part)


def _words(atoms: Iterator[tuple[object, ...]]) -> set[str]:
    """The kinds of expressions in atoms: "Mod", "Call"."""
    found: set[str] = set()
    for atom in atoms:
        found |= {part for part in atom if isinstance(part, str)}
        found |= _words(part for part in atom if isinstance(part, tuple))
    return found
