"""Losses that autocast forbids: binary cross entropy of probabilities."""

from __future__ import annotations

import ast
from functools import cached_property

from ampconvert.lint.rewrite.changes import Plan, Replace, Wrap
from ampconvert.lint.rewrite.flow import Flow, variable
from ampconvert.lint.rewrite.script import Script

_SHAPES = frozenset({"view", "squeeze", "flatten", "reshape", "unsqueeze", "view_as", "reshape_as"})
_WHY = (
    "autocast refuses binary cross entropy of probabilities on CUDA: a float16 sigmoid rounds to "
    "0 or 1, whose logarithm is cut off"
)


class Losses:
    """BCELoss and binary_cross_entropy: which become BCEWithLogitsLoss, which stay in FP32."""

    def __init__(self, script: Script, flow: Flow) -> None:
        self._script = script
        self._flow = flow

    @cached_property
    def calls(self) -> list[ast.Call]:
        """The calls that compute binary cross entropy of probabilities, those apart that change to
        logits.
        """
        return [c for c in self._all if c not in self._with_logits]

    def is_apart(self, statement: ast.stmt) -> bool:
        """Whether a simple statement computes such a loss, so that it stays out of autocast."""
        return any(self._script.source.statement(c) is statement for c in self.calls)

    def inputs(self, statement: ast.stmt) -> list[ast.expr]:
        """The probabilities that such losses of a statement are given."""
        return [
            p
            for c in self.calls
            if self._script.source.statement(c) is statement
            and (p := self._probabilities(c)) is not None
        ]

    def plan(self, plan: Plan, outside: set[ast.stmt], off: str) -> None:
        """Cast what these losses are given; where they stand in functions that run under autocast,
        not in `outside`, switch that off with `off`. Change those to logits that can be.
        """
        for call in self.calls:
            statement = self._script.source.statement(call)
            given = self._probabilities(call)
            if given is None:
                raise self._script.refuse(
                    call, "this loss is given its probabilities in a way that can't be followed",
                    "call it as criterion(output, target)",
                )  # fmt: skip
            simple = isinstance(given, ast.Name | ast.Attribute | ast.Call | ast.Subscript)
            plan.add(
                Replace(given, "{}.float()" if simple else "({}).float()"),
                call.lineno, "compute binary cross entropy in float32, outside of autocast", _WHY,
            )  # fmt: skip
            if statement not in outside and off:
                device = f"{ast.unparse(given)}.device.type"
                plan.add(Wrap(statement, statement, off.format(device=device)))
        if self.calls:
            lines = ", ".join(str(call.lineno) for call in self.calls)
            plan.note(
                f"line {lines}: BCEWithLogitsLoss on logits, without the sigmoid in the model, is "
                "more accurate; here the probabilities are used elsewhere too, or come from where "
                "they can't be followed"
            )
        for made, sigmoid in self._convertible:
            plan.add(
                Replace(made.func, _beside(made.func, "BCEWithLogitsLoss")),
                made.lineno, "BCEWithLogitsLoss instead of BCELoss after a Sigmoid", _WHY,
            )  # fmt: skip
            plan.add(Replace(sigmoid, _beside(sigmoid.func, "Identity") + "()"))
            plan.note(
                "switched off, the script gives the same numbers as before but for the rounding "
                "of BCEWithLogitsLoss"
            )

    @cached_property
    def _all(self) -> list[ast.Call]:
        source = self._script.source
        found = source.names.calls("torch.nn.functional.binary_cross_entropy")
        modules = {id(c) for c in source.names.calls("torch.nn.BCELoss")}
        for call in source.nodes(ast.Call):
            made = source.values.of(call.func)
            if (
                any(id(v) in modules for v in made)
                and call not in found
                and id(call) not in modules
            ):
                found.append(call)
        return found

    def _probabilities(self, call: ast.Call) -> ast.expr | None:
        if call.args and not isinstance(call.args[0], ast.Starred):
            return call.args[0]
        return next((k.value for k in call.keywords if k.arg == "input"), None)

    @cached_property
    def _with_logits(self) -> set[ast.Call]:
        made = {id(m) for m, _ in self._convertible}
        return {
            c
            for c in self._all
            if any(id(v) in made for v in self._script.source.values.of(c.func))
        }

    @cached_property
    def _convertible(self) -> list[tuple[ast.Call, ast.Call]]:
        """`BCELoss()` calls and the `Sigmoid()` at the end of the one nn.Sequential before them, if
        what comes out of that goes nowhere else.
        """
        source = self._script.source
        losses = source.names.calls("torch.nn.BCELoss")
        if len(losses) != 1 or source.names.calls("torch.nn.functional.binary_cross_entropy"):
            return []
        sequences = [
            c for c in source.names.calls("torch.nn.Sequential")
            if c.args and isinstance(c.args[-1], ast.Call) and not c.keywords
            and source.names.is_one(c.args[-1].func, "torch.nn.Sigmoid")
        ]  # fmt: skip
        if len(sequences) != 1 or self._script.roles.in_module_class(sequences[0]):
            return []
        loss, sequence = losses[0], sequences[0]
        last = sequence.args[-1]
        assert isinstance(last, ast.Call)
        if not isinstance(loss.func, ast.Attribute) or not isinstance(last.func, ast.Attribute):
            return []
        own = [c for c in self._all if source.values.of(c.func) == (loss,)]
        given = {id(self._shaped(c.args[0])) for c in own if c.args}
        runs = [
            c for c in source.nodes(ast.Call)
            if sequence in source.values.of(c.func) and c not in sequences
        ]  # fmt: skip
        if len(own) != len(self._all) or not runs or not own:
            return []
        if not all(self._goes_only(run, given) for run in runs):
            return []
        reached = {id(v) for c in own for v in source.values.of(self._shaped(c.args[0]))}
        return [(loss, last)] if reached <= {id(r) for r in runs} else []

    def _goes_only(self, run: ast.Call, given: set[int]) -> bool:
        """Whether the output of one run of the model only goes where `given` says."""
        source = self._script.source
        if id(run) in given:
            return True
        above: ast.AST = source.parents[run]
        below: ast.AST = run
        while isinstance(above, ast.Attribute) and above.attr in _SHAPES:
            below = source.parents[above]
            above = source.parents[below]
        if not isinstance(above, ast.Assign) or len(above.targets) != 1:
            return False
        name = variable(above.targets[0])
        if not name or "." in name:
            return False
        scope = source.scope(above)
        return all(
            id(n) in given
            for n in source.walk(scope, functions=True)
            if isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Load)
        )

    def _shaped(self, expression: ast.expr) -> ast.expr:
        """`x` of `x.view(-1).squeeze()`."""
        while (
            isinstance(expression, ast.Call)
            and isinstance(expression.func, ast.Attribute)
            and expression.func.attr in _SHAPES
        ):
            expression = expression.func.value
        return expression


def _beside(function: ast.expr, name: str) -> str:
    """Another name of the module that `function` is taken from: nn.Identity beside nn.Sigmoid."""
    assert isinstance(function, ast.Attribute)
    return f"{ast.unparse(function.value)}.{name}"
