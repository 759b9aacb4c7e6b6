"""Where a gradient scaler is made, and how each function gets at it."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from ampconvert.lint.rewrite.changes import Argument, Function, Insert, Parameter, Plan
from ampconvert.lint.rewrite.devices import Devices
from ampconvert.lint.rewrite.names import Fresh
from ampconvert.lint.rewrite.roles import Area
from ampconvert.lint.rewrite.script import Script
from ampconvert.lint.values import is_self

_WRAPPERS = frozenset({"enumerate", "zip", "list", "reversed", "tuple"})


@dataclass(eq=False)
class Home:
    """A function, module or class in which optimizers are kept, and where they are set there.

    `before` is a statement that hands on an optimizer as it makes it, and gives it no name.
    """

    owner: ast.AST
    statements: dict[str, list[ast.stmt]] = field(default_factory=dict)
    first_use: int = 0
    before: ast.stmt | None = None


class Scalers:
    """One scaler for each place that keeps optimizers; it goes wherever those go."""

    def __init__(self, script: Script, plan: Plan, fresh: Fresh, devices: Devices) -> None:
        self._script = script
        self._plan = plan
        self._fresh = fresh
        self._devices = devices
        self._homes: dict[ast.AST, Home] = {}
        self._by_parameter: dict[Area, bool] = {}
        self._threaded: dict[Function, str] = {}
        for step in script.steps:
            homes = {id(h) for h in self._resolve(step.what, step.area)}
            if len(homes) > 1 and not self._by_parameter.get(step.area):
                raise script.refuse(
                    step.call, "this optimizer may come from several places",
                    "give each of them a training loop of its own",
                )  # fmt: skip

    def make(self) -> None:
        """Plan the creation of all scalers."""
        for home, statement in self._creations():
            area = self._script.roles.area(statement)
            device = self._devices.at(statement, area)
            name = self._fresh.scaler
            if isinstance(home.owner, ast.ClassDef):
                name = f"self.{name}"
            made = f"{self._fresh.torch}.amp.GradScaler({device}, enabled={self._fresh.switch})"
            self._plan.add(
                Insert(statement, f"{name} = {made}", after=statement is not home.before),
                statement.lineno, f"make one {name} after the optimizer",
                "float16 has no numbers below 6e-8, so small gradients would become 0: the scaler "
                "multiplies the loss by a power of two, and adapts that over the whole training",
            )  # fmt: skip

    def at(self, area: Area, node: ast.AST) -> str:
        """What the scaler is called in `area`, where `node` needs it. UserError if it can't get
        there.
        """
        name = self._fresh.scaler
        owner = self._script.source.class_of(area) if not isinstance(area, ast.Module) else None
        if owner is not None and not self._is_static(area):
            for one in self._script.source.values.lineage(owner):
                if one in self._homes:
                    return f"self.{name}"
        if not self._by_parameter.get(area):
            if area in self._homes or any(
                a in self._homes and not isinstance(a, ast.ClassDef)
                for a in self._script.source.ancestors(area)
            ):
                return name
            for step in self._script.steps:
                if step.area is area and isinstance(step.what, ast.Attribute):
                    return f"{ast.unparse(step.what.value)}.{name}"
        if isinstance(area, ast.Module):
            raise self._lost(node)
        self._thread(area, node)
        return self._threaded[area]

    def _thread(self, function: Function, node: ast.AST) -> None:
        """Give `function` the scaler as a parameter, and its callers the argument."""
        if function in self._threaded:
            return
        calls = self._script.source.values.calls_of(function)
        if not calls or self._is_referenced(function):
            raise self._lost(node)
        name = self._fresh.scaler
        self._threaded[function] = name
        annotation = f"{self._fresh.torch}.amp.GradScaler"
        self._plan.add(
            Parameter(function, name, annotation),
            function.lineno, f"pass the scaler to {function.name}()",
            "it has to be the one object for the whole training, as the optimizer is",
        )  # fmt: skip
        for call in calls:
            given = self.at(self._script.roles.area(call), call)
            self._plan.add(Argument(call, name, given))

    def _lost(self, node: ast.AST) -> Exception:
        area = self._script.roles.area(node)
        name = getattr(area, "name", "the module")
        return self._script.refuse(
            node,
            f"the gradient scaler can't be handed to {name}, whose optimizer or callers are not in "
            "this file, or are called in a way that can't be followed",
            "rewrite the script that makes the optimizer and holds the loop, or use --dtype bf16, "
            "which needs no scaler",
        )

    def _is_referenced(self, function: Function) -> bool:
        """Whether `function` is handed around as a value: Process(target=train)."""
        source = self._script.source
        for node in source.nodes(ast.Name):
            if node.id == function.name and isinstance(node.ctx, ast.Load):
                above = source.parents[node]
                called = isinstance(above, ast.Call) and above.func is node
                if not called and source.values.definition(node) is function:
                    return True
        return False

    def _is_static(self, area: Area) -> bool:
        arguments = [] if isinstance(area, ast.Module) else area.args.args
        return not arguments or arguments[0].arg != "self"

    def _resolve(
        self, expression: ast.expr, area: Area, seen: frozenset[ast.AST] = frozenset()
    ) -> Iterator[Home]:
        """The homes of an optimizer that `area` calls `expression`."""
        script = self._script
        root = self._carrier(expression)
        if isinstance(root, ast.Call) and script.roles.is_optimizer(root):
            made_in = script.source.scope(root)
            home = self._homes.setdefault(made_in, Home(made_in))
            home.before = home.before or script.source.statement(root)
            yield home
            return
        if isinstance(root, ast.Attribute):
            if is_self(root.value):
                owners = [o for o in [script.source.class_of(root)] if o is not None]
            else:
                owners = script.source.values.made_of(root.value)
            for owner in owners:
                for one in script.source.values.lineage(owner):
                    statements = self._assigned(one, root.attr)
                    if statements:
                        yield self._home(one, root.attr, statements, expression)
                        return
        elif isinstance(root, ast.Name):
            scope = script.source.scopes.owner(root)
            bindings = script.source.scopes.all_of(scope, root.id) if scope is not None else []
            if any(isinstance(b.node, ast.arg) for b in bindings):
                assert isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                if not isinstance(scope, ast.Lambda) and scope not in seen:
                    yield from self._from_callers(scope, root.id, seen | {scope})
                    return
            elif bindings and scope is not None:
                statements = [script.source.statement(b.node) for b in bindings
                              if not isinstance(b.node, ast.alias)]  # fmt: skip
                if statements:
                    yield self._home(scope, root.id, statements, expression)
                    return
        raise self._lost(expression)

    def _from_callers(
        self, function: Function, name: str, seen: frozenset[ast.AST]
    ) -> Iterator[Home]:
        self._by_parameter[function] = True
        given = []
        for call in self._script.source.values.calls_of(function):
            argument = self._script.source.values.argument(call, function, name)
            if argument is not None and not _is_none(argument):
                given.append((call, argument))
        if not given:
            raise self._lost(function.body[0])
        for call, argument in given:
            yield from self._resolve(argument, self._script.roles.area(call), seen)

    def _carrier(self, expression: ast.expr) -> ast.expr:
        """The name or attribute that keeps an optimizer: `optimizers` of `optimizers[0]`."""
        while True:
            if isinstance(expression, ast.Subscript | ast.Starred):
                expression = expression.value
            elif (
                isinstance(expression, ast.Call)
                and expression.args
                and (self._script.source.names.of(expression.func) in _WRAPPERS)
            ):
                expression = next(
                    (a for a in expression.args if self._script.roles.holds_optimizers(a)),
                    expression.args[0],
                )
            elif isinstance(expression, ast.Call) and isinstance(expression.func, ast.Attribute):
                if expression.func.attr not in ("values", "items"):
                    return expression
                expression = expression.func.value
            elif isinstance(expression, ast.Name):
                elements = [b for b in self._script.source.scopes.bindings(expression)
                            if b.how == "element" and b.value is not None]  # fmt: skip
                if not elements or elements[0].value is None:
                    return expression
                expression = elements[0].value
            else:
                return expression

    def _assigned(self, owner: ast.ClassDef, name: str) -> list[ast.stmt]:
        """The statements of a class's methods that set `self.name`."""
        return [
            self._script.source.statement(node)
            for node in self._script.source.walk(owner, functions=True)
            if isinstance(node, ast.Attribute) and node.attr == name and is_self(node.value)
            and isinstance(node.ctx, ast.Store)
        ]  # fmt: skip

    def _home(self, owner: ast.AST, name: str, statements: list[ast.stmt], used: ast.expr) -> Home:
        home = self._homes.setdefault(owner, Home(owner))
        home.statements[name] = statements
        if self._script.roles.area(used) is owner:
            home.first_use = min(home.first_use or used.lineno, used.lineno)
        return home

    def _creations(self) -> Iterator[tuple[Home, ast.stmt]]:
        """The statements after which scalers are made: the last that sets one of the optimizers, or
        an `if` around all of them; every one that sets an optimizer anew after its first was used.
        """
        for home in self._homes.values():
            if home.before is not None:
                yield home, home.before
                continue
            made = [s for group in home.statements.values() for s in group if not _sets_none(s)]
            if not made:
                raise self._lost(next(iter(home.statements.values()))[0])
            made.sort(key=lambda s: s.lineno)
            area = self._script.roles.area(made[0])
            made = [s for s in made if self._script.roles.area(s) is area]
            places = self._places(home, made)
            again = any(
                self._is_used_between(name, earlier, later)
                for name, group in home.statements.items()
                for earlier, later in self._pairs(group, places)
            )
            for place in places if again else places[-1:]:
                yield home, place

    def _places(self, home: Home, made: list[ast.stmt]) -> list[ast.stmt]:
        """Where `made` stand in the innermost block that holds all of them, in its order."""
        source = self._script.source
        chains = [[s, *source.ancestors(s)] for s in made]
        for level in chains[0]:
            if not isinstance(level, ast.stmt):
                continue
            block = source.block(level)
            within = [next((n for n in chain if n in block), None) for chain in chains]
            if all(w is not None for w in within):
                places = [w for w in dict.fromkeys(within) if isinstance(w, ast.stmt)]
                last = max(places, key=lambda s: s.lineno)
                if home.first_use and last.lineno <= home.first_use <= (last.end_lineno or 0):
                    break
                return sorted(places, key=lambda s: s.lineno)
        return made[:1]

    def _pairs(
        self, group: list[ast.stmt], places: list[ast.stmt]
    ) -> Iterator[tuple[ast.stmt, ast.stmt]]:
        """Neighbours among `places` that both set one name."""
        source = self._script.source
        setting = [p for p in places if any(p is s or p in source.ancestors(s) for s in group)]
        yield from itertools.pairwise(setting)

    def _is_used_between(self, name: str, earlier: ast.stmt, later: ast.stmt) -> bool:
        start, end = earlier.end_lineno or earlier.lineno, later.lineno
        return any(
            start < node.lineno < end and isinstance(node.ctx, ast.Load)
            and (node.id if isinstance(node, ast.Name) else node.attr) == name
            for node in self._script.source.nodes(ast.Name, ast.Attribute)
        )  # fmt: skip


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _sets_none(statement: ast.stmt) -> bool:
    value = getattr(statement, "value", None)
    return isinstance(value, ast.expr) and _is_none(value)
