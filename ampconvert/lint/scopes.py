"""Which statement binds a name, and which of them can be the last before a use."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ampconvert.lint.source import Source

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
SCOPES = (*FUNCTIONS, ast.ClassDef, ast.Module)

How = Literal["value", "element", "context", "import", "parameter", "definition", "other"]


@dataclass(frozen=True, eq=False)
class Binding:
    """One place that gives a name its value.

    `how`: "value" is `value` itself, "element" one element of the iterable `value`, "context" what
    `with value as name` gives, "import" the dotted name `target`, "definition" a def or class,
    "other" what can't be followed. `path` are the indices that unpack it: `a, (b, c) = value`
    binds c with (1, 1). `node` is the Name, arg, alias or definition.
    """

    name: str
    node: ast.AST
    how: How
    value: ast.expr | None = None
    path: tuple[int, ...] = ()
    target: str = ""


class Scopes:
    """All bindings of a file, by scope."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._bindings: dict[ast.AST, dict[str, list[Binding]]] = {}
        self._outer: dict[tuple[ast.AST, str], ast.AST] = {}
        self._binders: dict[str, set[ast.AST]] = {}  # the scopes that bind a name
        self._declared()
        for binding in self._all():
            self._add(binding)

    def bindings(self, name: ast.Name) -> list[Binding]:
        """What `name` can be bound by when it is read here; empty for builtins and unknown names.

        Inside one scope a binding hides those before it in the same block or one around it, and
        one further down counts only if a loop leads back.
        """
        scope = self.owner(name)
        if scope is None:
            return []
        found = self._bindings[scope][name.id]
        if len(found) == 1 or scope is not self._scope_of_use(name):
            return found
        return self._reaching(name, found)

    def all_of(self, scope: ast.AST, name: str) -> list[Binding]:
        """Every binding of `name` in a function, class, comprehension or module."""
        return self._bindings.get(scope, {}).get(name, [])

    def named(self, scope: ast.AST) -> dict[str, list[Binding]]:
        """All names that a scope binds."""
        return self._bindings.get(scope, {})

    def owner(self, name: ast.Name) -> ast.AST | None:
        """The scope whose binding of `name.id` this use sees; None for builtins."""
        return self._owner(name.id, name)

    def seen(self, name: str, at: ast.AST) -> list[Binding]:
        """Every binding of `name` in the scope that a use of it at `at` would see."""
        scope = self._owner(name, at)
        return [] if scope is None else self._bindings[scope][name]

    def _owner(self, name: str, at: ast.AST) -> ast.AST | None:
        binders = self._binders.get(name)
        if binders is None:
            return None
        if len(binders) == 1 and self._source.tree in binders:
            return self._source.tree  # seen from everywhere
        first = True
        for scope in self._around(at):
            if isinstance(scope, ast.ClassDef) and not first:
                continue  # names of a class body are not seen in its methods
            first = False
            actual = self._outer.get((scope, name), scope)
            if name in self._bindings.get(actual, {}):
                return actual
        return None

    def _around(self, node: ast.AST) -> Iterator[ast.AST]:
        """The scopes that see `node`, the innermost first.

        Decorators, defaults, annotations and base classes belong to the scope outside.
        """
        below = node
        for above in self._source.ancestors(node):
            if isinstance(above, ast.arguments):
                if not isinstance(below, ast.arg):
                    below = self._source.parents[above]  # a default: skip the function
                    continue
            elif isinstance(above, ast.Lambda):
                if below is above.body:
                    yield above
            elif isinstance(above, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                if below is not above and isinstance(below, ast.stmt) and below in above.body:
                    yield above
            elif isinstance(above, (*COMPREHENSIONS, ast.Module)):
                yield above
            below = above

    def _scope_of_use(self, name: ast.Name) -> ast.AST:
        return next(self._around(name), self._source.tree)

    def _reaching(self, use: ast.Name, found: list[Binding]) -> list[Binding]:
        source = self._source
        at = source.statement(use)
        above = {at, *source.ancestors(at)}
        position = (use.lineno, use.col_offset)
        before, after = [], []
        for binding in found:
            holder = _statement_of(source, binding)
            if holder is None:  # a parameter: before everything
                before.append((binding, True))
            elif holder is at and not isinstance(at, ast.For | ast.AsyncFor | ast.With
                                                 | ast.AsyncWith):  # fmt: skip
                after.append(binding)  # x = f(x): this turn's value is not there yet
            elif (holder.lineno, holder.col_offset) < position:
                dominates = source.parents[holder] in above and _same_branch(source, holder, above)
                before.append((binding, dominates or holder in above))
            else:
                after.append(binding)
        last = max((i for i, (_, sure) in enumerate(before) if sure), default=0)
        reaching = [binding for binding, _ in before[last:]]
        loops = [a for a in above if isinstance(a, ast.For | ast.AsyncFor | ast.While)]
        for binding in after:
            around = set(source.ancestors(binding.node))
            if any(loop in around for loop in loops):
                reaching.append(binding)
        return reaching or found

    def _declared(self) -> None:
        """`global` and `nonlocal` names, by the scope that declares them."""
        source = self._source
        for statement in source.nodes(ast.Global):
            for name in statement.names:
                self._outer[source.scope(statement), name] = source.tree
        for inner in source.nodes(ast.Nonlocal):
            scope = source.scope(inner)
            outer = next((a for a in source.ancestors(scope) if isinstance(a, FUNCTIONS)), None)
            if outer is not None:
                self._outer.update({(scope, name): outer for name in inner.names})

    def _add(self, binding: Binding) -> None:
        node = binding.node
        if isinstance(node, ast.arg):
            scope: ast.AST = self._source.parents[self._source.parents[node]]
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            scope = self._source.scope(node)
        else:
            scope = next(
                (a for a in self._source.ancestors(node) if isinstance(a, SCOPES + COMPREHENSIONS)),
                self._source.tree,
            )
        scope = self._outer.get((scope, binding.name), scope)
        self._bindings.setdefault(scope, {}).setdefault(binding.name, []).append(binding)
        self._binders.setdefault(binding.name, set()).add(scope)

    def _all(self) -> Iterator[Binding]:
        source = self._source
        for imported in source.nodes(ast.Import):
            for alias in imported.names:
                name = alias.asname or alias.name.partition(".")[0]
                target = alias.name if alias.asname else name
                yield Binding(name, alias, "import", target=target)
        for from_ in source.nodes(ast.ImportFrom):
            base = "." * from_.level + (from_.module or "")
            for alias in from_.names:
                target = f"{base}.{alias.name}" if not base.endswith(".") else base + alias.name
                yield Binding(alias.asname or alias.name, alias, "import", target=target)
        for function in source.nodes(ast.FunctionDef, ast.AsyncFunctionDef):
            yield Binding(function.name, function, "definition")
        for defined in source.nodes(ast.ClassDef):
            yield Binding(defined.name, defined, "definition")
        for argument in source.nodes(ast.arg):
            yield Binding(argument.arg, argument, "parameter")
        for handler in source.nodes(ast.ExceptHandler):
            if handler.name:
                yield Binding(handler.name, handler, "other")
        for name_node in source.nodes(ast.Name):
            if not isinstance(name_node.ctx, ast.Load):
                yield self._stored(name_node)

    def _stored(self, name: ast.Name) -> Binding:
        """The binding of a name that is assigned to, wherever that stands."""
        parents = self._source.parents
        path: tuple[int, ...] = ()
        below: ast.AST = name
        above = parents[name]
        while isinstance(above, ast.Tuple | ast.List | ast.Starred):
            if isinstance(above, ast.Starred) or any(
                isinstance(e, ast.Starred) for e in above.elts
            ):
                return Binding(name.id, name, "other")
            path = (above.elts.index(below), *path)  # type: ignore[arg-type]
            below, above = above, parents[above]
        if isinstance(above, ast.Assign | ast.NamedExpr):
            return Binding(name.id, name, "value", above.value, path)
        if isinstance(above, ast.AnnAssign) and above.value is not None:
            return Binding(name.id, name, "value", above.value, path)
        if isinstance(above, ast.For | ast.AsyncFor | ast.comprehension):
            return Binding(name.id, name, "element", above.iter, path)
        if isinstance(above, ast.withitem):
            return Binding(name.id, name, "context", above.context_expr, path)
        return Binding(name.id, name, "other")


def _statement_of(source: Source, binding: Binding) -> ast.stmt | None:
    node = binding.node
    if isinstance(node, ast.arg):
        return None
    return source.statement(node) if not isinstance(node, ast.ExceptHandler) else node.body[0]


def _same_branch(source: Source, holder: ast.stmt, above: set[ast.AST]) -> bool:
    """Whether a use below `above` comes after `holder` in the block where that stands."""
    return any(statement in above for statement in source.block(holder))
