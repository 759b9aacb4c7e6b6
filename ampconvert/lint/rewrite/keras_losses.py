"""Losses that are told they get logits, of models that give probabilities."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from ampconvert.lint.rewrite.keras_draft import Draft
from ampconvert.lint.rewrite.keras_outputs import Output, Outputs
from ampconvert.lint.rewrite.keras_readers import Readers
from ampconvert.lint.rewrite.keras_script import KerasScript

# Losses of keras.losses that take from_logits, its place after (y_true, y_pred) in the function.
_CLASSES = (
    "SparseCategoricalCrossentropy", "CategoricalCrossentropy", "CategoricalFocalCrossentropy",
    "BinaryCrossentropy", "BinaryFocalCrossentropy",
)  # fmt: skip
_FUNCTIONS = (
    "sparse_categorical_crossentropy", "categorical_crossentropy", "binary_crossentropy",
    "categorical_focal_crossentropy", "binary_focal_crossentropy",
)  # fmt: skip
_LOGITS_ONLY = (
    "tensorflow.nn.softmax_cross_entropy_with_logits",
    "tensorflow.nn.sigmoid_cross_entropy_with_logits",
    "tensorflow.nn.sparse_softmax_cross_entropy_with_logits",
)  # fmt: skip
_TWICE = (
    "only TensorFlow's backend notices if that is done twice, on others training is worse, in "
    "FP32 as well"
)
_PROBABILITIES = ("softmax", "sigmoid")


@dataclass(frozen=True, eq=False)
class Loss:
    """One loss of one output: `call` makes or computes it, None where a string names it."""

    at: ast.expr
    call: ast.Call | None
    output: Output
    model: ast.Call
    logits: bool


class Losses:
    """Repairs from_logits=True behind a softmax, and tells of logits that are taken as they are."""

    def __init__(self, script: KerasScript, outputs: Outputs, draft: Draft) -> None:
        self._script = script
        self._source = script.source
        self._outputs = outputs
        self._draft = draft
        self._readers = Readers(script)

    def plan(self) -> None:
        """Decide for each output with its losses."""
        losses = list(self._all())
        by_output: dict[Output, list[Loss]] = {}
        for loss in losses:
            by_output.setdefault(loss.output, []).append(loss)
        for output, given in by_output.items():
            ends = output.activation
            wrong = [loss for loss in given if loss.logits]
            if ends in _PROBABILITIES and wrong:
                self._repair(output, given, wrong, losses)
            elif ends == "linear" and any(self._wants_probabilities(one) for one in given):
                self._draft.note(
                    f"line {given[0].at.lineno}: this loss expects probabilities, but the model "
                    "ends without a softmax or sigmoid; it should have from_logits=True, in FP32 "
                    "as well"
                )

    def _repair(
        self, output: Output, given: list[Loss], wrong: list[Loss], losses: list[Loss]
    ) -> None:
        """Drop the activation where nobody needs it; else say that these are probabilities."""
        activation = output.activation
        reader = self._readers.of(wrong[0].model, activation)
        removable = self._removable(output)
        if reader is None and removable is not None and len(wrong) == len(given):
            layer, argument = removable
            self._draft.without_argument(layer, argument)
            self._draft.step(
                layer, f"{activation} removed from the output layer",
                f"the loss has from_logits=True and takes the {activation} itself; {_TWICE}. "
                "Nothing here reads probabilities, and logits are more exact. The model now gives "
                "logits, and its losses differ from the original's",
            )  # fmt: skip
            return
        for loss in wrong:
            keyword = None if loss.call is None else self._script.keyword(loss.call, "from_logits")
            shared = [o for o in losses if o.call is loss.call and o.output is not output]
            if keyword is None or not isinstance(keyword.value, ast.Constant) or any(
                o.output.activation not in _PROBABILITIES for o in shared
            ):  # fmt: skip
                raise self._script.refuse(
                    loss.at, f"this loss takes logits, but the model ends with {activation}, so "
                    "that it is taken twice",
                    f"drop the {activation}, or give the loss from_logits=False",
                )  # fmt: skip
            self._draft.replace(keyword.value, "False")
            where = f", which line {reader.lineno} reads" if reader is not None else ""
            self._draft.step(
                loss.at, "from_logits=False",
                f"the model ends with {activation} and gives probabilities{where}, and with "
                f"from_logits=True the loss takes the {activation} once more; {_TWICE}. The "
                "losses differ from the original's",
            )  # fmt: skip

    def _removable(self, output: Output) -> tuple[ast.Call, ast.expr | ast.keyword] | None:
        """The layer with the activation and its argument, where only that has to go."""
        ends = [end for end in output.ends if not end.passive]
        if len(ends) != 1 or ends[0].kind != "layer" or not isinstance(ends[0].node, ast.Call):
            return None
        layer = ends[0].node
        name = self._script.layer(layer)
        given = self._outputs.activation_of(layer)
        if given is None or name in ("Activation", "TimeDistributed", "Bidirectional", ""):
            return None
        if not (isinstance(given, ast.Constant) or self._source.names.of(given)):
            return None
        keyword = self._script.keyword(layer, "activation")
        if keyword is None and len(layer.args) > 2:
            return None  # the arguments behind it would move up
        return layer, keyword or given

    def _wants_probabilities(self, loss: Loss) -> bool:
        if loss.logits:
            return False
        if isinstance(loss.at, ast.Constant):
            return loss.at.value in _FUNCTIONS
        return loss.call is not None and self._script.keyword(loss.call, "from_logits") is None

    # All losses and their outputs.

    def _all(self) -> Iterator[Loss]:
        for call in self._source.names.methods("compile"):
            assert isinstance(call.func, ast.Attribute)
            loss = self._script.given(call, "loss", 1)
            for model in self._script.models_of(call.func.value) if loss is not None else ():
                assert loss is not None
                yield from self._compiled(loss, model)
        for call in self._source.nodes(ast.Call):
            yield from self._called(call)

    def _compiled(self, loss: ast.expr, model: ast.Call) -> Iterator[Loss]:
        outputs = self._outputs.of(model)
        for value in self._source.values.of(loss):
            if isinstance(value, ast.Dict):
                for key, entry in zip(value.keys, value.values, strict=True):
                    name = key.value if isinstance(key, ast.Constant) else None
                    for output in outputs:
                        if output.name == name:
                            yield from self._of(entry, output, model)
            elif isinstance(value, ast.List | ast.Tuple):
                for entry, output in zip(value.elts, outputs, strict=False):
                    yield from self._of(entry, output, model)
            else:
                for output in outputs:
                    yield from self._of(value, output, model)

    def _of(self, loss: ast.expr, output: Output, model: ast.Call) -> Iterator[Loss]:
        for value in self._source.values.of(loss):
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield Loss(value, None, output, model, False)
            elif isinstance(value, ast.Call) and self._is_class(value):
                yield Loss(value, value, output, model, self._takes_logits(value))
            elif isinstance(value, ast.Lambda):
                body = value.body
                if isinstance(body, ast.Call) and self._is_function(body):
                    yield Loss(body, body, output, model, self._takes_logits(body))
            else:
                defined = self._source.values.definition(value)
                if isinstance(defined, ast.FunctionDef):
                    for returned in self._source.values.returned(defined):
                        if isinstance(returned, ast.Call) and self._is_function(returned):
                            logits = self._takes_logits(returned)
                            yield Loss(returned, returned, output, model, logits)

    def _called(self, call: ast.Call) -> Iterator[Loss]:
        """`loss_fn(y, model(x))` in a loop by hand."""
        made: ast.Call | None = None
        predicted = self._script.given(call, "y_pred", 1)
        if self._is_function(call):
            made = call
            if self._source.names.is_one(call.func, *_LOGITS_ONLY):
                predicted = self._script.given(call, "logits", 1)
        else:
            makers = [v for v in self._script.made(call.func) if self._is_class(v)]
            made = makers[0] if len(makers) == 1 else None
        if made is None or predicted is None:
            return
        for value in self._script.made(predicted):
            for model in self._models_called(value):
                outputs = self._outputs.of(model)
                if len(outputs) == 1:
                    yield Loss(made, made, outputs[0], model, self._takes_logits(made))

    def _models_called(self, call: ast.Call) -> list[ast.Call]:
        models = self._script.models_of(call.func)
        if models or not isinstance(call.func, ast.Name) or call.func.id != "self":
            return models
        owner = self._source.class_of(call)  # self(x) in a train_step
        return [m for m in self._script.roots if self._script.own(m) is owner]

    def _takes_logits(self, call: ast.Call) -> bool:
        if self._source.names.is_one(call.func, *_LOGITS_ONLY):
            return True
        keyword = self._script.keyword(call, "from_logits")
        return keyword is not None and self._source.values.constants(keyword.value) == {True}

    def _is_class(self, call: ast.Call) -> bool:
        return self._source.names.is_one(call.func, *(f"keras.losses.{name}" for name in _CLASSES))

    def _is_function(self, call: ast.Call) -> bool:
        names = [f"{at}.{name}" for name in _FUNCTIONS for at in (
            "keras.losses", "keras.backend", "keras.metrics", "keras.ops")]  # fmt: skip
        return self._source.names.is_one(call.func, *names, *_LOGITS_ONLY)
