"""Who reads what a Keras model gives, and whether it must be probabilities."""

from __future__ import annotations

import ast

from ampconvert.lint.rewrite.keras_script import KerasScript

_PREDICT = ("predict", "predict_on_batch")
_SAVED = ("save", "export", "to_json", "get_config")
_SAVERS = ("keras.models.save_model", "keras.saving.save_model", "tensorflow.saved_model.save",
           "tensorflow.lite.TFLiteConverter.from_keras_model",
           "keras.callbacks.ModelCheckpoint")  # fmt: skip
# What gives the same for logits as for the probabilities that a softmax makes of them.
_ORDER = frozenset({"argmax", "argsort", "top_k", "in_top_k", "len", "shape"})
_METRICS = frozenset({
    "accuracy", "acc", "sparse_categorical_accuracy", "categorical_accuracy",
    "sparse_top_k_categorical_accuracy", "top_k_categorical_accuracy", "SparseCategoricalAccuracy",
    "CategoricalAccuracy", "SparseTopKCategoricalAccuracy", "TopKCategoricalAccuracy", "Mean",
})  # fmt: skip


class Readers:
    """Looks for readers of probabilities."""

    def __init__(self, script: KerasScript) -> None:
        self._script = script
        self._source = script.source

    def of(self, model: ast.Call, activation: str) -> ast.expr | None:
        """The first place that needs the probabilities of `model`, or None: metrics with a
        threshold, predictions of which more than the order is read, and saved models.
        """
        found = [*self._metrics(model, activation), *self._saved(model), *self._read(model)]
        return min(found, key=lambda node: (node.lineno, node.col_offset), default=None)

    def _metrics(self, model: ast.Call, activation: str) -> list[ast.expr]:
        found: list[ast.expr] = []
        for call in self._source.names.methods("compile"):
            assert isinstance(call.func, ast.Attribute)
            if model not in self._source.values.of(call.func.value):
                continue
            for name in ("metrics", "weighted_metrics"):
                given = self._script.given(call, name, 2 if name == "metrics" else len(call.args))
                metrics = _leaves(given) if given is not None else []
                found += [m for m in metrics if activation != "softmax" or not self._is_of_order(m)]
        return found

    def _is_of_order(self, metric: ast.expr) -> bool:
        """Whether a metric asks only which class comes first."""
        return all(
            (isinstance(value, ast.Constant) and value.value in _METRICS)
            or self._source.names.of(value.func if isinstance(value, ast.Call) else value)
            .rpartition(".")[2] in _METRICS
            for value in self._source.values.of(metric)
        )  # fmt: skip

    def _saved(self, model: ast.Call) -> list[ast.expr]:
        found: list[ast.expr] = []
        for call in self._source.names.methods(*_SAVED):
            assert isinstance(call.func, ast.Attribute)
            if model in self._source.values.of(call.func.value):
                found.append(call)
        for call in self._source.names.calls(*_SAVERS):
            only = self._script.keyword(call, "save_weights_only")
            is_checkpoint = self._source.names.is_one(call.func, "keras.callbacks.ModelCheckpoint")
            weights = only is not None and self._source.values.constants(only.value) == {True}
            given = call.args and model in self._source.values.of(call.args[0])
            if given or (is_checkpoint and not weights):
                found.append(call)
        return found

    def _read(self, model: ast.Call) -> list[ast.expr]:
        """Predictions, and calls of the model, of which numbers are read."""
        found: list[ast.expr] = []
        for call in self._source.nodes(ast.Call):
            function = call.func
            if isinstance(function, ast.Attribute) and function.attr in _PREDICT:
                function = function.value
            named = isinstance(function, ast.Name | ast.Attribute)
            is_model = named and model in self._source.values.of(function)
            if is_model and not self._order_only(call):
                found.append(call)
        for node in self._source.nodes(ast.Attribute):
            above = self._source.parents[node]
            called = isinstance(above, ast.Call) and above.func is node
            if node.attr not in _PREDICT or called:
                continue
            if model in self._source.values.of(node.value):
                found.append(node)  # explain(model.predict)
        return found

    def _order_only(self, given: ast.expr) -> bool:
        """Whether all that reads `given` asks for an order, computes a loss or a metric."""
        above = self._source.parents[given]
        if isinstance(above, ast.keyword):
            above = self._source.parents[above]
        if isinstance(above, ast.Expr):
            return True
        if isinstance(above, ast.Subscript):
            return self._order_only(above)  # predictions[0]
        if isinstance(above, ast.Attribute):
            return above.attr in _ORDER
        if isinstance(above, ast.Call) and given is not above.func:
            return self._takes_logits(above)
        if isinstance(above, ast.Assign) and len(above.targets) == 1:
            target = above.targets[0]
            if isinstance(target, ast.Name):
                return all(self._order_only(name) for name in self._script.loads(target))
        return False

    def _takes_logits(self, call: ast.Call) -> bool:
        """Whether a function that gets predictions is as content with logits."""
        function = call.func
        names = self._source.names.all_of(function)
        last = {name.rpartition(".")[2] for name in names}
        if isinstance(function, ast.Attribute):
            last.add(function.attr)
        if last & _ORDER or last & {"softmax", "update_state"}:
            return not last & {"update_state"} or self._updates_order(function)
        if any(n.startswith(("keras.losses.", "tensorflow.nn.")) for n in names):
            return True
        return any(
            self._source.names.of(made.func).startswith("keras.losses.")
            or self._source.names.of(made.func).rpartition(".")[2] in _METRICS
            or self._source.names.of(made.func).rpartition(".")[2] == "Softmax"
            for made in self._script.made(function)
        )

    def _updates_order(self, function: ast.expr) -> bool:
        """`metric.update_state(y, predictions)` of a metric that asks for the order."""
        return isinstance(function, ast.Attribute) and self._is_of_order(function.value)


def _leaves(metrics: ast.expr) -> list[ast.expr]:
    """The single metrics of lists and dicts of them."""
    if isinstance(metrics, ast.List | ast.Tuple):
        return [leaf for item in metrics.elts for leaf in _leaves(item)]
    if isinstance(metrics, ast.Dict):
        return [leaf for item in metrics.values for leaf in _leaves(item)]
    return [metrics]
