"""Which variable an expression is, under all its names, and which conditions are equal."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ampconvert.lint.scopes import FUNCTIONS, Binding
from ampconvert.lint.values import is_self

if TYPE_CHECKING:
    from ampconvert.lint.source import Source

_MOST = 6  # aliases of aliases followed


@dataclass(frozen=True)
class Place:
    """A variable: `owner` is the scope or the class that it belongs to, `path` how it is reached.

    `self.scaler` has one place in all methods of a class and of its subclasses. A constant has the
    owner None and its text as path.
    """

    owner: ast.AST | None
    path: str

    def __str__(self) -> str:
        return self.path

    @property
    def atom(self) -> Atom:
        """The name of the atom that says that there is something at this place: not None."""
        return (self.owner, self.path)

    @property
    def truth(self) -> bool | None:
        """Whether it is true, where it is a constant."""
        if self.owner is not None or (self.path.isidentifier() and self.path not in _CONSTANTS):
            return None
        try:
            return bool(ast.literal_eval(self.path))
        except (ValueError, SyntaxError):
            return None


# What a test asks: equal questions have equal names.
Atom = tuple[object, ...]

_CONSTANTS = ("True", "False", "None")

# What the parameters of functions stand for in the calls that lead here.
Environment = Mapping[tuple[ast.AST, str], Place]


@dataclass(frozen=True)
class Test:
    """A condition: "atom" of one `name`, "not", "and", "or" of `parts`, or "true" and "false"."""

    how: str
    name: Atom = ()
    parts: tuple[Test, ...] = ()

    def atoms(self) -> Iterator[Atom]:
        """The names of all atoms in it."""
        if self.how == "atom":
            yield self.name
        for part in self.parts:
            yield from part.atoms()

    def truth(self, known: Mapping[Atom, bool]) -> bool | None:
        """Whether it holds, given what is known of its atoms; None if that does not decide."""
        if self.how == "atom":
            return known.get(self.name)
        if self.how in ("true", "false"):
            return self.how == "true"
        values = [part.truth(known) for part in self.parts]
        if self.how == "not":
            return None if values[0] is None else not values[0]
        decisive = self.how == "or"  # one such part decides
        if decisive in values:
            return decisive
        return None if None in values else not decisive

    def implied(self, holds: bool, known: Mapping[Atom, bool]) -> Iterator[tuple[Atom, bool]]:
        """What is known of the atoms in addition, once the test holds or does not."""
        if self.how == "atom":
            yield self.name, holds
        elif self.how == "not":
            yield from self.parts[0].implied(not holds, known)
        elif self.how in ("and", "or"):
            if holds == (self.how == "and"):
                open_parts = list(self.parts)
            else:
                open_parts = [part for part in self.parts if part.truth(known) is None]
                open_parts = open_parts if len(open_parts) == 1 else []
            for part in open_parts:
                yield from part.implied(holds, known)


class Places:
    """Gives places and tests to expressions of one source."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def of(self, expression: ast.expr, environment: Environment, left: int = _MOST) -> Place | None:
        """The place of a name, attribute, element or constant; None for all else."""
        if isinstance(expression, ast.Name):
            return self._of_name(expression, environment, left)
        if isinstance(expression, ast.Attribute):
            return self._of_attribute(expression, environment, left)
        if isinstance(expression, ast.Constant):
            return Place(None, repr(expression.value))
        if isinstance(expression, ast.NamedExpr):
            return self.of(expression.target, environment, left)
        if isinstance(expression, ast.Subscript):
            base = self.of(expression.value, environment, left)
            return base and Place(base.owner, f"{base.path}[{ast.unparse(expression.slice)}]")
        return None

    def test(self, expression: ast.expr, environment: Environment, left: int = _MOST) -> Test:
        """The condition `expression`, such that equal ones compare equal wherever they stand."""
        if isinstance(expression, ast.UnaryOp) and isinstance(expression.op, ast.Not):
            return Test("not", parts=(self.test(expression.operand, environment, left),))
        if isinstance(expression, ast.BoolOp):
            how = "and" if isinstance(expression.op, ast.And) else "or"
            parts = tuple(self.test(value, environment, left) for value in expression.values)
            return Test(how, parts=parts)
        if isinstance(expression, ast.Compare) and len(expression.ops) == 1:
            return self._compared(expression, environment, left)
        if isinstance(expression, ast.Call):
            if self._source.names.of(expression.func) == "bool" and len(expression.args) == 1:
                return self.test(expression.args[0], environment, left)
        elif isinstance(expression, ast.Name) and left:
            value = self._computed(expression, environment)
            if value is not None:
                return self.test(value, environment, left - 1)
        place = self.of(expression, environment)
        if place is not None and place.truth is not None:
            return Test("true" if place.truth else "false")
        return Test("atom", self._rendered(expression, environment))

    def _of_name(self, name: ast.Name, environment: Environment, left: int) -> Place:
        scope = self._source.scopes.owner(name)
        if scope is None:
            return Place(None, name.id)
        given = environment.get((scope, name.id))
        if given is not None:
            return given
        bindings = self._source.scopes.bindings(name)
        if len(bindings) == 1 and left and _is_plain(bindings[0]):
            value = bindings[0].value
            alias = value is not None and isinstance(value, ast.Attribute | ast.Name)
            found = self.of(value, environment, left - 1) if alias and value is not None else None
            if found is not None:
                return found
        return Place(scope, name.id)

    def _of_attribute(
        self, attribute: ast.Attribute, environment: Environment, left: int
    ) -> Place | None:
        source = self._source
        if is_self(attribute.value):
            owner = source.class_of(attribute)
            root = source.values.lineage(owner)[-1] if owner is not None else None
            return Place(root, f"self.{attribute.attr}")
        made_of = source.values.made_of(attribute.value)
        if len(made_of) == 1:
            return Place(source.values.lineage(made_of[0])[-1], f"self.{attribute.attr}")
        base = self.of(attribute.value, environment, left)
        return base and Place(base.owner, f"{base.path}.{attribute.attr}")

    def _compared(self, compare: ast.Compare, environment: Environment, left: int) -> Test:
        operator, right = compare.ops[0], compare.comparators[0]
        constant = right.value if isinstance(right, ast.Constant) else ...
        if isinstance(operator, ast.Is | ast.IsNot) and constant is None:
            given = self.of(compare.left, environment)
            if given is not None and given.truth is not None:
                same = (given.path == "None") == isinstance(operator, ast.Is)
                return Test("true" if same else "false")
            there = self.test(compare.left, environment, left)  # `x is not None` as `x`
            return there if isinstance(operator, ast.IsNot) else Test("not", parts=(there,))
        if isinstance(constant, bool) and isinstance(operator, ast.Is | ast.Eq):
            it = self.test(compare.left, environment, left)
            return it if constant else Test("not", parts=(it,))
        if isinstance(operator, ast.NotEq | ast.NotIn | ast.IsNot):
            parts = tuple(self._rendered(e, environment) for e in (compare.left, right))
            positive = _POSITIVE[type(operator)]
            return Test("not", parts=(Test("atom", ("Compare", positive, *parts)),))
        parts = tuple(self._rendered(e, environment) for e in (compare.left, right))
        return Test("atom", ("Compare", type(operator).__name__, *parts))

    def _computed(self, name: ast.Name, environment: Environment) -> ast.expr | None:
        """What a flag was computed as: `ready = (i + 1) % n == 0`, `s = S() if amp else None`."""
        scope = self._source.scopes.owner(name)
        if scope is None or (scope, name.id) in environment:
            return None
        bindings = self._source.scopes.all_of(scope, name.id)
        if len(bindings) != 1 or not _is_plain(bindings[0]):
            return None
        value = bindings[0].value
        if isinstance(value, ast.BoolOp | ast.Compare):
            return value
        if isinstance(value, ast.UnaryOp) and isinstance(value.op, ast.Not):
            return value
        if isinstance(value, ast.IfExp) and isinstance(value.orelse, ast.Constant):
            return value.test if value.orelse.value is None else None
        return None

    def _rendered(self, expression: ast.AST, environment: Environment) -> Atom:
        """`expression` as a value that equals that of another one which reads the same things."""
        if isinstance(expression, ast.Name | ast.Attribute | ast.Subscript):
            place = self.of(expression, environment)
            if place is not None:
                return place.atom
        parts: list[object] = [type(expression).__name__]
        for name, value in ast.iter_fields(expression):
            if name not in ("ctx", "kind", "type_comment"):
                parts += [
                    self._rendered(one, environment) if isinstance(one, ast.AST) else one
                    for one in (value if isinstance(value, list) else [value])
                ]
        return tuple(parts)


