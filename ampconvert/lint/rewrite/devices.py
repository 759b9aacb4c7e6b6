"""How a place in a script spells the type of the device that it trains on."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cached_property

from ampconvert.lint.rewrite.names import Fresh
from ampconvert.lint.rewrite.roles import Area
from ampconvert.lint.rewrite.script import Script
from ampconvert.lint.values import is_self_attribute

_MADE = ("torch.device", "torch.accelerator.current_accelerator")
# Of the classes below torch.nn.
_WITH_PARAMETERS = re.compile(
    "(Linear|Conv|LSTM|GRU|RNN|Embedding|Sequential|Module|Transformer|Norm|Attention|Parallel)"
)
_WORDS = ("device", "gpu", "rank", "cuda", "dev")


class Devices:
    """Reads devices from what modules and tensors are moved to."""

    def __init__(self, script: Script, fresh: Fresh) -> None:
        self._script = script
        self._fresh = fresh

    def at(self, place: ast.stmt, area: Area) -> str:
        """An expression for the device's type ("cuda") that can be read before `place`.

        What `area` itself moves things to, or a device that it can see; else that of the
        parameters of a module that runs there.
        """
        if not self._moved and not self._asked:
            return '"cpu"' if self._makes_models else self._of_a_module(place, area)
        visible = [e for e in self._candidates if self._is_visible(e, place, area)]
        own = [e for e in visible if self._script.roles.area(e) is area]
        for expression in (*own, *visible):
            if (text := self._typed(expression)) is not None:
                return text
        constants = {text for e in self._candidates if (text := self._constant(e))}
        if len(constants) == 1 and len(self._candidates) == sum(
            self._constant(e) != "" for e in self._candidates
        ) and not self._asked:  # fmt: skip
            return constants.pop()
        return self._of_a_module(place, area)

    def _of_a_module(self, place: ast.stmt, area: Area) -> str:
        """Where the parameters of a module are that is known at `place`."""
        script = self._script
        if self._only_cuda:
            return '"cuda"'
        here = [n for n in script.source.walk(area) if isinstance(n, ast.Call)]
        others = [
            c for c in script.source.nodes(ast.Call)
            if not script.roles.in_module_class(c) and is_self_attribute(self._module(c))
        ]  # fmt: skip
        for call in (c for c in (*here, *others) if script.roles.runs_module(c)):
            base = self._module(call)
            if self._has_parameters(base) and self._is_visible(base, place, area):
                return f"next({ast.unparse(base)}.parameters()).device.type"
        for step in script.steps:
            for module in self._optimized(step.what):
                if isinstance(module, ast.Name) and module.id == "self":
                    found = f"{self._fresh.torch}.cuda.is_available()"  # it is moved later
                    return f'"cuda" if {found} else "cpu"'
                if self._is_visible(module, place, area):
                    return f"next({ast.unparse(module)}.parameters()).device.type"
        raise script.refuse(
            place, "nothing here tells on which device the model is",
            "keep the torch.device in a variable named device that this place can read",
        )  # fmt: skip

    def _module(self, call: ast.Call) -> ast.expr:
        """The module that `model(x)` or `model.encode(x)` runs."""
        base = call.func
        while isinstance(base, ast.Attribute) and not self._script.roles.is_module(base):
            base = base.value
        return base

    def _optimized(self, optimizer: ast.expr) -> Iterator[ast.expr]:
        for made in self._script.source.values.of(optimizer):
            for node in self._script.source.walk(made):
                if isinstance(node, ast.Attribute) and node.attr == "parameters":
                    yield node.value

    def _has_parameters(self, module: ast.expr) -> bool:
        """Whether a module is known by a name, and is no loss or activation, which have none."""
        if not isinstance(module, ast.Name | ast.Attribute):
            return False
        made = self._script.source.values.of(module)
        names = [n for m in made if isinstance(m, ast.Call)
                 for n in self._script.source.names.all_of(m.func)]  # fmt: skip
        own = [n for n in names if n.startswith("torch.nn.")]
        return self._script.roles.is_module(module) and all(_WITH_PARAMETERS.search(n) for n in own)

    @cached_property
    def _candidates(self) -> list[ast.expr]:
        """What the script moves things to, or makes tensors on."""
        found: list[ast.expr] = []
        for call in self._moved:
            given = [*call.args[:1], *(k.value for k in call.keywords if k.arg == "device")]
            found += [e for e in given if self._is_device(e)]
        for keyword in self._script.source.nodes(ast.keyword):
            if keyword.arg == "device" and self._is_device(keyword.value):
                found.append(keyword.value)
        return sorted(found, key=lambda e: (e.lineno, e.col_offset))

    @cached_property
    def _moved(self) -> list[ast.Call]:
        """Calls `.to(...)` that name no type, and `.to_empty`."""
        return [
            c
            for c in self._script.source.names.methods("to", "to_empty")
            if (c.args and self._is_device(c.args[0])) or any(k.arg == "device" for k in c.keywords)
        ]

    @cached_property
    def _asked(self) -> list[ast.Call]:
        """Calls `.cuda()`."""
        calls = self._script.source.names.methods("cuda", "set_default_device")
        return [c for c in calls if isinstance(c.func, ast.Attribute)]

    @cached_property
    def _makes_models(self) -> bool:
        """Whether the modules that run are made in this file: then it shows if they are moved."""
        source = self._script.source
        return all(
            isinstance(value, ast.Call) or self._script.roles.in_module_class(value)
            for call in source.nodes(ast.Call)
            if self._script.roles.runs_module(call) and not self._script.roles.in_module_class(call)
            for value in source.values.of(self._module(call))
        )

    @cached_property
    def _only_cuda(self) -> bool:
        """Whether modules move by `.cuda()` alone, under no condition."""
        return (
            bool(self._asked)
            and not self._moved
            and all(self._script.source.inside(c, ast.If, ast.IfExp) is None for c in self._asked)
        )

    def _is_device(self, expression: ast.expr) -> bool:
        source = self._script.source
        ends = source.values.of(expression)
        if source.kinds.is_a(expression, "device") or any(self._constant(e) for e in ends):
            return True
        if source.tensors.types(expression) or self._script.roles.is_module(expression):
            return False
        if isinstance(expression, ast.Call):
            return source.names.is_one(expression.func, *_MADE)
        text = ast.unparse(expression).rpartition(".")[2].lower()
        return isinstance(expression, ast.Name | ast.Attribute) and any(w in text for w in _WORDS)

    def _constant(self, expression: ast.expr) -> str:
        """The type of a device that is written out: `"cuda"` for "cuda:0"."""
        known = {"cuda", "cpu", "mps", "xpu", "hpu"}
        if isinstance(expression, ast.Constant) and isinstance(expression.value, str):
            kind = expression.value.partition(":")[0]
            return f'"{kind}"' if kind in known else ""
        return ""

    def _typed(self, expression: ast.expr) -> str | None:
        source = self._script.source
        if constant := self._constant(expression):
            return constant
        if not isinstance(expression, ast.Name | ast.Attribute):
            return None
        text = ast.unparse(expression)
        ends = source.values.of(expression)
        if all(isinstance(e, ast.Call) and source.names.is_one(e.func, *_MADE) for e in ends):
            return f"{text}.type"
        words = [e.value for e in ends if isinstance(e, ast.Constant)]
        fixed = isinstance(expression, ast.Name) and all(
            b.how == "value" for b in source.scopes.bindings(expression)
        )
        if (
            fixed
            and len(words) == len(ends)
            and all(isinstance(w, str) and ":" not in w for w in words)
        ):
            return text
        return f"{self._fresh.torch}.device({text}).type"

    def _is_visible(self, expression: ast.expr, place: ast.stmt, area: Area) -> bool:
        """Whether `expression`, read anywhere, means the same right before `place` in `area`."""
        source = self._script.source
        if isinstance(expression, ast.Constant):
            return self._script.roles.area(expression) is area
        root = expression
        while isinstance(root, ast.Attribute):
            root = root.value
        if not isinstance(root, ast.Name):
            return False
        if root.id == "self":
            return source.class_of(expression) is source.class_of(place) is not None
        owner = source.scopes.owner(root)
        if owner is None or owner not in (area, *source.ancestors(area)):
            return False
        between = [a for a in (area, *source.ancestors(area)) if a is not owner]
        hidden = between[: between.index(owner)] if owner in between else between
        for inner in hidden:
            if inner in source.ancestors(owner):
                break
            if source.scopes.all_of(inner, root.id):
                return False
        if owner is area:
            bound = source.scopes.all_of(area, root.id)
            return any(
                isinstance(b.node, ast.arg) or source.statement(b.node).lineno < place.lineno
                for b in bound
            )
        return True
