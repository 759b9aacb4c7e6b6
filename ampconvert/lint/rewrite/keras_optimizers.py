"""Optimizers of Keras in training loops by hand: what they apply, and their loss scaling."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from ampconvert.lint.rewrite.keras_draft import Draft
from ampconvert.lint.rewrite.keras_script import KerasScript
from ampconvert.lint.rewrite.keras_top import Top

UNSCALED = "use --dtype bfloat16, which needs no loss scaling"
_SCALER = ("keras.mixed_precision.LossScaleOptimizer", "keras.optimizers.LossScaleOptimizer",
           "keras.mixed_precision.experimental.LossScaleOptimizer")  # fmt: skip
_OPTIMIZERS = ("keras.optimizers.*",)


@dataclass(frozen=True, eq=False)
class Applied:
    """`optimizer.apply_gradients(zip(gradients, ...))` or `optimizer.apply(gradients, ...)`."""

    call: ast.Call
    gradients: ast.expr
    optimizer: ast.expr


class Optimizers:
    """The optimizers of one script."""

    def __init__(self, script: KerasScript, top: Top, draft: Draft) -> None:
        self._script = script
        self._source = script.source
        self._top = top
        self._draft = draft
        self._wrapped: set[ast.AST] = set()

    @cached_property
    def applied(self) -> list[Applied]:
        """Every step of an optimizer of Keras that a loop by hand takes."""
        return [*self._by_pairs(), *self._by_lists()]

    def _by_pairs(self) -> Iterator[Applied]:
        """`optimizer.apply_gradients(zip(gradients, variables))`."""
        for call in self._source.names.methods("apply_gradients"):
            assert isinstance(call.func, ast.Attribute)
            pairs = self._script.given(call, "grads_and_vars", 0)
            for value in self._source.values.of(pairs) if pairs is not None else ():
                zipped = self._zipped(value)
                if zipped is not None:
                    yield Applied(call, zipped.args[0], call.func.value)

    def _zipped(self, pairs: ast.expr) -> ast.Call | None:
        """The `zip(gradients, variables)` of pairs, of which some may be left out."""
        if isinstance(pairs, ast.GeneratorExp | ast.ListComp) and len(pairs.generators) == 1:
            (generator,) = pairs.generators
            target = self._source.segment(generator.target).strip("()")
            same = self._source.segment(pairs.elt).strip("()") == target
            return self._zipped(generator.iter) if same else None
        if not isinstance(pairs, ast.Call) or not pairs.args:
            return None
        name = self._source.names.of(pairs.func)
        if name in ("list", "tuple"):
            return self._zipped(pairs.args[0])
        return pairs if name == "zip" else None

    def _by_lists(self) -> Iterator[Applied]:
        """`optimizer.apply(gradients, variables)`."""
        for call in self._source.names.methods("apply"):
            assert isinstance(call.func, ast.Attribute)
            gradients = self._script.given(call, "grads", 0)
            if gradients is not None and self.is_optimizer(call.func.value):
                yield Applied(call, gradients, call.func.value)

    def is_optimizer(self, expression: ast.expr) -> bool:
        """Whether `expression` is an optimizer of Keras."""
        return self._is_compiled(expression) or any(
            self._makes_optimizer(made) for made in self._script.made(expression)
        )

    def _is_compiled(self, expression: ast.expr) -> bool:
        """Whether this is the optimizer of a model, to which compile() gives loss scaling."""
        return (
            isinstance(expression, ast.Attribute) and expression.attr == "optimizer"
            and self._source.values.of(expression) == (expression,)
        )  # fmt: skip

    def _makes_optimizer(self, call: ast.Call) -> bool:
        names = self._source.names
        if names.is_one(call.func, *_OPTIMIZERS, *_SCALER):
            return True
        owner = self._script.own(call)
        return owner is not None and any(
            names.is_one(base, *_OPTIMIZERS)
            for one in self._source.values.lineage(owner) for base in one.bases
        )  # fmt: skip

    def with_scaling(self, optimizer: ast.expr) -> None:
        """Let what makes an optimizer give it loss scaling. Raises UserError where nothing does."""
        if self._is_compiled(optimizer):
            return
        for value in self._source.values.of(optimizer):
            if isinstance(value, ast.Call) and self._source.names.is_one(value.func, *_SCALER):
                continue  # it scales already
            if not isinstance(value, ast.Call) or not self._makes_optimizer(value):
                raise self._script.refuse(
                    optimizer, f"nothing in this file tells what {self._source.segment(optimizer)} "
                    "is made of, and it needs loss scaling",
                    "make the optimizer in this file, or " + UNSCALED,
                )  # fmt: skip
            if value not in self._wrapped:
                self._wrapped.add(value)
                self._draft.wrap(value, f"{self._top.scaled()}({{}})")
                self._draft.step(
                    value, f"loss scaling for {self._source.segment(value.func)}",
                    "compile() adds it by itself, a loop by hand has to",
                )  # fmt: skip
