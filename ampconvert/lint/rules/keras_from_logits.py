"""AMP504: from_logits=True for a model that ends with a softmax."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding
from ampconvert.lint import keras_models
from ampconvert.lint.frameworks import makers
from ampconvert.lint.rule import Case, Rule
from ampconvert.lint.source import Source

# What a loss that takes logits does itself.
_LOSSES = {
    "keras.losses.SparseCategoricalCrossentropy": "softmax",
    "keras.losses.CategoricalCrossentropy": "softmax",
    "keras.losses.CategoricalFocalCrossentropy": "softmax",
    "keras.losses.BinaryCrossentropy": "sigmoid",
    "keras.losses.BinaryFocalCrossentropy": "sigmoid",
}
_FUNCTIONS = {
    "tensorflow.nn.softmax_cross_entropy_with_logits": "softmax",
    "tensorflow.nn.sparse_softmax_cross_entropy_with_logits": "softmax",
    "tensorflow.nn.sigmoid_cross_entropy_with_logits": "sigmoid",
    "tensorflow.compat.v1.nn.softmax_cross_entropy_with_logits": "softmax",
    "tensorflow.compat.v1.nn.softmax_cross_entropy_with_logits_v2": "softmax",
    "tensorflow.compat.v1.nn.sparse_softmax_cross_entropy_with_logits": "softmax",
    "tensorflow.compat.v1.nn.sigmoid_cross_entropy_with_logits": "sigmoid",
}
_ACTIVATIONS = {
    "softmax": ("tensorflow.nn.softmax", "keras.activations.softmax", "keras.ops.softmax"),
    "sigmoid": ("tensorflow.nn.sigmoid", "tensorflow.sigmoid", "keras.activations.sigmoid",
                "keras.ops.sigmoid"),
}  # fmt: skip


class KerasFromLogits(Rule):
    """The loss is told that it gets logits, but the model ends with a softmax or sigmoid.

    The activation is taken twice. Probabilities as logits differ by 1 at most: the softmax of a one
    and nine zeros is 0.23, so the cross-entropy of ten classes can't fall below 1.46. The backends
    for PyTorch and JAX say nothing. TensorFlow's warns, and takes what came before the activation
    where it sees that operation.

    Found for models that are made and compiled in the same file with one output, and for losses of
    `tf.nn` whose logits come straight from an activation.

    Source: https://keras.io/api/losses/probabilistic_losses/
    """

    CODE = "AMP504"
    NAME = "keras-from-logits"
    SEVERITY = "error"
    ADVICE = "Drop the activation, which is the more exact way, or drop from_logits=True."
    FIX = "unsafe"
    FIX_SAFETY = "The loss changes. What the model predicts stays a probability."
    WORDS = ((b"logits",), (b"softmax", b"sigmoid", b"Softmax"), (b"keras", b"tensorflow"))
    VALID = (
        Case("""\
import keras

model = keras.Sequential([keras.layers.Dense(10)])
model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
soft = keras.layers.Softmax()(model.output)
"""),
        Case("""\
import keras

model = keras.Sequential([keras.layers.Dense(10, activation="softmax")])
model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=False))
"""),
        Case("""\
import keras

model = keras.Sequential([keras.layers.Dense(10, activation="sigmoid")])
loss = keras.losses.CategoricalCrossentropy(from_logits=True)
model.compile("adam", loss)
"""),
        Case("""\
import tensorflow as tf


def loss(labels, logits):
    probabilities = tf.nn.softmax(logits)
    tf.print(probabilities)
    return tf.nn.softmax_cross_entropy_with_logits(labels=labels, logits=logits)
"""),
    )
    INVALID = (
        Case(
            """\
import tensorflow as tf

model = tf.keras.models.Sequential([
    tf.keras.layers.Flatten(),
    tf.keras.layers.Dense(10, activation="softmax"),
])
loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)  # AMP504
model.compile(optimizer="adam", loss=loss)
""",
            """\
import tensorflow as tf

model = tf.keras.models.Sequential([
    tf.keras.layers.Flatten(),
    tf.keras.layers.Dense(10, activation="softmax"),
])
loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=False)  # AMP504
model.compile(optimizer="adam", loss=loss)
""",
        ),
        Case(
            """\
from keras import Input, Model
from keras.layers import Activation, Dense
from keras.losses import BinaryCrossentropy as Loss


def build():
    inputs = Input((4,))
    x = Dense(1)(inputs)
    return Model(inputs, Activation("sigmoid")(x))


class Run:
    def __init__(self):
        self.model = build()
        self.model.compile("adam", loss=Loss(from_logits=True))  # AMP504
""",
            """\
from keras import Input, Model
from keras.layers import Activation, Dense
from keras.losses import BinaryCrossentropy as Loss


def build():
    inputs = Input((4,))
    x = Dense(1)(inputs)
    return Model(inputs, Activation("sigmoid")(x))


class Run:
    def __init__(self):
        self.model = build()
        self.model.compile("adam", loss=Loss(from_logits=False))  # AMP504
""",
        ),
        Case("""\
import tensorflow as tf


def loss(labels, x):
    y = tf.nn.softmax(x)
    return tf.nn.softmax_cross_entropy_with_logits(labels=labels, logits=y)  # AMP504
"""),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Losses for logits that get probabilities."""
        seen: set[ast.keyword] = set()
        for model in keras_models.compiled(source):
            loss = model.argument("loss")
            if loss is None or model.outputs != 1:
                continue
            ends = {keras_models.activation(source, layer) for layer in model.last}
            for made in makers(source, loss, *_LOSSES):
                wanted = {_LOSSES[name] for name in source.names.all_of(made.func) & {*_LOSSES}}
                for keyword in made.keywords:
                    told = keyword.arg == "from_logits"
                    if not told or source.values.constants(keyword.value) != {True}:
                        continue
                    if ends == wanted and keyword not in seen:
                        seen.add(keyword)
                        yield self._found(source, keyword, ends.pop())
                        break
        for call in source.names.calls(*_FUNCTIONS):
            done = _FUNCTIONS[min(source.names.all_of(call.func) & {*_FUNCTIONS})]
            given = next((k.value for k in call.keywords if k.arg == "logits"), None)
            if given is None and len(call.args) > 1:
                given = call.args[1]
            if given is not None and _comes_from(source, given, _ACTIVATIONS[done]):
                yield self.finding(source, call, f"the logits have been through {done} already")

    def _found(self, source: Source, keyword: ast.keyword, end: str) -> Finding:
        fix = None
        if isinstance(keyword.value, ast.Constant):
            edit = source.edits.replace(keyword.value, "False")
            fix = self.fix("take probabilities", [edit], safe=False)
        message = f"from_logits=True, but the model ends with {end}"
        return self.finding(source, keyword, message, fix)


def _comes_from(source: Source, value: ast.expr, functions: tuple[str, ...]) -> bool:
    values = source.values.of(value)
    return all(
        isinstance(one, ast.Call) and source.names.is_one(one.func, *functions) for one in values
    )
