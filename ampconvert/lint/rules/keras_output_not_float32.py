"""AMP503: a model whose output is in 16 bits under a mixed policy."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding
from ampconvert.lint import keras_models
from ampconvert.lint.rule import Case, Judged, Rule
from ampconvert.lint.source import Source

_LAYERS = frozenset({
    "Activation", "Conv1D", "Conv2D", "Conv2DTranspose", "Conv3D", "Dense", "Softmax",
})  # fmt: skip


class KerasOutputNotFloat32(Rule):
    """The last layer of a model under a mixed policy computes in 16 bits.

    The loss starts from what this layer gives. Just below 1 float16 has steps of 0.0005: a softmax
    of 0.9998 becomes 1, and its cross-entropy 0. What is below 3e-8 becomes 0. bfloat16 has steps
    of 0.004 there.

    Found for models that are made and compiled in the same file, where the policy is set, if the
    last layer is Dense, a convolution, Activation or Softmax and has no `dtype`. Not found for
    subclasses of Model, whose last layer shows only when they run.

    Source: https://www.tensorflow.org/guide/mixed_precision
    """

    CODE = "AMP503"
    NAME = "keras-output-not-float32"
    ADVICE = 'Give the last layer dtype="float32".'
    FIX = "unsafe"
    FIX_SAFETY = "The last layer computes in float32, and the model gives float32."
    WORDS = ((b"mixed_",), (b"compile",), (b"keras",))
    JUDGED = Judged(true=1, read=1)
    VALID = (
        Case("""\
from tensorflow import keras
from tensorflow.keras import layers

keras.mixed_precision.set_global_policy("mixed_float16")
model = keras.Sequential([
    layers.Dense(64, activation="relu"),
    layers.Dense(10),
    layers.Activation("softmax", dtype="float32"),
])
model.compile("adam", "sparse_categorical_crossentropy")
"""),
        Case("""\
from tensorflow import keras
from tensorflow.keras import layers

model = keras.Sequential([layers.Dense(10, activation="softmax")])
model.compile("adam", "sparse_categorical_crossentropy")
"""),
        Case("""\
import keras

keras.mixed_precision.set_global_policy("mixed_float16")
encoder = keras.Sequential([keras.layers.Dense(8, activation="relu")])
inputs = keras.Input((4,))
outputs = keras.layers.Dense(2, dtype="float32")(encoder(inputs))
model = keras.Model(inputs, outputs)
model.compile("adam", "mse")
"""),
        Case("""\
import keras


def build(low):
    keras.config.set_dtype_policy("mixed_float16" if low else "float32")
    return keras.Sequential([keras.layers.Dense(2), keras.layers.Reshape((1, 2))])


build(False).compile("adam", "mse")
"""),
    )
    INVALID = (
        Case(
            """\
import tensorflow as tf

tf.keras.mixed_precision.set_global_policy("mixed_float16")
model = tf.keras.models.Sequential([
    tf.keras.layers.Dense(64, activation="relu"),
    tf.keras.layers.Dense(10, activation="softmax"),  # AMP503
])
model.compile(optimizer="adam", loss="sparse_categorical_crossentropy")
""",
            """\
import tensorflow as tf

tf.keras.mixed_precision.set_global_policy("mixed_float16")
model = tf.keras.models.Sequential([
    tf.keras.layers.Dense(64, activation="relu"),
    tf.keras.layers.Dense(10, activation="softmax", dtype="float32"),  # AMP503
])
model.compile(optimizer="adam", loss="sparse_categorical_crossentropy")
""",
        ),
        Case(
            """\
from tensorflow.keras import Input, Model, layers, mixed_precision

policy = mixed_precision.Policy("mixed_bfloat16")
mixed_precision.set_global_policy(policy)


def build(classes):
    inputs = Input((8,))
    x = layers.Dense(16, activation="relu")(inputs)
    x = layers.Dense(classes)(x)  # AMP503
    return Model(inputs=inputs, outputs=x)


model = build(3)
model.compile("adam", "mse")
""",
            """\
from tensorflow.keras import Input, Model, layers, mixed_precision

policy = mixed_precision.Policy("mixed_bfloat16")
mixed_precision.set_global_policy(policy)


def build(classes):
    inputs = Input((8,))
    x = layers.Dense(16, activation="relu")(inputs)
    x = layers.Dense(classes, dtype="float32")(x)  # AMP503
    return Model(inputs=inputs, outputs=x)


model = build(3)
model.compile("adam", "mse")
""",
        ),
        Case(
            """\
import keras as k
from keras.layers import Dense as D

k.config.set_dtype_policy("mixed_float16")


class Run:
    def __init__(self):
        self.model = k.Sequential()
        self.model.add(D(8))
        self.model.add(D(1, activation="sigmoid"))  # AMP503
        self.model.compile("sgd", "binary_crossentropy")
""",
            """\
import keras as k
from keras.layers import Dense as D

k.config.set_dtype_policy("mixed_float16")


class Run:
    def __init__(self):
        self.model = k.Sequential()
        self.model.add(D(8))
        self.model.add(D(1, activation="sigmoid", dtype="float32"))  # AMP503
        self.model.compile("sgd", "binary_crossentropy")
""",
        ),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Last layers of compiled models that have no type of their own."""
        low = {name for name in keras_models.policies(source) if name.startswith("mixed_")}
        if not low:
            return
        seen: set[ast.Call] = set()
        for model in keras_models.compiled(source):
            for layer in model.last:
                typed = any(keyword.arg in ("dtype", None) for keyword in layer.keywords)
                if typed or layer in seen or keras_models.layer(source, layer) not in _LAYERS:
                    continue
                seen.add(layer)
                kind = " and ".join(sorted(name.removeprefix("mixed_") for name in low))
                edit = source.edits.add_keyword(layer, 'dtype="float32"')
                yield self.finding(
                    source, layer, f"the model's output is computed in {kind}",
                    self.fix("compute it in float32", [edit], safe=False),
                )  # fmt: skip
