"""The order of events: each function as a tree of events, branches and loops, calls written out."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from ampconvert.lint.step_events import Event, Events, Guard
from ampconvert.lint.step_places import Environment, Place, Places, Test, arguments, scope_of
from ampconvert.lint.step_roles import Roles

if TYPE_CHECKING:
    from ampconvert.lint.source import Source

Function = ast.FunctionDef | ast.AsyncFunctionDef
_MOST_CALLS = 5  # nested calls written out
_MOST_ITEMS = 3000  # of one root; what comes after is left out
_EXITS = ("sys.exit", "exit", "quit", "os._exit", "os.abort")


@dataclass(frozen=True, eq=False)
class Branch:
    """One of `arms`: the first if `test` holds, the second if not; any of them without a test."""

    test: Test | None
    arms: tuple[Flow, ...]


@dataclass(frozen=True, eq=False)
class Loop:
    """`body` again and again, then `after`, its else."""

    node: ast.For | ast.AsyncFor | ast.While
    body: Flow
    after: Flow


@dataclass(frozen=True, eq=False)
class Inlined:
    """The body of a function of this file, where it is called; `return` ends it."""

    body: Flow


@dataclass(frozen=True, eq=False)
class Jump:
    """`break`, `continue`, `return`, or "raise" for all that ends the run."""

    how: Literal["break", "continue", "return", "raise"]
    node: ast.stmt


Item = Event | Branch | Loop | Inlined | Jump
Flow = tuple[Item, ...]


@dataclass(frozen=True)
class _Where:
    """What is around the statement being read."""

    environment: Environment
    function: ast.AST
    loops: tuple[ast.stmt, ...] = ()
    guards: tuple[Guard, ...] = ()
    entered: tuple[int, ...] = ()
    calls: tuple[ast.Call, ...] = ()
    functions: tuple[ast.AST, ...] = ()

    def put(self, event: Event) -> Event:
        """`event` with what is around it."""
        return replace(
            event, function=self.function, loops=self.loops, guards=self.guards,
            entered=self.entered, calls=self.calls,
        )  # fmt: skip


class Flows:
    """Builds the flow of functions; only what leads to an event is read."""

    def __init__(self, source: Source, places: Places, roles: Roles, events: Events) -> None:
        self._source = source
        self._places = places
        self._roles = roles
        self._events = events
        self._left = _MOST_ITEMS
        self.inlined: set[ast.AST] = set()

    def of(self, root: Function | ast.Module) -> Flow:
        """The flow of a function or of the module's own statements."""
        self._left = _MOST_ITEMS
        return tuple(self._block(root.body, _Where({}, root, functions=(root,))))

    @cached_property
    def roots(self) -> list[Function | ast.Module]:
        """The functions with events in them, or that lead to some; those first that none calls."""
        found: list[Function | ast.Module] = [
            f for f in self._source.nodes(ast.FunctionDef, ast.AsyncFunctionDef)
            if f in self._concerned
        ]  # fmt: skip
        if self._source.tree in self._concerned:
            found.insert(0, self._source.tree)
        called = {target for targets in self._targets.values() for target in targets}
        return sorted(found, key=lambda f: f in called)

    def _block(self, statements: Sequence[ast.stmt], where: _Where) -> Iterator[Item]:
        for statement in statements:
            if statement in self._leading and self._left > 0:
                for item in self._statement(statement, where):
                    self._left -= 1
                    yield item
                if isinstance(statement, ast.If) and _leaves(statement.body):
                    test = self._places.test(statement.test, where.environment)
                    guard = Guard(statement.test, test, False)
                    where = replace(where, guards=(*where.guards, guard))

    def _statement(self, statement: ast.stmt, where: _Where) -> Iterator[Item]:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            return
        yield from self._own(statement, where)
        if isinstance(statement, ast.If):
            yield from self._branch(statement.test, statement.body, statement.orelse, where)
        elif isinstance(statement, ast.For | ast.AsyncFor | ast.While):
            entered = (*where.entered, len(where.guards))
            inner = replace(where, loops=(*where.loops, statement), entered=entered)
            body = tuple(self._block(statement.body, inner))
            after = tuple(self._block(statement.orelse, where))
            if _has_event(body) or after:
                yield Loop(statement, body, after)
        elif isinstance(statement, ast.With | ast.AsyncWith):
            yield from self._block(statement.body, where)
        elif isinstance(statement, ast.Try | ast.TryStar):
            yield from self._attempt(statement, where)
        elif isinstance(statement, ast.Match):
            arms = [tuple(self._block(case.body, where)) for case in statement.cases]
            yield Branch(None, (*arms, ()))
        elif isinstance(statement, ast.Return):
            yield Jump("return", statement)
        elif isinstance(statement, ast.Break):
            yield Jump("break", statement)
        elif isinstance(statement, ast.Continue):
            yield Jump("continue", statement)
        elif statement in self._exits:
            yield Jump("raise", statement)

    def _branch(
        self, condition: ast.expr, body: list[ast.stmt], orelse: list[ast.stmt], where: _Where
    ) -> Iterator[Item]:
        test = self._places.test(condition, where.environment)
        arms = []
        for holds, block in ((True, body), (False, orelse)):
            guard = Guard(condition, test, holds)
            inner = replace(where, guards=(*where.guards, guard))
            arms.append(tuple(self._block(block, inner)))
        if arms[0] or arms[1]:
            yield Branch(test, tuple(arms))

    def _attempt(self, statement: ast.Try | ast.TryStar, where: _Where) -> Iterator[Item]:
        """A handler runs with nothing of the body before it: how far that came is not known."""
        whole = (*self._block(statement.body, where), *self._block(statement.orelse, where))
        handlers = [tuple(self._block(h.body, where)) for h in statement.handlers]
        handlers = [handler for handler in handlers if handler]
        if handlers:
            yield Branch(None, (whole, *handlers))
        else:
            yield from whole
        yield from self._block(statement.finalbody, where)

    def _own(self, statement: ast.stmt, where: _Where) -> Iterator[Item]:
        """What the expressions of a statement do, blocks in it left out."""
        for node in self._by_statement.get(statement, ()):
            if scope_of(self._source, node) is not where.function:
                continue  # a lambda's body runs elsewhere
            inlined = self._inlined(node, where) if isinstance(node, ast.Call) else None
            recognised = list(self._events.of(node, where.environment))
            if inlined is not None and all(_may_be_own(event) for event in recognised):
                if inlined:
                    yield Inlined(inlined)
                continue
            for event in recognised:
                yield replace(where.put(event), target=event.target or self._kept(event, where))
        yield from self._assigned(statement, where)

    def _kept(self, event: Event, where: _Where) -> Place | None:
        """The variable that a scaled loss is kept in."""
        statement = self._source.statement(event.node)
        if event.kind == "scale" and isinstance(statement, ast.Assign):
            return self._places.of(statement.targets[0], where.environment)
        return None

    def _assigned(self, statement: ast.stmt, where: _Where) -> Iterator[Event]:
        """A variable that elsewhere keeps a scaled loss gets one that is not scaled."""
        if not isinstance(statement, ast.Assign) or statement not in self._plain:
            return
        for target in statement.targets:
            place = self._places.of(target, where.environment)
            if place is not None:
                yield where.put(Event("assign", target, target=place))

    def _inlined(self, call: ast.Call, where: _Where) -> Flow | None:
        """The flow of the function that is called; None if it is not of this file, or too deep."""
        targets = self._targets.get(call, ())
        if len(targets) != 1 or len(where.calls) >= _MOST_CALLS or self._left <= 0:
            return None
        function = targets[0]
        if function in where.functions:
            return None
        self.inlined.add(function)
        given = arguments(self._source, self._places, call, function, where.environment)
        inner = replace(
            where, environment={**where.environment, **given}, function=function,
            calls=(*where.calls, call), functions=(*where.functions, function),
        )  # fmt: skip
        return tuple(self._block(function.body, inner))

    @cached_property
    def _nodes(self) -> list[ast.expr]:
        """Every expression that is an event, or a call that leads to one."""
        return [*self._events.calls, *self._events.gradients, *self._targets]

    @cached_property
    def _by_statement(self) -> dict[ast.stmt, list[ast.expr]]:
        """Those expressions by their statement, in the order in which they run."""
        found: dict[ast.stmt, list[ast.expr]] = {}
        for node in dict.fromkeys(self._nodes):
            found.setdefault(self._source.statement(node), []).append(node)
        for nodes in found.values():
            nodes.sort(key=lambda n: (n.end_lineno, n.end_col_offset, -n.lineno, -n.col_offset))
        return found

    @cached_property
    def _concerned(self) -> set[ast.AST]:
        """The functions, and the module, that hold events or call such functions."""
        seeds = [*self._events.calls, *self._events.gradients, *self._targets]
        return {scope_of(self._source, node) for node in seeds}

    @cached_property
    def _targets(self) -> dict[ast.Call, tuple[Function, ...]]:
        """The functions of this file with events in them, by the calls that lead there."""
        source = self._source
        nodes: list[ast.expr] = [*self._events.calls, *self._events.gradients]
        open_functions = [scope_of(source, node) for node in nodes]
        found: dict[ast.Call, tuple[Function, ...]] = {}
        seen: set[ast.AST] = set()
        while open_functions:
            function = open_functions.pop()
            if function in seen or not isinstance(function, Function):
                continue
            seen.add(function)
            for call in source.values.calls_of(function):
                found[call] = (*found.get(call, ()), function)
                open_functions.append(scope_of(source, call))
        return found

    @cached_property
    def _plain(self) -> set[ast.stmt]:
        """Assignments, without scaling, to names that are given scaled losses elsewhere."""
        source = self._source
        found: set[ast.stmt] = set()
        for call in source.names.methods("scale"):
            kept = source.statement(call)
            if not isinstance(kept, ast.Assign) or not isinstance(kept.targets[0], ast.Name):
                continue
            scope = source.scopes.owner(kept.targets[0])
            if scope is None:
                continue
            for binding in source.scopes.all_of(scope, kept.targets[0].id):
                statement = source.statement(binding.node) if binding.how == "value" else kept
                if statement is not kept and isinstance(statement, ast.Assign):
                    names = {n.id for n in ast.walk(statement.value) if isinstance(n, ast.Name)}
                    if binding.name not in names and not self._scales(statement):
                        found.add(statement)
        return found

    def _scales(self, statement: ast.Assign) -> bool:
        return self._roles.scale_call(statement.value, {}) is not None

    @cached_property
    def _exits(self) -> set[ast.stmt]:
        raised: set[ast.stmt] = set(self._source.nodes(ast.Raise))
        return raised | {self._source.statement(c) for c in self._source.names.calls(*_EXITS)}

    @cached_property
    def _leading(self) -> set[ast.AST]:
        """The statements that hold events or jumps, and all around them."""
        source = self._source
        found: set[ast.AST] = set()
        jumps = source.nodes(ast.Return, ast.Break)
        starts: list[ast.AST] = [*self._by_statement, *self._plain, *self._exits, *jumps]
        for start in (*starts, *source.nodes(ast.Continue)):
            found.add(start)
            for above in source.ancestors(start):
                if above in found or isinstance(above, ast.Lambda):
                    break
                found.add(above)
        return found


def events_in(flow: Flow) -> Iterator[Event]:
    """All events of a flow in the order of the text, both arms of branches."""
    for item in flow:
        if isinstance(item, Event):
            yield item
        elif isinstance(item, Branch):
            for arm in item.arms:
                yield from events_in(arm)
        elif isinstance(item, Loop):
            yield from events_in(item.body)
            yield from events_in(item.after)
        elif isinstance(item, Inlined):
            yield from events_in(item.body)


def _may_be_own(event: Event) -> bool:
    """Whether an event may be a call of a function of this file: `self.backward(loss)`."""
    return event.kind == "passed" or event.scaled in ("framework", "unknown")


def _leaves(block: Sequence[ast.stmt]) -> bool:
    """Whether what comes after a block runs only if the block does not."""
    return isinstance(block[-1], ast.Return | ast.Break | ast.Continue)


def _has_event(flow: Flow) -> bool:
    return next(events_in(flow), None) is not None
