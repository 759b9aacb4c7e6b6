"""Which of a file's names is the model: what the user named, or the only sensible choice."""

from __future__ import annotations

import ast
import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from torch import nn
from torch.export import ExportedProgram

from ampconvert.errors import UserError
from ampconvert.frontends.run_source import running

BUILDERS = ("build_model", "get_model", "load_model", "create_model", "make_model")
VARIABLES = ("model", "net")
Kind = Literal["function", "variable", "class"]


@dataclass(frozen=True)
class Source:
    """An imported file: its module, its syntax tree, and the name to show for it."""

    shown: str
    namespace: ModuleType
    tree: ast.Module
    folders: tuple[Path, ...]

    def line(self, name: str) -> int | None:
        """The line that defines `name` (its last binding at module level), None if unknown."""
        found: int | None = None
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
                if node in self.tree.body or found is None:
                    found = node.lineno
            elif isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store):
                found = node.lineno
        return found

    def at(self, name: str) -> str:
        """`model.py:12`, or `model.py` where the line is unknown."""
        line = self.line(name)
        return self.shown if line is None else f"{self.shown}:{line}"

    def own(self, thing: object) -> bool:
        """Whether the file itself defines this class or function."""
        return getattr(thing, "__module__", None) == self.namespace.__name__


@dataclass(frozen=True)
class Candidate:
    """One name that could be the model."""

    name: str
    kind: Kind
    source: Source
    value: Any
    built: nn.Module | None = None  # a class that was already built to look inside

    @property
    def how(self) -> str:
        """`function build_model at model.py:12`."""
        return f"{self.kind} {self.name} at {self.source.at(self.name)}"

    def build(self) -> object:
        """The model. Raises UserError with the user's line when building it raises."""
        if self.kind == "variable":
            return self.value
        if self.built is not None:
            return self.built
        with running(f"calling {self.name}()", self.source.folders):
            return self.value()


def named(source: Source, name: str) -> Candidate:
    """The candidate called `name` (dotted names reach inside). Raises UserError if it is none."""
    value: Any = source.namespace
    for part in name.split("."):
        try:
            value = getattr(value, part)
        except AttributeError:
            raise UserError(_unknown(source, name)) from None
    kind = _kind(value)
    if kind is None:
        raise UserError(
            f"{source.at(name)}: {name} is a {type(value).__name__}; --model needs an nn.Module "
            "class, an instance of one, or a function without arguments that returns one"
        )
    if kind != "variable" and (required := _required(value)):
        raise UserError(_needs_arguments(source, name, kind, required))
    return Candidate(name, kind, source, value)


def choose(source: Source) -> Candidate:
    """The one model of the file. Raises UserError, with all candidates, if there are several."""
    names = vars(source.namespace)
    builders = [n for n in BUILDERS if inspect.isroutine(names.get(n)) and not _required(names[n])]
    if builders:
        return _only(source, [Candidate(n, "function", source, names[n]) for n in builders])
    variables = [n for n in VARIABLES if isinstance(names.get(n), nn.Module | ExportedProgram)]
    if variables:
        return _only(source, [Candidate(n, "variable", source, names[n]) for n in variables])
    classes = {n: c for n, c in names.items() if _is_module_class(c) and source.own(c)}
    instances = _instances(source, names, classes.values())
    used = {type(c.value) for c in instances}
    whole = _whole(source, {n: c for n, c in classes.items() if c not in used})
    candidates = [*instances, *whole.buildable]
    if not candidates:
        raise UserError(_nothing(source, whole, names))
    return _only(source, candidates)


@dataclass(frozen=True)
class _Classes:
    """The classes of a file that are no part of another: built, and those that cannot be."""

    buildable: list[Candidate]
    need: dict[str, list[str]]  # class name -> arguments it must be given
    failed: dict[str, UserError]  # class name -> why building it failed


def _whole(source: Source, classes: Mapping[str, type[nn.Module]]) -> _Classes:
    parts = _parts_by_text(source, classes)
    if parts == classes.keys():  # they name each other in a circle: the text tells nothing
        parts = set()
    built: dict[str, nn.Module] = {}
    need: dict[str, list[str]] = {}
    failed: dict[str, UserError] = {}
    for name, cls in classes.items():
        if name in parts or cls.forward is nn.Module.forward:
            continue
        required = _required(cls)
        if required:
            need[name] = required
            continue
        try:
            with running(f"calling {name}()", source.folders):
                built[name] = cls()
        except UserError as error:
            failed[name] = error
    # Losses and activations have no weights: they are no models beside something that has.
    if any(_has_weights(module) for module in built.values()):
        built = {name: module for name, module in built.items() if _has_weights(module)}
    inside = {
        type(part) for m in built.values() for part in m.modules() if part is not m
    }  # the tree may hold what the text does not show: classes chosen by a table or a factory
    buildable = [
        Candidate(name, "class", source, classes[name], module)
        for name, module in built.items()
        if classes[name] not in inside
    ]
    # A class that needs arguments may be a part of what was built, too.
    need = {name: args for name, args in need.items() if classes[name] not in inside}
    return _Classes(buildable, need, failed)


