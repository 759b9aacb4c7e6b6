"""What things in a training script are: modules, optimizers, schedulers, and who calls what."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from functools import cache, cached_property

from ampconvert.lint.names import data
from ampconvert.lint.rewrite.changes import Function
from ampconvert.lint.source import Source
from ampconvert.lint.values import is_self

Area = Function | ast.Module


class Roles:
    """Tells roles by what made a thing and, where that is in another file, by how it is used."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._forward: dict[ast.AST, bool] = {}
        self._reached: dict[tuple[str, ast.AST], bool] = {}

    def is_module(self, expression: ast.expr) -> bool:
        """Whether `expression` is a torch.nn.Module: by its class, or as it has parameters()."""
        source = self.source
        if is_self(expression):
            owner = source.class_of(expression)
            return owner is not None and "module" in source.kinds.of_class(owner)
        if isinstance(expression, ast.Subscript):
            return self.is_module(expression.value) or self._holds_modules(expression.value)
        if (
            source.kinds.is_a(expression, "module")
            or self._keys(expression) & self._with_parameters
        ):
            return True
        if isinstance(expression, ast.Attribute) and expression.attr == "module":
            return self.is_module(expression.value)
        if isinstance(expression, ast.Name):
            return any(
                self.is_module(over) or self._holds_modules(over)
                for over in self._looped_over(expression)
            )
        return False

    def is_optimizer(self, expression: ast.expr) -> bool:
        """Whether `expression` is an optimizer: by what made it, or by its zero_grad and step."""
        kinds = self.source.kinds
        if kinds.is_a(expression, "optimizer"):
            return True
        if kinds.of(expression):
            return False
        if isinstance(expression, ast.Subscript):
            return self.holds_optimizers(expression.value)
        if self._keys(expression) & self._optimizer_like:
            return True
        if isinstance(expression, ast.Name):
            return any(self.holds_optimizers(over) for over in self._looped_over(expression))
        return False

    def is_scheduler(self, expression: ast.expr) -> bool:
        """Whether `expression` is a scheduler: by what made it, or as it got an optimizer."""
        if self.source.kinds.is_a(expression, "scheduler"):
            return True
        return not self.is_optimizer(expression) and any(
            self.source.kinds.is_a(made, "scheduler")
            or any(self.is_optimizer(a) for a in arguments(made))
            for made in self.made(expression)
        )

    def runs_module(self, call: ast.Call) -> bool:
        """Whether `call` runs a module or a method of one: `model(x)`, `vae.encode(x)`."""
        source, function = self.source, call.func
        if isinstance(function, ast.Attribute):
            if function.attr in words("not_run") or function.attr.startswith("__"):
                return False
            if is_self(function.value) and not self.is_module(function):
                return False  # a method of the class itself: what that does is asked elsewhere
            if self.is_module(function.value) and not self._is_class(function.value):
                if source.names.all_of(function.value) & {"torch.nn"}:
                    return False
                return any(True for _ in arguments(call)) or function.attr == "forward"
        return self.is_module(function) and not self._is_class(function)

    def targets(self, call: ast.Call) -> list[Function]:
        """The functions of this file that `call` runs."""
        return self._targets.get(call, [])

    def reaches(self, name: str, function: ast.AST, test: Callable[[ast.AST], bool]) -> bool:
        """Whether a node below `function`, or below what it calls in this file, passes `test`;
        answers are kept under `name`.
        """
        key = (name, function)
        if key not in self._reached:
            self._reached[key] = False  # ends circles
            self._reached[key] = any(
                test(node)
                or (isinstance(node, ast.Call)
                    and any(self.reaches(name, t, test) for t in self.targets(node)))
                for node in self.source.walk(function)
            )  # fmt: skip
        return self._reached[key]

    def area(self, node: ast.AST) -> Area:
        """The function, or else the module, in whose body `node` stands."""
        return self.source.function(node) or self.source.tree

    def areas(self) -> list[Area]:
        """The module and all functions, in the order of the text."""
        found: list[Area] = [*self.source.nodes(ast.FunctionDef, ast.AsyncFunctionDef)]
        return [self.source.tree, *sorted(found, key=lambda f: getattr(f, "lineno", 0))]

    def in_module_class(self, node: ast.AST) -> bool:
        """Whether `node` stands in a method of a torch.nn.Module of this file."""
        owner = self.source.class_of(node)
        return owner is not None and "module" in self.source.kinds.of_class(owner)

    def owners(self, expression: ast.expr) -> set[ast.AST]:
        """What tells two modules or optimizers apart: the expressions that made them."""
        return self._keys(expression)

    def is_element(self, expression: ast.expr) -> bool:
        """Whether `expression` is the variable of a loop: another thing in each turn."""
        return isinstance(expression, ast.Name) and any(
            b.how == "element" for b in self.source.scopes.bindings(expression)
        )

    def made(self, expression: ast.expr) -> list[ast.Call]:
        """The calls that made an optimizer, or all of those that a loop goes over."""
        values = list(self.source.values.of(expression))
        if isinstance(expression, ast.Name):
            for over in self._looped_over(expression):
                values += self._elements(over)
        elif isinstance(expression, ast.Subscript):
            values += self._elements(expression.value)
        return [v for v in values if isinstance(v, ast.Call)]

    def _looped_over(self, name: ast.Name) -> list[ast.expr]:
        """What the variable of a loop goes over: `b` of `for a, b in zip(x, y)` over y."""
        found = []
        for binding in self.source.scopes.bindings(name):
            over, path = binding.value, binding.path
            if binding.how != "element" or over is None:
                continue
            while isinstance(over, ast.Call) and over.args and path:
                called = self.source.names.of(over.func)
                if called == "zip" and path[0] < len(over.args):
                    over, path = over.args[path[0]], path[1:]
                elif called == "enumerate" and path[0] == 1:
                    over, path = over.args[0], path[1:]
                else:
                    break
            found.append(over)
        return found

    def _is_class(self, expression: ast.expr) -> bool:
        return isinstance(self.source.values.definition(expression), ast.ClassDef)

    def _keys(self, expression: ast.expr) -> set[ast.AST]:
        """What `expression` ends at; a parameter that nobody gives counts as one thing."""
        found: set[ast.AST] = set()
        for value in self.source.values.of(expression):
            key: ast.AST = value
            if isinstance(value, ast.Name):
                bindings = self.source.scopes.bindings(value)
                if not bindings:
                    continue
                key = bindings[0].node
                if bindings[0].how == "import":
                    continue
            elif isinstance(value, ast.Attribute | ast.Constant | ast.Subscript):
                continue
            found.add(key)
        return found

    @cached_property
    def _with_parameters(self) -> set[ast.AST]:
        """What has parameters() or eval() called on it, or is a class's instance that moves to a
        device: `Net().cuda()`.
        """
        found: set[ast.AST] = set()
        for call in self.source.names.methods("parameters", "named_parameters", "eval"):
            assert isinstance(call.func, ast.Attribute)
            if not call.args and not self.source.names.is_one(call.func.value, "torch.*"):
                found |= self._keys(call.func.value)
        for call in self.source.names.methods("to", "cuda"):
            assert isinstance(call.func, ast.Attribute)
            for value in self.source.values.of(call.func.value):
                if isinstance(value, ast.Call) and self._is_foreign_class(value.func):
                    found |= {value, *self._keys(call)}
        trained: set[ast.AST] = set()
        for call in self.source.names.methods("train"):
            assert isinstance(call.func, ast.Attribute)
            trained |= self._keys(call.func.value) if not call.args else set()
        for call in self.source.nodes(ast.Call) if trained else ():
            found |= self._keys(call.func) & trained  # model.train() and model(x)
        return found

    def _is_foreign_class(self, function: ast.expr) -> bool:
        """Whether a class of another file of this project is called, by its capital letter."""
        name = self.source.names.of(function)
        known = ("torch", "numpy", "PIL", "transformers", "collections")
        return (
            "." in name.lstrip(".")
            and name.rpartition(".")[2][:1].isupper()
            and name.partition(".")[0] not in known
        )

    @cached_property
    def _optimizer_like(self) -> set[ast.AST]:
        def keys(method: str) -> set[ast.AST]:
            return {
                key
                for call in self.source.names.methods(method)
                if isinstance(call.func, ast.Attribute) and not self.is_module(call.func.value)
                for key in self._keys(call.func.value)
                if not self._is_made_here(key)
            }

        return keys("zero_grad") & keys("step")

    def _holds_modules(self, expression: ast.expr) -> bool:
        return self._holds(expression, self.is_module)

    def _is_made_here(self, key: ast.AST) -> bool:
        """Whether `key` is an instance of a class of this file: what that is, its bases say."""
        return isinstance(key, ast.Call) and isinstance(
            self.source.values.definition(key.func), ast.ClassDef
        )

    def holds_optimizers(self, expression: ast.expr) -> bool:
        """Whether a list, dict or their items hold optimizers."""
        return self._holds(expression, self.is_optimizer)

    def _holds(self, expression: ast.expr, test: Callable[[ast.expr], bool]) -> bool:
        """Whether a list, dict or their items hold what passes `test`."""
        return any(test(item) for item in self._elements(expression))

    def _elements(self, expression: ast.expr) -> list[ast.expr]:
        """What a list, dict, their items or `zip` of them hold."""
        if isinstance(expression, ast.Call) and isinstance(expression.func, ast.Attribute):
            if expression.func.attr in ("values", "items"):
                expression = expression.func.value
        elif isinstance(expression, ast.Call) and expression.args:
            called = self.source.names.of(expression.func)
            if called in ("zip", "enumerate", "list", "reversed"):
                return [e for a in expression.args for e in self._elements(a)]
        return [
            end
            for value in self.source.values.of(expression)
            for item in _items(value)
            for end in self.source.values.of(item)
        ]

    @cached_property
    def _targets(self) -> dict[ast.Call, list[Function]]:
        found: dict[ast.Call, list[Function]] = {}
        for function in self.source.nodes(ast.FunctionDef, ast.AsyncFunctionDef):
            for call in self.source.values.calls_of(function):
                found.setdefault(call, []).append(function)
        return found


def arguments(call: ast.Call) -> Iterator[ast.expr]:
    """All arguments of a call, without stars."""
    for argument in call.args:
        yield argument.value if isinstance(argument, ast.Starred) else argument
    for keyword in call.keywords:
        yield keyword.value


def _items(value: ast.expr) -> Iterator[ast.expr]:
    if isinstance(value, ast.List | ast.Tuple | ast.Set):
        yield from value.elts
    elif isinstance(value, ast.Dict):
        yield from value.values
    elif isinstance(value, ast.ListComp | ast.GeneratorExp):
        yield value.elt
    elif isinstance(value, ast.DictComp):
        yield value.value
    elif isinstance(value, ast.Call) and value.keywords:
        yield from (k.value for k in value.keywords)


@cache
def words(kind: str) -> frozenset[str]:
    """The methods of one kind in data/rewrite.toml: "not_run", "logs", "judges", "keeps_type"."""
    return frozenset(data("rewrite")["methods"][kind])
