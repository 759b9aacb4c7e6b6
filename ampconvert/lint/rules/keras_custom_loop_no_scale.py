"""AMP505: a training step of one's own under mixed_float16 that doesn't scale the loss."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding
from ampconvert.lint import keras_models
from ampconvert.lint.frameworks import makers
from ampconvert.lint.rule import Case, Rule
from ampconvert.lint.source import Source

_MODELS = ("keras.Model", "keras.models.Model", "keras.Sequential", "keras.models.Sequential")
_SCALES = ("scale_loss", "get_scaled_loss", "scaled_loss")


class KerasCustomLoopNoScale(Rule):
    """A training step of one's own under "mixed_float16" takes the gradients of an unscaled loss.

    Gradients below 6e-8 are 0 in float16. `fit` scales the loss, a loop with GradientTape must do
    so itself. In a `train_step` it is worse: `compile` has wrapped the optimizer in a
    LossScaleOptimizer, and Keras 3 divides the gradients by its scale in any case, so that an SGD
    step is 32768 times too small.

    Found only if nothing in the file scales a loss, and the file sets the policy. "mixed_bfloat16"
    needs no scale.

    Sources: https://www.tensorflow.org/guide/mixed_precision
    and https://www.tensorflow.org/api_docs/python/tf/keras/mixed_precision/LossScaleOptimizer
    """

    CODE = "AMP505"
    NAME = "keras-custom-loop-no-scale"
    ADVICE = "Take the gradients of optimizer.scale_loss(loss), the optimizer a LossScaleOptimizer."
    WORDS = ((b"mixed_float16",), (b"GradientTape",))
    VALID = (
        Case("""\
import tensorflow as tf
from tensorflow import keras

keras.mixed_precision.set_global_policy("mixed_float16")
optimizer = keras.mixed_precision.LossScaleOptimizer(keras.optimizers.SGD(0.1))


def step(model, x, y):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(x) - y) ** 2)
        scaled = optimizer.scale_loss(loss)
    gradients = tape.gradient(scaled, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables))
"""),
        Case("""\
import tensorflow as tf
from tensorflow import keras

keras.mixed_precision.set_global_policy("mixed_bfloat16")
optimizer = keras.optimizers.SGD(0.1)


def step(model, x, y):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(x) - y) ** 2)
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables))
"""),
        Case("""\
import tensorflow as tf
from tensorflow import keras

keras.mixed_precision.set_global_policy("mixed_float16")


def saliency(model, image):
    with tf.GradientTape() as tape:
        tape.watch(image)
        score = model(image)
    return tape.gradient(score, image)
"""),
    )
    INVALID = (
        Case("""\
import tensorflow as tf
from tensorflow.keras import mixed_precision, optimizers

mixed_precision.set_global_policy("mixed_float16")
optimizer = optimizers.SGD(0.1)


def step(model, x, y):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(x) - y) ** 2)
    gradients = tape.gradient(loss, model.trainable_variables)  # AMP505
    optimizer.apply_gradients(zip(gradients, model.trainable_variables))
"""),
        Case("""\
import keras
import tensorflow as tf

keras.config.set_dtype_policy(keras.dtype_policies.DTypePolicy("mixed_float16"))


class Model(keras.Model):
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as t:
            loss = self.compute_loss(y=y, y_pred=self(x))
        variables = self.trainable_variables
        self.optimizer.apply(t.gradient(loss, variables), variables)  # AMP505
        return {"loss": loss}
"""),
        Case("""\
import tensorflow.compat.v2 as tf

tf.keras.mixed_precision.set_global_policy("mixed_float16")


class Trainer:
    def __init__(self, model):
        self.model = model
        self.optimizer = tf.keras.optimizers.Adam()

    def step(self, x):
        for _ in range(2):
            with tf.GradientTape(persistent=True) as tape:
                loss = self.model(x)
            grads = tape.gradient(loss, self.model.trainable_variables)  # AMP505
            self.optimizer.apply_gradients(zip(grads, self.model.trainable_variables))
"""),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Gradients of a tape, in functions that also apply gradients."""
        if "mixed_float16" not in keras_models.policies(source) or _scales_loss(source):
            return
        for call in source.names.methods("gradient"):
            function = source.function(call)
            if function is None or not call.args or not _is_tape(source, call):
                continue
            in_step = _is_train_step(source, function)
            if in_step or _applies(source, function):
                message = "the gradients are of a loss that is not scaled"
                yield self.finding(
                    source, call,
                    f"{message}, and divided by the scale" if in_step else message,
                    severity="error" if in_step else None,
                )  # fmt: skip


def _scales_loss(source: Source) -> bool:
    """Whether the file knows of scaling: a method for it, or a class of its own optimizer."""
    return any(node.attr in _SCALES for node in source.nodes(ast.Attribute))


def _is_tape(source: Source, call: ast.Call) -> bool:
    assert isinstance(call.func, ast.Attribute)
    tape = call.func.value
    if not isinstance(tape, ast.Name):
        return False
    names = ("tensorflow.GradientTape", "tensorflow.compat.v2.GradientTape",
             "tensorflow.compat.v1.GradientTape")  # fmt: skip
    return any(
        b.value is not None and bool(makers(source, b.value, *names))
        for b in source.scopes.bindings(tape)
    )


def _is_train_step(source: Source, function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    owner = source.class_of(function)
    by_hand = any(k.arg == "auto_scale_loss" for k in source.nodes(ast.keyword))
    return function.name == "train_step" and owner is not None and not by_hand and any(
        source.names.is_one(base, *_MODELS)
        for one in source.values.lineage(owner) for base in one.bases
    )  # fmt: skip


def _applies(source: Source, function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(
        isinstance(node, ast.Attribute) and node.attr == "apply_gradients"
        for node in source.walk(function, functions=True)
    )