_POSITIVE: dict[type[ast.cmpop], str] = {ast.NotEq: "Eq", ast.NotIn: "In", ast.IsNot: "Is"}


def arguments(
    source: Source,
    places: Places,
    call: ast.Call,
    function: ast.FunctionDef | ast.AsyncFunctionDef,
    environment: Environment,
) -> dict[tuple[ast.AST, str], Place]:
    """What the parameters of `function` stand for in this call of it."""
    found: dict[tuple[ast.AST, str], Place] = {}
    declared = function.args
    spread = any(isinstance(a, ast.Starred) for a in call.args) or any(
        keyword.arg is None for keyword in call.keywords
    )
    for parameter in (*declared.posonlyargs, *declared.args, *declared.kwonlyargs):
        if is_self(ast.Name(parameter.arg, ast.Load())):
            continue
        given = source.values.argument(call, function, parameter.arg)
        where: Environment = environment
        if given is None and not spread:
            given, where = source.values.default(function, parameter.arg), {}
        place = places.of(given, where) if given is not None else None
        if place is not None:
            found[function, parameter.arg] = place
    return found


def scope_of(source: Source, node: ast.AST) -> ast.AST:
    """The function, lambda or module in which `node` runs."""
    return next(
        (a for a in source.ancestors(node) if isinstance(a, (*FUNCTIONS, ast.Module))), source.tree
    )


def _is_plain(binding: Binding) -> bool:
    return binding.how == "value" and not binding.path and binding.value is not None