def _parts_by_text(source: Source, classes: Mapping[str, type[nn.Module]]) -> set[str]:
    """Classes that another class of the file, or a function it calls, names in its body."""
    mentions: dict[str, set[str]] = {}
    for node in source.tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            body = [part for statement in node.body for part in ast.walk(statement)]
            mentions[node.name] = {n.id for n in body if isinstance(n, ast.Name)} - {node.name}
    parts: set[str] = set()
    for name in classes:
        reached, todo = set[str](), list(mentions.get(name, ()))
        while todo:
            found = todo.pop()
            if found not in reached:
                reached.add(found)
                if found not in classes:
                    todo.extend(mentions.get(found, ()))
        parts |= (reached & classes.keys()) - {name}
    return parts


def _instances(
    source: Source, names: Mapping[str, Any], classes: Iterable[type[nn.Module]]
) -> list[Candidate]:
    """Module-level instances of the file's own classes and of Sequential, none inside another."""
    kinds = (*classes, nn.Sequential)
    modules = {n: v for n, v in names.items() if isinstance(v, nn.Module) and _has_weights(v)}
    found = {n: v for n, v in modules.items() if isinstance(v, kinds)}
    inside = {id(part) for v in found.values() for part in v.modules() if part is not v}
    unique: dict[int, Candidate] = {}
    for name, value in found.items():
        if id(value) not in inside:
            unique.setdefault(id(value), Candidate(name, "variable", source, value))
    return list(unique.values())


def _only(source: Source, candidates: list[Candidate]) -> Candidate:
    different = {id(c.value): c for c in reversed(candidates)}
    if len(different) == 1:
        return candidates[0]
    listed = "".join(f"\n  {c.how}" for c in candidates)
    raise UserError(
        f"{source.shown}: several models could be meant; choose one with --model NAME, for example "
        f"--model {candidates[0].name}:{listed}"
    )


def _nothing(source: Source, classes: _Classes, names: Mapping[str, Any]) -> str:
    lone = [*classes.need, *classes.failed]
    if len(lone) == 1 and classes.need:
        return _needs_arguments(source, lone[0], "class", classes.need[lone[0]])
    if len(lone) == 1:
        return str(classes.failed[lone[0]])
    needy = [n for n in BUILDERS if inspect.isroutine(names.get(n)) and source.own(names[n])]
    lines = [f"\n  function {n}({', '.join(_required(names[n]))}) at {source.at(n)}" for n in needy]
    lines += [
        f"\n  class {name} at {source.at(name)} needs {', '.join(arguments)}"
        for name, arguments in classes.need.items()
    ]
    lines += [f"\n  class {name}: {error}" for name, error in classes.failed.items()]
    if lines:
        return (
            f"{source.shown}: no model can be built without arguments; add a function "
            "`def build_model(): return ...` that builds the one to convert. Found:"
            + "".join(lines)
        )
    return (
        f"{source.shown}: defines no torch.nn.Module; add `def build_model(): ...` that returns "
        "the model, or name one with --model"
    )


def _needs_arguments(source: Source, name: str, kind: Kind, required: list[str]) -> str:
    call = ", ".join(f"{argument}=..." for argument in required)
    return (
        f"{source.at(name)}: {kind} {name} needs arguments to be built: {', '.join(required)}. "
        f"Add a function that gives them:\n    def build_model():\n        return {name}({call})"
    )


def _unknown(source: Source, name: str) -> str:
    names = [n for n, v in vars(source.namespace).items() if _is_choice(n, v, source)]
    close = difflib.get_close_matches(name, names, n=1)
    kinds = {n: _kind(getattr(source.namespace, n)) for n in names}
    listed = "".join(f"\n  {kind} {n} at {source.at(n)}" for n, kind in kinds.items())
    return (
        f"{source.shown}: there is no {name!r} in it"
        + (f"; did you mean {close[0]}?" if close else "")
        + (f" To choose from:{listed}" if listed else "")
    )


def _is_choice(name: str, value: object, source: Source) -> bool:
    if inspect.isfunction(value):
        return source.own(value) and "model" in name.lower()
    return isinstance(value, nn.Module) or (_is_module_class(value) and source.own(value))


def _kind(value: object) -> Kind | None:
    if isinstance(value, nn.Module | ExportedProgram):
        return "variable"
    if _is_module_class(value):
        return "class"
    if not inspect.isclass(value) and callable(value):
        return "function"
    return None


def _is_module_class(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, nn.Module)


def _has_weights(module: nn.Module) -> bool:
    return any(True for _ in module.parameters()) or any(True for _ in module.buffers())


def _required(function: Callable[..., Any]) -> list[str]:
    """The parameters that a call must give; none where Python cannot tell."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):
        return []
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in optional]
