"""Old names that a library has renamed: where a file uses them, and how to move it to the new."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from ampconvert.findings import Edit, Finding, Severity
from ampconvert.lint import imports
from ampconvert.lint.rule import Rule

if TYPE_CHECKING:
    from ampconvert.lint.source import Source

# A test for one of the former decides between devices, one for the latter between versions.
_DEVICE = re.compile(r"cuda|cpu|gpu|device", re.IGNORECASE)
_VERSION = re.compile(r"version|hasattr|getattr|torch_?\w*\d|signature", re.IGNORECASE)


@dataclass(frozen=True)
class Adapted:
    """What else changes where an old name is used, once the name stands for the new thing."""

    edits: tuple[Edit, ...] = ()
    safe: bool = True


@dataclass(frozen=True)
class Mention:
    """One place that names the old thing. `edits` is None where no fix is known.

    Mentions that can only be mended together, because one import brings in the name for all of
    them, have the same edits. `unused`: an import of the old name that nothing in the file reads.
    """

    node: ast.expr | ast.alias
    name: str
    edits: tuple[Edit, ...] | None
    safe: bool = True
    unused: bool = False


class RenameRule(Rule):
    """A rule about names that a library has replaced.

    `OLD` gives the new dotted name of each old one. `NAMESPACES` are modules that hold old names
    only: an import of one that nothing reads is found too. The fix needs PyTorch `FIX_FROM`.
    """

    OLD: ClassVar[Mapping[str, str]]
    NAMESPACES: ClassVar[tuple[str, ...]] = ()
    FIX_FROM: ClassVar[tuple[int, int]] = (0, 0)
    VERDICT: ClassVar[str] = "is deprecated"

    def check(self, source: Source) -> Iterator[Finding]:
        """Uses of the old names, and imports of them that nothing uses."""
        for found in _Search(source, self).mentions():
            edits = found.edits if source.settings.torch >= self.FIX_FROM else None
            message, mended = f"{found.name} {self.VERDICT}", f"use {self.OLD.get(found.name)}"
            if found.unused:
                message, mended = f"{message}, and not used here", "remove the import"
            fix = None if edits is None else self.fix(mended, edits, safe=found.safe)
            severity: Severity | None = "info" if found.unused else None
            yield self.finding(source, found.node, message, fix, severity)

    def adapted(self, source: Source, node: ast.expr, name: str) -> Adapted | None:
        """What changes around `node`, which names the old `name`; None if nobody could know."""
        raise NotImplementedError

    def spelled(self, source: Source, dotted: str, at: ast.AST) -> tuple[str, tuple[Edit, ...]]:
        """How to write the new dotted name at a node, and the imports that this needs."""
        return source.edits.spelled(dotted, at)

    def home(self, source: Source, statement: ast.ImportFrom, module: str) -> str:
        """The module of the new name, as `statement` is to import from it."""
        return module


@dataclass(frozen=True)
class _Use:
    """An expression that names the old thing, and the import through which it does."""

    node: ast.expr
    name: str
    bound: str
    alias: ast.alias
    sure: bool


class _Search:
    """Finds the mentions of one rule's old names in one file."""

    def __init__(self, source: Source, rule: RenameRule) -> None:
        self._source = source
        self._rule = rule

    def mentions(self) -> Iterator[Mention]:
        """Every mention of an old name that is more than the fallback for a missing new one."""
        named: dict[ast.alias, list[_Use]] = {}
        dotted: dict[ast.alias, list[_Use]] = {}
        for use in self._uses():
            groups = named if isinstance(use.node, ast.Name) else dotted
            groups.setdefault(use.alias, []).append(use)
        statements = dict.fromkeys(self._source.parents[alias] for alias in named)
        for statement in statements:
            assert isinstance(statement, imports.Statement)
            yield from self._named({a: named[a] for a in statement.names if a in named}, statement)
        for alias, uses in dotted.items():
            yield from self._one_by_one(alias, uses)
        yield from self._unused()

    def _uses(self) -> Iterator[_Use]:
        source, names = self._source, self._rule.OLD
        for node in source.names.references(*names):
            every = source.names.all_of(node)
            root = _root(node)
            bindings = [] if root is None else source.scopes.bindings(root)
            brought = [b for b in bindings if b.how == "import"]
            old = sorted(every & names.keys())
            if root is None or not brought or {names[name] for name in old} & every:
                continue
            if any(self._is_fallback(place) for place in (node, *(b.node for b in brought))):
                continue
            alias = brought[-1].node
            assert isinstance(alias, ast.alias)
            sure = len(every) == 1 and self._is_certain(alias, root)
            yield _Use(node, old[0], root.id, alias, sure)

    def _named(
        self, groups: dict[ast.alias, list[_Use]], statement: imports.Statement
    ) -> Iterator[Mention]:
        """Uses of names that one import binds: `from torch.cuda.amp import autocast`."""
        if len(groups) > 1 and len(groups) == len(statement.names):
            adapted = [self._moved(alias, uses) for alias, uses in groups.items()]
            whole = self._reimported(statement, [*groups])
            if whole is not None and None not in adapted:
                everything = [use for uses in groups.values() for use in uses]
                yield from _together(everything, [whole, *adapted])
                return
        for alias, uses in groups.items():
            moved = self._moved(alias, uses)
            edits = None if moved is None else self._imported_apart(statement, alias)
            if edits is None:
                yield from self._one_by_one(alias, uses)
            else:
                yield from _together(uses, [Adapted(tuple(edits)), moved])

    def _moved(self, alias: ast.alias, uses: list[_Use]) -> Adapted | None:
        """What changes at the uses of a name once its import brings in the new thing."""
        adapted = [self._adapted(use) for use in uses]
        new = self._rule.OLD[uses[0].name]
        keeps_name = new.rpartition(".")[2] == alias.name
        if not keeps_name or imports.is_exported(self._source, alias) or None in adapted:
            return None
        if set(imports.readers(self._source, alias)) != {use.node for use in uses}:
            return None
        return _joined(adapted)

    def _one_by_one(self, alias: ast.alias, uses: list[_Use]) -> Iterator[Mention]:
        """Each use written out; the import goes if every reader of it is mended so."""
        made = [self._written_out(use, one) if (one := self._adapted(use)) is not None else None
                for use in uses]  # fmt: skip
        gone = self._dropped(alias, uses) if None not in made else None
        if gone is not None:
            yield from _together(uses, [Adapted(tuple(gone)), *made])
            return
        for use, one in zip(uses, made, strict=True):
            yield from _together([use], [one])

    def _unused(self) -> Iterator[Mention]:
        source = self._source
        for statement, alias in source.names.imports(*self._rule.OLD):
            name = imports.dotted(statement, alias)
            if name not in self._rule.OLD or imports.readers(self._source, alias):
                continue
            if not self._is_fallback(alias):
                yield self._unread(statement, alias, name)
        for statement, alias in source.names.imports(*self._rule.NAMESPACES):
            name = imports.dotted(statement, alias)
            binds = isinstance(statement, ast.ImportFrom) or alias.asname is not None
            kept = imports.readers(source, alias) or imports.is_exported(source, alias)
            if name in self._rule.NAMESPACES and binds and not kept:
                yield self._unread(statement, alias, name)

    def _unread(self, statement: imports.Statement, alias: ast.alias, name: str) -> Mention:
        keep = imports.is_exported(self._source, alias) or imports.is_guarded(self._source, alias)
        edits = None if keep else tuple(imports.without(self._source, statement, alias))
        return Mention(alias, name, edits, unused=True)

    def _adapted(self, use: _Use) -> Adapted | None:
        return self._rule.adapted(self._source, use.node, use.name) if use.sure else None

    def _written_out(self, use: _Use, adapted: Adapted) -> Adapted:
        new = self._rule.OLD[use.name]
        spelled, needed = self._rule.spelled(self._source, new, use.node)
        edit = self._source.edits.replace(use.node, spelled)
        return Adapted((*needed, edit, *adapted.edits), adapted.safe)

    def _reimported(self, statement: imports.Statement, aliases: list[ast.alias]) -> Adapted | None:
        """The whole import from the new module, if all its names have moved to one."""
        modules = {self._module(statement, alias) for alias in aliases}
        module = modules.pop()
        if modules or not isinstance(statement, ast.ImportFrom):
            return None
        if imports.earlier(self._source, statement, module) is not None:
            return None
        edits = imports.from_module(self._source, statement, module)
        return None if edits is None else Adapted(tuple(edits))

    def _imported_apart(self, statement: imports.Statement, alias: ast.alias) -> list[Edit] | None:
        """Edits that import one name from its new module."""
        source, module = self._source, self._module(statement, alias)
        if not isinstance(statement, ast.ImportFrom):
            return None
        text = alias.name if alias.asname is None else f"{alias.name} as {alias.asname}"
        there = imports.earlier(self._source, statement, module)
        if there is not None:
            known = any((a.name, a.asname) == (alias.name, alias.asname) for a in there.names)
            add = [] if known else [source.edits.after(there.names[-1], f", {text}")]
            return [*add, *imports.without(source, statement, alias)]
        if len(statement.names) == 1:
            return imports.from_module(source, statement, module)
        line = source.edits.line_before(statement, f"from {module} import {text}")
        return None if line is None else [line, *imports.without(source, statement, alias)]

    def _module(self, statement: imports.Statement, alias: ast.alias) -> str:
        module = self._rule.OLD[imports.dotted(statement, alias)].rpartition(".")[0]
        if isinstance(statement, ast.ImportFrom):
            return self._rule.home(self._source, statement, module)
        return module

    def _dropped(self, alias: ast.alias, uses: list[_Use]) -> list[Edit] | None:
        """Edits that remove the import, if nothing but these uses reads it."""
        statement = self._source.parents[alias]
        assert isinstance(statement, imports.Statement)
        if isinstance(statement, ast.Import) and alias.asname is None:
            return None  # `import torch.cuda.amp` binds torch
        others = set(imports.readers(self._source, alias)) - {_root(use.node) for use in uses}
        if others or imports.is_exported(self._source, alias):
            return None
        spelled = self._rule.spelled(self._source, self._rule.OLD[uses[0].name], uses[0].node)
        if spelled[0].partition(".")[0] == uses[0].bound:
            return None
        return imports.without(self._source, statement, alias)

    def _is_certain(self, alias: ast.alias, root: ast.Name) -> bool:
        """Whether nothing but this import binds the name, and it is not inside a try."""
        source = self._source
        if isinstance(source.parents[alias], ast.Import) and not alias.asname:
            return all(b.how == "import" for b in source.scopes.bindings(root))
        owner = source.scopes.owner(root)
        alone = owner is not None and len(source.scopes.all_of(owner, root.id)) == 1
        return alone and not imports.is_guarded(source, alias)

    def _is_fallback(self, node: ast.AST) -> bool:
        """Whether `node` runs only where another branch, which has a new name, does not."""
        return any(_decided_apart(self._source, node, found) for found in self._new)

    @cached_property
    def _new(self) -> list[ast.AST]:
        """Where the file names the new things."""
        names = self._source.names
        new = set(self._rule.OLD.values())
        return [*names.references(*new), *(alias for _, alias in names.imports(*new))]


