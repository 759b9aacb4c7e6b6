"""Who takes part in a training step: gradient scalers, optimizers, schedulers, frameworks."""

from __future__ import annotations

import ast
from functools import cached_property
from typing import TYPE_CHECKING

from ampconvert.lint.names import data
from ampconvert.lint.step_places import Environment, Place, Places

if TYPE_CHECKING:
    from ampconvert.lint.source import Source

# Frameworks by what makes their objects: the argument and its values under which they scale.
_FRAMEWORKS: dict[str, tuple[str, frozenset[object]]] = {
    "accelerate.Accelerator": ("mixed_precision", frozenset({"fp16"})),
    "lightning.fabric.Fabric": ("precision", frozenset({"16-mixed", "16", 16})),
    "lightning.pytorch.Trainer": ("precision", frozenset({"16-mixed", "16", 16})),
    "deepspeed.initialize": ("", frozenset()),
}
# Other frameworks' scalers have methods of the same names and rules of their own.
_OTHERS = ("paddle", "paddle.*", "mindspore", "mindspore.*", "jittor", "jittor.*")


class Roles:
    """Tells by what made an object, or else by what is done with it, what it is."""

    def __init__(self, source: Source, places: Places) -> None:
        self._source = source
        self._places = places

    @cached_property
    def scalers(self) -> frozenset[Place]:
        """The variables that are gradient scalers by what is done with them."""
        found: set[Place] = set()
        if self._source.names.imports(*_OTHERS):
            return frozenset()
        methods = self._source.names.methods
        updated = {self._receiver(call) for call in methods("update") if not call.args}
        for call in methods("unscale_"):
            found.add(self._receiver(call))
        for call in methods("scale"):
            after = self._source.parents.get(call)
            if isinstance(after, ast.Attribute) and after.attr == "backward":
                found.add(self._receiver(call))
        for call in methods("step"):
            if len(call.args) == 1 and self._receiver(call) in updated:
                found.add(self._receiver(call))
        return frozenset(place for place in found if place != _NOWHERE)

    @cached_property
    def optimizers(self) -> frozenset[Place]:
        """The variables that are optimizers by what is done with them."""
        found = {self._receiver(call) for call in self._source.names.methods("zero_grad")}
        found &= {self._receiver(call) for call in self._source.names.methods("step")}
        for call in self._source.names.methods("step", "unscale_"):
            if call.args and self._receiver(call) in self.scalers:
                place = self._places.of(call.args[0], {})
                found |= {place} if place else set()
        return frozenset(place for place in found if place != _NOWHERE)

    def is_scaler(self, expression: ast.expr, environment: Environment) -> bool:
        """Whether this is a gradient scaler that is not known to be disabled."""
        if self._is_disabled(expression):
            return False
        place = self._places.of(expression, environment)
        known = self._source.kinds.is_a(expression, "scaler")
        return known or place in self.scalers or self._places.of(expression, {}) in self.scalers

    def is_optimizer(self, expression: ast.expr, environment: Environment) -> bool:
        """Whether this is an optimizer."""
        known = self._source.kinds.is_a(expression, "optimizer")
        return known or (
            self._places.of(expression, environment) in self.optimizers
            or self._places.of(expression, {}) in self.optimizers
        )

    def scale_call(self, expression: ast.expr, environment: Environment) -> ast.Call | None:
        """The `scaler.scale(...)` in an expression."""
        for node in ast.walk(expression):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "scale"
                and node.args
                and self.is_scaler(node.func.value, environment)
            ):
                return node
        return None

    @cached_property
    def known(self) -> frozenset[Place]:
        """All variables that hold scalers, by use or by what is assigned to them."""
        made = (self.made_place(call, {}) for call in self.made)
        return self.scalers | {place for place in made if place is not None}

    @cached_property
    def made(self) -> list[ast.Call]:
        """The calls that make a scaler, but for those with enabled=False."""
        source = self._source
        names = next(kind["made_by"] for kind in data("kinds")["kind"] if kind["name"] == "scaler")
        found = source.names.calls(*names)
        for defined in source.nodes(ast.ClassDef):
            if "scaler" in source.kinds.of_class(defined):
                found += source.values.calls_of(defined)
        return [call for call in dict.fromkeys(found) if not self._is_disabled(call)]

    def made_place(self, call: ast.Call, environment: Environment) -> Place | None:
        """The variable that a new scaler is assigned to."""
        above = self._source.parents[call]
        while isinstance(above, ast.IfExp | ast.BoolOp):
            above = self._source.parents[above]
        target = None
        if isinstance(above, ast.Assign) and len(above.targets) == 1:
            target = above.targets[0]
        elif isinstance(above, ast.AnnAssign | ast.NamedExpr):
            target = above.target
        return self._places.of(target, environment) if target is not None else None

    def _is_disabled(self, scaler: ast.expr) -> bool:
        """Whether all that `scaler` may be is made with `enabled=False`."""
        values = [
            value
            for value in self._source.values.of(scaler)
            if not (isinstance(value, ast.Constant) and value.value is None)
        ]
        return bool(values) and all(
            isinstance(value, ast.Call)
            and any(
                k.arg == "enabled" and self._source.values.constants(k.value) == {False}
                and len(self._source.values.of(k.value)) == 1
                for k in value.keywords
            )
            for value in values
        )  # fmt: skip

    def is_framework(self, receiver: ast.expr) -> bool:
        """Whether this is an object of a framework that scales by itself, or a module's `self`."""
        return any(
            isinstance(value, ast.Call) and self._source.names.is_one(value.func, *_FRAMEWORKS)
            for value in self._source.values.of(receiver)
        ) or (isinstance(receiver, ast.Name) and receiver.id in ("self", "cls"))

    @cached_property
    def framework_scales(self) -> list[ast.Call]:
        """The calls that make a framework's object and ask for fp16."""
        return [
            call
            for call in self._source.names.calls(*_FRAMEWORKS)
            for name in self._source.names.all_of(call.func) & set(_FRAMEWORKS)
            for keyword in call.keywords
            if keyword.arg == _FRAMEWORKS[name][0]
            and self._source.values.constants(keyword.value) & _FRAMEWORKS[name][1]
        ]

    def is_scheduler(self, receiver: ast.expr) -> bool:
        """Whether this is a scheduler, by what made it, or else by its name: nothing else that
        steps is called so.
        """
        kinds = self._source.kinds.of(receiver)
        return "scheduler" in kinds or (not kinds and "sched" in last_word(receiver).lower())

    def _receiver(self, call: ast.Call) -> Place:
        assert isinstance(call.func, ast.Attribute)
        return self._places.of(call.func.value, {}) or _NOWHERE


_NOWHERE = Place(None, "")


def last_word(expression: ast.expr) -> str:
    """The last word of a dotted name."""
    if isinstance(expression, ast.Attribute):
        return expression.attr
    return expression.id if isinstance(expression, ast.Name) else ""
