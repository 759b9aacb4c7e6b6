"""Dotted names of expressions, as imports and aliases make them: never by their text."""

from __future__ import annotations

import ast
import builtins
import tomllib
from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ampconvert.lint.source import Source

_BUILTINS = frozenset(dir(builtins))
_MOST = 64  # names and attributes looked at for one expression: x = x.next would go on for ever


class Names:
    """What dotted names expressions have; canonical: `torch.autocast` is `torch.amp.autocast`."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._known: dict[ast.expr, frozenset[str]] = {}

    def all_of(self, expression: ast.expr) -> frozenset[str]:
        """Every dotted name that `expression` may have: two after try/except ImportError, none for
        what is no name or comes from nowhere that can be seen.
        """
        found = self._known.get(expression)
        if found is None:
            found = frozenset(canonical(name) for name in self._resolve(expression))
            self._known[expression] = found
        return found

    def of(self, expression: ast.expr) -> str:
        """The one dotted name of `expression`; "" if it has none or may have several."""
        found = self.all_of(expression)
        return next(iter(found)) if len(found) == 1 else ""

    def is_one(self, expression: ast.expr, *names: str) -> bool:
        """Whether `expression` may be one of these dotted names; "torch.optim.*" is any below."""
        return any(fits(found, name) for found in self.all_of(expression) for name in names)

    def calls(self, *names: str) -> list[ast.Call]:
        """The calls of any of these dotted names, in the order of the text."""
        found = {
            call for name in names for call in self._candidates(name)
            if self.is_one(call.func, name)
        }  # fmt: skip
        return sorted(found, key=lambda call: (call.lineno, call.col_offset))

    def methods(self, *attributes: str) -> list[ast.Call]:
        """The calls `something.attribute(...)`, whatever something is, in the order of the text.

        A function of a module, `torch.half(...)`, is among them: ask `of(call.func)`.
        """
        found = [call for name in attributes for call in self._calls_by_attribute.get(name, ())]
        return sorted(found, key=lambda call: (call.lineno, call.col_offset))

    def references(self, *names: str) -> list[ast.expr]:
        """The names and attributes read in this file that may be one of these, calls' included."""
        last = [name.rpartition(".")[2] for name in names]
        found = dict.fromkeys(node for word in last for node in self._read.get(word, ()))
        return [node for node in found if self.is_one(node, *names)]

    def imports(self, *names: str) -> list[tuple[ast.Import | ast.ImportFrom, ast.alias]]:
        """The imports that bring in one of these dotted names, or bind something below it."""
        found: list[tuple[ast.Import | ast.ImportFrom, ast.alias]] = []
        for statement in self._source.nodes(ast.Import, ast.ImportFrom):
            for alias in statement.names:
                base = ""
                if isinstance(statement, ast.ImportFrom):
                    base = "." * statement.level + (statement.module or "") + "."
                if any(fits(canonical(base + alias.name), name) for name in names):
                    found.append((statement, alias))
        return found

    def _resolve(self, expression: ast.expr) -> set[str]:
        found: set[str] = set()
        seen: set[tuple[ast.expr, str]] = set()
        left = [(expression, "")]  # what to look at, and the attributes that follow it
        while left and len(seen) < _MOST:
            one, rest = left.pop()
            if (one, rest) in seen:
                continue
            seen.add((one, rest))
            if isinstance(one, ast.Attribute):
                left.append((one.value, f".{one.attr}{rest}"))
            elif isinstance(one, ast.IfExp):
                left += [(one.body, rest), (one.orelse, rest)]
            elif isinstance(one, ast.Name):
                bindings = self._source.scopes.bindings(one)
                if not bindings and one.id in _BUILTINS:
                    found.add(one.id + rest)
                for binding in bindings:
                    if binding.how == "import":
                        found.add(binding.target + rest)
                    elif binding.how == "value" and not binding.path and binding.value is not None:
                        left.append((binding.value, rest))
        return found

    def _candidates(self, name: str) -> Iterator[ast.Call]:
        last = name.rpartition(".")[2]
        if last == "*":
            yield from self._source.nodes(ast.Call)
            return
        yield from self._calls_by_attribute.get(last, ())
        for called, calls in self._calls_by_name.items():
            if called == last or last in self._meant.get(called, ()):
                yield from calls

    @cached_property
    def _calls_by_attribute(self) -> dict[str, list[ast.Call]]:
        found: dict[str, list[ast.Call]] = {}
        for call in self._source.nodes(ast.Call):
            if isinstance(call.func, ast.Attribute):
                found.setdefault(call.func.attr, []).append(call)
        return found

    @cached_property
    def _calls_by_name(self) -> dict[str, list[ast.Call]]:
        found: dict[str, list[ast.Call]] = {}
        for call in self._source.nodes(ast.Call):
            if isinstance(call.func, ast.Name):
                found.setdefault(call.func.id, []).append(call)
        return found

    @cached_property
    def _read(self) -> dict[str, list[ast.expr]]:
        """Attributes and names that are read, by the last words of what they may be."""
        found: dict[str, list[ast.expr]] = {}
        for attribute in self._source.nodes(ast.Attribute):
            if isinstance(attribute.ctx, ast.Load):
                found.setdefault(attribute.attr, []).append(attribute)
        meant = self._meant
        for name in self._source.nodes(ast.Name):
            if isinstance(name.ctx, ast.Load):
                found.setdefault(name.id, []).append(name)
                for word in meant.get(name.id, ()):
                    found.setdefault(word, []).append(name)
        return found

    @cached_property
    def _meant(self) -> dict[str, set[str]]:
        """Names that stand for something under another name, and the last words of what they may
        stand for, in whatever scope: `ac = torch.autocast` gives ac: autocast.
        """
        direct: dict[str, set[str]] = {}
        for statement in self._source.nodes(ast.Import, ast.ImportFrom):
            for alias in statement.names:
                if alias.asname:
                    direct.setdefault(alias.asname, set()).add(alias.name.rpartition(".")[2])
        for assigned in self._source.nodes(ast.Assign, ast.AnnAssign):
            words = _last_words(assigned.value)
            targets = assigned.targets if isinstance(assigned, ast.Assign) else [assigned.target]
            for target in targets if words else ():
                if isinstance(target, ast.Name):
                    direct.setdefault(target.id, set()).update(words)
        return {name: _closure(name, direct) for name in direct}