def _together(uses: list[_Use], changes: list[Adapted | None]) -> Iterator[Mention]:
    """A mention for each use, with one fix for them all; with none where a change is unknown."""
    joined = _joined(changes)
    for use in uses:
        if joined is None:
            yield Mention(use.node, use.name, None)
        else:
            yield Mention(use.node, use.name, joined.edits, joined.safe)


def _joined(changes: Sequence[Adapted | None]) -> Adapted | None:
    known = [one for one in changes if one is not None]
    if len(known) < len(changes):
        return None
    edits = dict.fromkeys(edit for one in known for edit in one.edits)
    return Adapted(tuple(edits), all(one.safe for one in known))


def _decided_apart(source: Source, node: ast.AST, found: ast.AST) -> bool:
    """Whether these stand in two branches of a decision that looks for what torch offers."""
    path = [found, *source.ancestors(found)]
    below = node
    for above in source.ancestors(node):
        if above not in path:
            below = above
            continue
        other = path[path.index(above) - 1]
        if isinstance(above, ast.Try):
            return _field(above, below) != _field(above, other)
        if isinstance(above, ast.If | ast.IfExp) and _field(above, below) != _field(above, other):
            return not _asks_for_device(source, above.test)
        # if new is there: return new(...)
        # return old(...)
        return (
            isinstance(other, ast.If)
            and isinstance(other.body[-1], ast.Return | ast.Raise)
            and not _asks_for_device(source, other.test)
        )
    return False


def _asks_for_device(source: Source, test: ast.expr) -> bool:
    text = source.segment(test)
    return bool(_DEVICE.search(text)) and not _VERSION.search(text)


def _field(above: ast.AST, child: ast.AST) -> str:
    for name, value in ast.iter_fields(above):
        if value is child or (isinstance(value, list) and child in value):
            return name
    return ""


def _root(node: ast.expr) -> ast.Name | None:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node if isinstance(node, ast.Name) else None
