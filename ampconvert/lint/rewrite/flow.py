"""Which statements compute a loss: what comes out of a module, and what the loss is made of."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from ampconvert.lint.rewrite.roles import Area, arguments
from ampconvert.lint.rewrite.script import Script
from ampconvert.lint.values import is_self

# What gives plain Python values of a tensor.
_PLAIN_METHODS = frozenset(
    {"item", "tolist", "numpy", "size", "dim", "numel", "nelement", "backward"}
)
_PLAIN_FUNCTIONS = frozenset({"len", "float", "int", "str", "range", "print", "isinstance", "bool"})
_PLAIN_ATTRIBUTES = frozenset({"shape", "dtype", "device", "ndim", "grad", "requires_grad"})
_MUTATORS = frozenset({"append", "extend", "insert", "update", "add", "setdefault"})
_NO_GRAD = ("torch.no_grad", "torch.inference_mode", "torch.autograd.no_grad",
            "torch.autograd.grad_mode.no_grad", "torch.autograd.inference_mode")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Unit:
    """A simple statement, or the head of a compound one: what it reads and what it sets."""

    statement: ast.stmt
    reads: frozenset[str]
    sets: frozenset[str]

    @property
    def place(self) -> tuple[int, int]:
        """Where it begins."""
        return self.statement.lineno, self.statement.col_offset


class Flow:
    """Follows values through the functions of a script, by names and attributes of self."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self._units: dict[Area, list[Unit]] = {}
        self._hot: dict[Area, set[ast.stmt]] = {}

    def hot(self, area: Area) -> set[ast.stmt]:
        """The statements of `area` whose values come out of a module; of a compound statement it
        is the head that counts.
        """
        if area not in self._hot:
            self._hot[area] = self._find_hot(area, set())
            self._hot[area] = self._find_hot(area, self._hot_inputs(area))
        return self._hot[area]

    def units(self, area: Area) -> list[Unit]:
        """What `area` does, in the order of the text, without inner functions and classes."""
        if area not in self._units:
            self._units[area] = [self._unit(s) for s in _statements(area.body)]
        return self._units[area]

    def slice(
        self, area: Area, until: tuple[int, int], wanted: set[str]
    ) -> tuple[set[ast.stmt], set[str]]:
        """The statements before `until` on which `wanted` depend, and all names that they need."""
        needed, found = set(wanted), set()
        for unit in reversed(self.units(area)):
            if unit.place < until and unit.sets & needed:
                found.add(unit.statement)
                needed |= unit.reads
        return found, needed

    def names_of(self, expression: ast.AST) -> set[str]:
        """The variables that `expression` reads, modules and optimizers apart."""
        roles = self.script.roles
        found = set()
        for node in [expression, *self.script.source.walk(expression)]:
            key = variable(node) if isinstance(node, ast.expr) else ""
            if (
                key
                and isinstance(node, ast.expr)
                and isinstance(getattr(node, "ctx", None), ast.Load)
            ):
                above = self.script.source.parents.get(node)
                called = isinstance(above, ast.Call) and above.func is node
                if not called and not roles.is_module(node) and not roles.is_optimizer(node):
                    found.add(key)
        return found

    def runs(self, node: ast.AST) -> bool:
        """Whether a call in `node` runs a module, itself or in a function of this file that it
        calls, and no backward pass with it.
        """
        below = [node, *self.script.source.walk(node)]
        return any(isinstance(n, ast.Call) and self._runs(n) for n in below)

    def runs_network(self, node: ast.AST) -> bool:
        """The same, of modules that are no losses."""
        below = [node, *self.script.source.walk(node)]
        return any(isinstance(n, ast.Call) and self._runs(n) and not self.is_loss(n) for n in below)

    def is_loss(self, call: ast.Call) -> bool:
        """Whether `call` computes a loss with torch.nn's module or function for it."""
        source = self.script.source
        made = [v.func for v in source.values.of(call.func) if isinstance(v, ast.Call)]
        names = {n for f in (call.func, *made) for n in source.names.all_of(f)}
        return any(
            n.startswith("torch.nn.") and (n.endswith(("Loss", "_loss", "_entropy", "kl_div"))
                                           or "_with_logits" in n)
            for n in names
        )  # fmt: skip

    def computes_loss(self, call: ast.Call) -> bool:
        """The same, also in a function of this file that `call` runs."""

        def test(node: ast.AST) -> bool:
            return isinstance(node, ast.Call) and self.is_loss(node)

        return self.is_loss(call) or any(
            self.script.roles.reaches("loss", t, test) for t in self.script.roles.targets(call)
        )

    def without_gradients(self, node: ast.AST) -> bool:
        """Whether `node` stands under torch.no_grad or inference_mode, or in a function that sets a
        module to eval() and has no backward pass.
        """
        source = self.script.source
        for above in source.ancestors(node):
            if isinstance(above, ast.With) and self.is_no_grad(above):
                return True
            if isinstance(above, ast.FunctionDef | ast.AsyncFunctionDef):
                if any(self._is_no_grad(d) for d in above.decorator_list):
                    return True
                return self._evaluates(above)
        return False

    def is_no_grad(self, statement: ast.With) -> bool:
        """Whether a `with` turns gradients off."""
        return any(self._is_no_grad(item.context_expr) for item in statement.items)

    def _is_no_grad(self, expression: ast.expr) -> bool:
        names = self.script.source.names
        if not isinstance(expression, ast.Call):
            return names.is_one(expression, *_NO_GRAD)
        if names.is_one(expression.func, "torch.set_grad_enabled"):
            given = expression.args[0] if expression.args else None
            return isinstance(given, ast.Constant) and given.value is False
        return names.is_one(expression.func, *_NO_GRAD)

    def _evaluates(self, function: Area) -> bool:
        if self.script.does_backward(function) or self.script.does_step(function):
            return False
        return any(
            isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute) and n.func.attr == "eval"
            and self.script.roles.is_module(n.func.value)
            for n in self.script.source.walk(function)
        )  # fmt: skip

    def _runs(self, call: ast.Call) -> bool:
        roles = self.script.roles
        if roles.runs_module(call):
            return True
        targets = roles.targets(call)
        if targets:
            return any(self._forwards(t) for t in targets) and not self.script.does_backward(call)
        return self._is_handed(call)

    def _forwards(self, function: ast.AST) -> bool:
        def test(node: ast.AST) -> bool:
            return (
                isinstance(node, ast.Call)
                and (self.script.roles.runs_module(node) or self._is_handed(node))
                and not self.without_gradients(node)
            )

        return self.script.roles.reaches("forward", function, test)

    def _is_handed(self, call: ast.Call) -> bool:
        """Whether a function from another file gets a module: `loss = compute_loss(model, x)`."""
        source = self.script.source
        if not isinstance(call.func, ast.Name) or source.values.definition(call.func) is not None:
            return False
        name = source.names.of(call.func)
        last = name.rpartition(".")[2]
        if not name or name.startswith(("torch", "copy.")) or "." not in name or last[:1].isupper():
            return False
        given = list(arguments(call))
        return len(given) > 1 and any(self.script.roles.is_module(a) for a in given)

    def _hot_inputs(self, area: Area) -> set[str]:
        """Attributes of self that other methods set to what came out of a module, and parameters
        that are given such things.
        """
        source = self.script.source
        if isinstance(area, ast.Module):
            return set()
        found: set[str] = set()
        owner = source.class_of(area)
        for other in self.script.roles.areas() if owner is not None else ():
            if other is not area and source.class_of(other) is owner:
                hot = self.hot(other)
                found |= {n for u in self.units(other) if u.statement in hot for n in u.sets
                          if n.startswith("self.")}  # fmt: skip
        arguments = (*area.args.posonlyargs, *area.args.args, *area.args.kwonlyargs)
        for call in source.values.calls_of(area):
            caller = self.script.roles.area(call)
            hot = self.hot(caller)
            names = {n for u in self.units(caller) if u.statement in hot for n in u.sets}
            for argument in arguments:
                given = source.values.argument(call, area, argument.arg)
                if given is not None and (self.names_of(given) & names or self.runs(given)):
                    found.add(argument.arg)
        return found

    def _find_hot(self, area: Area, inputs: set[str]) -> set[ast.stmt]:
        """One pass in the order of the text: names become hot and, in the same branch, cold."""
        source = self.script.source
        hot: set[ast.stmt] = set()
        names: dict[str, ast.stmt] = dict.fromkeys(inputs, area.body[0])
        for unit in self.units(area):
            statement = unit.statement
            if any(self._is_hot(part, names) for part in _parts(statement)):
                hot.add(statement)
                names.update(dict.fromkeys(unit.sets, statement))
            elif not isinstance(statement, ast.AugAssign | ast.Expr):
                for name in unit.sets & names.keys():
                    block = source.block(statement)
                    above = {names[name], *source.ancestors(names[name])}
                    if any(s in above for s in block) or isinstance(statement, ast.For):
                        del names[name]
        return hot

    def _is_hot(self, node: ast.AST, names: dict[str, ast.stmt]) -> bool:
        if isinstance(node, ast.Call):
            if self._runs(node):
                return True
            plain = (
                node.func.attr in _PLAIN_METHODS
                if isinstance(node.func, ast.Attribute)
                else self.script.source.names.of(node.func) in _PLAIN_FUNCTIONS
            )
            if plain:
                below = [n for n in self.script.source.walk(node) if isinstance(n, ast.Call)]
                return any(
                    self._runs(n) or (self.computes_loss(n) and any(self._is_hot(a, names)
                                                                    for a in arguments(n)))
                    for n in below
                )  # fmt: skip
        if isinstance(node, ast.Attribute) and node.attr in _PLAIN_ATTRIBUTES:
            return False
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
            key = variable(node)
            if key:
                return key in names
        if isinstance(node, ast.Lambda | ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            return False
        return any(self._is_hot(child, names) for child in ast.iter_child_nodes(node))

    def _unit(self, statement: ast.stmt) -> Unit:
        reads: set[str] = set()
        sets: set[str] = set()
        for part in _parts(statement):
            reads |= self.names_of(part)
            for node in [part, *self.script.source.walk(part)]:
                if isinstance(node, ast.Call):
                    sets |= self._changed_by(node)
                elif isinstance(node, ast.expr) and isinstance(
                    getattr(node, "ctx", None), ast.Store
                ):
                    target: ast.expr = node
                    while isinstance(target, ast.Subscript | ast.Starred):
                        target = target.value
                    sets.add(variable(target))
        return Unit(statement, frozenset(reads), frozenset(sets - {""}))

    def _changed_by(self, call: ast.Call) -> set[str]:
        """What `losses.append(x)` and `self.forward()` change."""
        if isinstance(call.func, ast.Attribute):
            method = call.func.attr
            if method in _MUTATORS or (method.endswith("_") and not method.endswith("__")):
                return {variable(call.func.value)}
        found: set[str] = set()
        if isinstance(call.func, ast.Attribute) and is_self(call.func.value):
            for function in self.script.roles.targets(call):
                for node in self.script.source.walk(function):
                    stored = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
                    if stored and isinstance(node, ast.expr):
                        found.add(variable(node))
        return found


def variable(node: ast.expr) -> str:
    """What a value is kept under: "x" or "self.x"; "" for anything else."""
    if isinstance(node, ast.Name):
        return "" if is_self(node) else node.id
    if isinstance(node, ast.Attribute) and is_self(node.value):
        return f"self.{node.attr}"
    return ""


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        yield statement
        for name in ("body", "orelse", "handlers", "finalbody", "cases"):
            for inner in getattr(statement, name, ()):
                if isinstance(inner, ast.stmt):
                    yield from _statements([inner])
                else:
                    yield from _statements(inner.body)


def _parts(statement: ast.stmt) -> list[ast.AST]:
    """The expressions of a statement without the blocks in it."""
    if isinstance(statement, ast.For | ast.AsyncFor):
        return [statement.iter, statement.target]
    if isinstance(statement, ast.While | ast.If):
        return [statement.test]
    if isinstance(statement, ast.With | ast.AsyncWith):
        return list(statement.items)
    if isinstance(statement, ast.Try | ast.TryStar | ast.Match):
        return []
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return []
    return [statement]