def _last_words(value: ast.expr | None) -> set[str]:
    """The last words of a dotted name, or of the arms of `a.b if c else d.e`."""
    if isinstance(value, ast.Attribute):
        return {value.attr}
    if isinstance(value, ast.Name):
        return {value.id}
    if isinstance(value, ast.IfExp):
        return _last_words(value.body) | _last_words(value.orelse)
    return set()


def _closure(name: str, direct: dict[str, set[str]]) -> set[str]:
    """All that a name may stand for, through other names."""
    found: set[str] = set()
    left = [name]
    while left:
        new = direct.get(left.pop(), set()) - found
        found |= new
        left += new
    return found


def fits(name: str, wanted: str) -> bool:
    """Whether a dotted name is the wanted one, or below it where that ends with ".*"."""
    return name == wanted or (wanted.endswith(".*") and name.startswith(wanted[:-1]))


@cache
def canonical(name: str) -> str:
    """The one spelling of things that a library offers under several names."""
    known: dict[str, Any] = data("names")
    prefixes: dict[str, str] = known["prefixes"]
    for prefix, replacement in prefixes.items():
        if name == prefix or name.startswith(prefix + "."):
            name = replacement + name[len(prefix) :]
            break
    names: dict[str, str] = known["names"]
    return names.get(name, name)


@cache
def data(name: str) -> dict[str, Any]:
    """The file ampconvert/lint/data/<name>.toml."""
    file = Path(__file__).parent / "data" / f"{name}.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))
