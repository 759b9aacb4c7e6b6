"""AMP501: float16 as Keras's default type in training."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding, Fix
from ampconvert.lint import keras_models
from ampconvert.lint.rule import Case, Rule
from ampconvert.lint.source import Source

_SET = ("keras.backend.set_floatx", "keras.config.set_floatx")
_TRAINS = ("compile", "fit", "fit_generator", "train_on_batch", "apply_gradients")


class KerasFloatxHalf(Rule):
    """`set_floatx("float16")` trains with weights, optimizer and loss in float16.

    A gradient of 1e-4 has the square 1e-8, which is 0 in float16: the first step of Adam at a
    learning rate of 0.001 is -0.032 then, and -0.001 in float32. A softmax that is 0 makes the loss
    NaN. Mixed precision keeps variables, optimizer and loss in float32.

    Found only in files that also compile or train a model: for inference the default type may
    well be float16. A function that sets the type back afterwards is left alone.

    Source: https://www.tensorflow.org/api_docs/python/tf/keras/backend/set_floatx
    """

    CODE = "AMP501"
    NAME = "keras-floatx-half"
    SEVERITY = "error"
    ADVICE = (
        'Call keras.mixed_precision.set_global_policy("mixed_float16") before any layer is made.'
    )
    FIX = "unsafe"
    FIX_SAFETY = "The results change: variables become float32."
    WORDS = ((b"set_floatx",), (b"float16",))
    VALID = (
        Case("""\
import keras

keras.backend.set_floatx("float64")
model = keras.Sequential([keras.layers.Dense(1)])
model.compile("adam", "mse")
"""),
        Case("""\
from tensorflow.keras import backend as K
from tensorflow.keras.models import load_model

K.set_floatx("float16")
model = load_model("model.keras")
print(model.predict([1.0]))
"""),
        Case("""\
import keras


def test_generate(model):
    before = keras.config.floatx()
    keras.config.set_floatx("float16")
    try:
        model.generate("a")
    finally:
        keras.config.set_floatx(before)


def test_fit(model):
    model.fit([1.0])
"""),
        Case("""\
import re

from mylib import backend as K

K.set_floatx("float16")
re.compile("a")
"""),
    )
    INVALID = (
        Case(
            """\
import tensorflow as tf

tf.keras.backend.set_floatx("float16")  # AMP501
model = tf.keras.Sequential([tf.keras.layers.Dense(1)])
model.compile("adam", "mse")
model.fit([[1.0]], [[1.0]])
""",
            """\
import tensorflow as tf

tf.keras.mixed_precision.set_global_policy("mixed_float16")  # AMP501
model = tf.keras.Sequential([tf.keras.layers.Dense(1)])
model.compile("adam", "mse")
model.fit([[1.0]], [[1.0]])
""",
        ),
        Case(
            """\
from keras import backend as K
from keras.layers import Dense
from keras.models import Sequential

DTYPE = "float16"
K.set_floatx(DTYPE)  # AMP501
K.set_epsilon(1e-4)


class Trainer:
    def __init__(self):
        self.model = Sequential([Dense(1)])

    def run(self, data):
        self.model.fit(data)
""",
            """\
import keras
from keras import backend as K
from keras.layers import Dense
from keras.models import Sequential

DTYPE = "float16"
keras.mixed_precision.set_global_policy("mixed_float16")  # AMP501
K.set_epsilon(1e-4)


class Trainer:
    def __init__(self):
        self.model = Sequential([Dense(1)])

    def run(self, data):
        self.model.fit(data)
""",
        ),
        Case(
            """\
from tensorflow.keras import backend, layers, models


def main(data):
    backend.set_floatx("float16")  # AMP501
    models.Sequential([layers.Dense(1)]).train_on_batch(data)
""",
            """\
from tensorflow import keras
from tensorflow.keras import backend, layers, models


def main(data):
    keras.mixed_precision.set_global_policy("mixed_float16")  # AMP501
    models.Sequential([layers.Dense(1)]).train_on_batch(data)
""",
        ),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """The calls that make float16 the default, in files that train."""
        calls = source.names.calls(*_SET)
        restored = {source.function(call) for call in calls if not _is_half(source, call)}
        for call in calls if _trains(source) else ():
            if _is_half(source, call) and source.function(call) not in restored:
                message = "training with float16 as the default type"
                yield self.finding(source, call, message, self._mixed(source, call))

    def _mixed(self, source: Source, call: ast.Call) -> Fix | None:
        text, imports = keras_models.spelled(
            source, "keras.mixed_precision.set_global_policy", call
        )
        edit = source.edits.replace(call, f'{text}("mixed_float16")')
        return self.fix("use mixed precision", [*imports, edit], safe=False)


def _is_half(source: Source, call: ast.Call) -> bool:
    given = [*call.args, *(k.value for k in call.keywords)]
    return len(given) == 1 and source.values.constants(given[0]) == {"float16"}


def _trains(source: Source) -> bool:
    """Whether a model is compiled or trained here; `re.compile` and its like are functions."""
    return any(not source.names.of(call.func) for call in source.names.methods(*_TRAINS))
