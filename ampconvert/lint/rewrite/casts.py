"""Casts by hand: those of inputs go, and one comes before NumPy, which knows no bfloat16."""

from __future__ import annotations

import ast

from ampconvert.lint.rewrite.changes import Plan, Remove, Replace
from ampconvert.lint.rewrite.flow import Flow, variable
from ampconvert.lint.rewrite.roles import words
from ampconvert.lint.rewrite.script import Script

_LOW = {"float16", "bfloat16"}


class Casts:
    """Finds and plans them."""

    def __init__(self, script: Script, flow: Flow, plan: Plan) -> None:
        self._script = script
        self._flow = flow
        self._plan = plan

    def remove_by_hand(self) -> None:
        """`x = x.half()` on what a model or loss is given: autocast casts by operator."""
        source = self._script.source
        for call in source.names.methods("half", "bfloat16", "to", "type"):
            assert isinstance(call.func, ast.Attribute)
            if source.names.of(call.func).startswith("torch.") or self._script.roles.is_module(
                call.func.value
            ):
                continue
            if not self._is_low(call) or not self._reaches_training(call):
                continue
            cast = source.segment(call).removeprefix(source.segment(call.func.value))
            told = (
                call.lineno, f"remove the cast to 16 bits in {cast}",
                "inputs stay float32, as the model's parameters do: autocast casts by operator",
            )  # fmt: skip
            base = source.segment(call.func.value)
            kept = self._kept(call)
            statement = source.statement(call)
            if kept:
                self._plan.add(Replace(call, f"{base}.to({', '.join(kept)})"), *told)
            elif self._is_itself(statement, call):
                self._plan.add(Remove(statement), *told)
            else:
                self._plan.add(Replace(call, base), *told)

    def float_before_numpy(self) -> None:
        """`out.numpy()` of what came out of a model under autocast."""
        source = self._script.source
        for call in source.names.methods("numpy"):
            assert isinstance(call.func, ast.Attribute)
            base = call.func.value
            if not self._is_output(base):
                continue
            self._plan.add(
                Replace(base, "{}.float()"), call.lineno, ".float() before .numpy()",
                "what autocast gives is 16 bits wide: NumPy has no bfloat16, and float16 has "
                "little precision",
            )  # fmt: skip

    def _kept(self, call: ast.Call) -> list[str]:
        """What else `to` is given: a device, and how to move there."""
        source = self._script.source
        plain = [a for a in call.args if not source.tensors.types(a)]
        named = [k for k in call.keywords if k.arg != "dtype"]
        if not plain and not any(k.arg == "device" for k in named):
            return []
        return [source.segment(part) for part in (*plain, *named)]

    def _is_itself(self, statement: ast.stmt, call: ast.Call) -> bool:
        """Whether a statement is `x = x.half()`."""
        assert isinstance(call.func, ast.Attribute)
        if not isinstance(statement, ast.Assign) or statement.value is not call:
            return False
        target = variable(statement.targets[0])
        return len(statement.targets) == 1 and target != "" and target == variable(call.func.value)

    def _is_low(self, call: ast.Call) -> bool:
        assert isinstance(call.func, ast.Attribute)
        if call.func.attr in ("half", "bfloat16"):
            return not call.args and not call.keywords
        given = [*call.args, *(k.value for k in call.keywords if k.arg == "dtype")]
        types = {t for g in given for t in self._script.source.tensors.types(g)}
        return bool(types) and types <= _LOW

    def _reaches_training(self, call: ast.Call) -> bool:
        """Whether a cast stands in a function that trains, on what it works with."""
        area = self._script.roles.area(call)
        if any(b.area is area for b in self._script.backwards):
            return True
        return bool(self._flow.hot(area)) and not self._script.roles.in_module_class(call)

    def _is_output(self, expression: ast.expr) -> bool:
        """Whether `expression` is a model's output, but for shape and place."""
        while True:
            if isinstance(expression, ast.Call) and isinstance(expression.func, ast.Attribute):
                if self._script.roles.runs_module(expression):
                    return True
                if expression.func.attr not in words("keeps_type"):
                    return False
                if expression.func.attr == "to" and self._script.source.tensors.types(
                    expression.args[0] if expression.args else expression
                ):
                    return False
                expression = expression.func.value
            elif isinstance(expression, ast.Subscript):
                expression = expression.value
            else:
                break
        if isinstance(expression, ast.Attribute) and expression.attr == "data":
            expression = expression.value
        if isinstance(expression, ast.Call):
            return self._script.roles.runs_module(expression)
        values = self._script.source.scopes.bindings(expression) if isinstance(
            expression, ast.Name
        ) else []  # fmt: skip
        return bool(values) and all(
            b.how == "value" and isinstance(b.value, ast.expr)
            and (self._is_run(b.value) or (not b.path and _is_other(b.value, expression)
                                           and self._is_output(b.value)))
            for b in values
        )  # fmt: skip

    def _is_run(self, value: ast.expr) -> bool:
        return isinstance(value, ast.Call) and self._script.roles.runs_module(value)


def _is_other(value: ast.expr, name: ast.expr) -> bool:
    """Whether following `value` ends: it does not read the name that it sets."""
    assert isinstance(name, ast.Name)
    return isinstance(value, ast.Call | ast.Subscript) and not any(
        isinstance(n, ast.Name) and n.id == name.id for n in ast.walk(value)
    )
