"""AMP507: the graph rewrite of TensorFlow 1, and loss scaling as Keras 2 had it."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Edit, Finding
from ampconvert.lint.rule import Case, Judged, Rule
from ampconvert.lint.source import Source

_REWRITE = "enable_mixed_precision_graph_rewrite"
_GONE = (f"tensorflow.train.experimental.{_REWRITE}", f"tensorflow.mixed_precision.{_REWRITE}")
_OLD = (
    f"tensorflow.compat.v1.train.experimental.{_REWRITE}",
    f"tensorflow.compat.v1.mixed_precision.{_REWRITE}",
)
# What only scripts for TensorFlow 1 use: there the rewrite is right.
_VERSION_1 = tuple(f"tensorflow.{name}" for name in (
    "ConfigProto", "Session", "contrib.*", "app.run", "flags.*", "placeholder", "get_variable",
    "logging.*", "train.get_or_create_global_step", "train.Saver", "variable_scope", "layers.*",
))  # fmt: skip
_SCALE, _UNSCALE = "get_scaled_loss", "get_unscaled_gradients"


class KerasLossScaleMethods(Rule):
    """Mixed precision as TensorFlow 1 and Keras 2 had it: a graph rewrite, and two methods.

    - `tf.train.experimental.enable_mixed_precision_graph_rewrite` is gone. What is left in
      `tf.compat.v1` rewrites graphs behind the back of Keras and its policies, and is deprecated.
    - `optimizer.get_scaled_loss(loss)` and `get_unscaled_gradients(gradients)` are gone from the
      LossScaleOptimizer of Keras 3, the `tf.keras` of TensorFlow 2.16 and newer. There
      `scale_loss(loss)` is one half, and `apply_gradients` does the other itself: gradients that
      are divided twice are 32768 times too small.

    A file that has the new method too, imports `tf_keras`, which stays Keras 2, or uses what only
    TensorFlow 1 has, is left alone.

    Sources: https://www.tensorflow.org/api_docs/python/tf/keras/mixed_precision/LossScaleOptimizer
    and https://www.tensorflow.org/guide/mixed_precision
    """

    CODE = "AMP507"
    NAME = "keras-loss-scale-methods"
    ADVICE = "Set a policy, and take the gradients of optimizer.scale_loss(loss)."
    FIX = "unsafe"
    FIX_SAFETY = (
        "Right for Keras 3 only: Keras 2 has no scale_loss, and doesn't divide itself. Made only "
        "where a function scales, unscales and applies with one optimizer, and nothing clips."
    )
    WORDS = ((_REWRITE.encode(), _SCALE.encode(), _UNSCALE.encode()), (b"tensorflow", b"keras"))
    JUDGED = Judged(true=25, read=25)
    VALID = (
        Case("""\
import keras

optimizer = keras.mixed_precision.LossScaleOptimizer(keras.optimizers.SGD(0.1))
print(optimizer.scale_loss(1.0))
"""),
        Case("""\
import tensorflow as tf


def scaled(optimizer, loss):
    if hasattr(optimizer, "scale_loss"):
        return optimizer.scale_loss(loss)
    return optimizer.get_scaled_loss(loss)


print(tf.__version__)
"""),
        Case("""\
import tf_keras

optimizer = tf_keras.mixed_precision.LossScaleOptimizer(tf_keras.optimizers.SGD(0.1))
print(optimizer.get_scaled_loss(1.0))
"""),
        Case("""\
import tensorflow as tf

optimizer = tf.train.AdamOptimizer(0.1)
optimizer = tf.train.experimental.enable_mixed_precision_graph_rewrite(optimizer)
session = tf.Session(config=tf.ConfigProto(allow_soft_placement=True))
"""),
        Case("""\
import torch

print(torch.nn.Module().get_scaled_loss(1.0), "keras")
"""),
    )
    INVALID = (
        Case(
            """\
import tensorflow as tf


def step(model, optimizer, x):
    with tf.GradientTape() as tape:
        loss = model(x)
        scaled = optimizer.get_scaled_loss(loss)  # AMP507
    gradients = tape.gradient(scaled, model.trainable_variables)
    gradients = optimizer.get_unscaled_gradients(gradients)  # AMP507
    optimizer.apply_gradients(zip(gradients, model.trainable_variables))
""",
            """\
import tensorflow as tf


def step(model, optimizer, x):
    with tf.GradientTape() as tape:
        loss = model(x)
        scaled = optimizer.scale_loss(loss)  # AMP507
    gradients = tape.gradient(scaled, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables))
""",
        ),
        Case(
            """\
from tensorflow import GradientTape, keras


class Model(keras.Model):
    def train_step(self, data):
        with GradientTape() as tape:
            loss = self.optimizer.get_scaled_loss(self(data))  # AMP507
        variables = self.trainable_variables
        gradients = self.optimizer.get_unscaled_gradients(  # AMP507
            tape.gradient(loss, variables)
        )
        self.optimizer.apply_gradients(zip(gradients, variables))
""",
            """\
from tensorflow import GradientTape, keras


class Model(keras.Model):
    def train_step(self, data):
        with GradientTape() as tape:
            loss = self.optimizer.scale_loss(self(data))  # AMP507
        variables = self.trainable_variables
        gradients = tape.gradient(loss, variables)
        self.optimizer.apply_gradients(zip(gradients, variables))
""",
        ),
        Case("""\
import tensorflow as tf
import tensorflow.compat.v1 as tf1

optimizer = tf.keras.optimizers.SGD(0.1)
optimizer = tf.train.experimental.enable_mixed_precision_graph_rewrite(optimizer)  # AMP507
other = tf1.train.GradientDescentOptimizer(0.1)
other = tf1.mixed_precision.enable_mixed_precision_graph_rewrite(other)  # AMP507
"""),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Calls of the rewrite, and of the two methods."""
        gone = source.names.calls(*_GONE)
        for call in gone if not _is_version_1(source) else ():
            yield self.finding(source, call, f"TensorFlow 2 has no {_REWRITE}", severity="error")
        for call in source.names.calls(*_OLD):
            yield self.finding(source, call, f"{_REWRITE} is deprecated, and knows no policy")
        if not source.names.imports("tensorflow", "tensorflow.*", "keras", "keras.*"):
            return
        if _is_keras_2(source) or source.names.methods("scale_loss"):
            return
        calls = source.names.methods(_SCALE, _UNSCALE)
        edits = [edit for call in calls for edit in _edits(source, call)]
        complete = bool(calls) and _is_complete(source, calls)
        for call in calls:
            assert isinstance(call.func, ast.Attribute)
            fix = self.fix("scale as Keras 3 does", edits, safe=False) if complete else None
            yield self.finding(source, call, f"Keras 3 has no {call.func.attr}", fix)


def _is_complete(source: Source, calls: list[ast.Call]) -> bool:
    """Whether each function scales, unscales and applies with the same optimizers, and no more."""
    methods = [*calls, *source.names.methods("apply_gradients")]
    used: dict[ast.AST | None, dict[str, set[str]]] = {}
    for call in methods:
        assert isinstance(call.func, ast.Attribute)
        by_method = used.setdefault(source.function(call), {})
        by_method.setdefault(call.func.attr, set()).add(source.segment(call.func.value))
    clips = any(node.attr.startswith("clip_by") for node in source.nodes(ast.Attribute))
    single = all(len(call.args) == 1 and not call.keywords for call in calls)
    return not clips and single and all(
        by_method.keys() <= {"apply_gradients"} or (
            len(by_method) == 3 and len({frozenset(names) for names in by_method.values()}) == 1
        )
        for by_method in used.values()
    )  # fmt: skip


def _edits(source: Source, call: ast.Call) -> list[Edit]:
    assert isinstance(call.func, ast.Attribute)
    if len(call.args) != 1:
        return []
    if call.func.attr == _SCALE:
        receiver = source.segment(call.func.value)
        return [source.edits.replace(call.func, f"{receiver}.scale_loss")]
    above, given = source.parents[call], call.args[0]
    bound = above.targets[0] if isinstance(above, ast.Assign) else None
    if isinstance(bound, ast.Name) and isinstance(given, ast.Name) and bound.id == given.id:
        return [source.edits.delete(source.statement(call))]  # gradients = gradients
    return [*source.edits.unwrapped(call, given)]


def _is_version_1(source: Source) -> bool:
    return any(
        source.names.is_one(node, *_VERSION_1)
        for node in source.nodes(ast.Attribute)
        if node.attr != "keras"
    )


def _is_keras_2(source: Source) -> bool:
    return any(
        name.partition(".")[0] in ("tf_keras", "keras_core")
        for statement in source.nodes(ast.Import, ast.ImportFrom)
        for name in (
            [statement.module or ""] if isinstance(statement, ast.ImportFrom)
            else [alias.name for alias in statement.names]
        )
    )  # fmt: skip
