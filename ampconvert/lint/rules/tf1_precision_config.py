"""AMP502: a session's configuration that is meant to turn on float16."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Edit, Finding, Fix
from ampconvert.lint import keras_models
from ampconvert.lint.rule import Case, Rule
from ampconvert.lint.source import Source

_CONFIGS = ("tensorflow.ConfigProto", "tensorflow.compat.v1.ConfigProto")
_SESSIONS = ("keras.backend.get_session",)


class Tf1PrecisionConfig(Rule):
    """`ConfigProto(floatx="float16")` and `get_session(config=...)` never turned on float16.

    ConfigProto has no field floatx: a ValueError. `tf.ConfigProto` itself is gone from TensorFlow
    2, `keras.backend.get_session` from Keras 3, and in Keras 2 it took no `config`. What chooses
    the type is a policy, set before any layer is made.

    A ConfigProto for memory growth or device placement is not meant.

    Source: https://www.tensorflow.org/guide/mixed_precision
    """

    CODE = "AMP502"
    NAME = "tf1-precision-config"
    SEVERITY = "error"
    ADVICE = (
        'Call keras.mixed_precision.set_global_policy("mixed_float16") before any layer is made.'
    )
    FIX = "unsafe"
    FIX_SAFETY = "What raised an error becomes a script that trains in mixed precision."
    WORDS = ((b"ConfigProto", b"get_session"),)
    VALID = (
        Case("""\
import tensorflow as tf

config = tf.compat.v1.ConfigProto(allow_soft_placement=True)
session = tf.compat.v1.Session(config=config)
"""),
        Case("""\
from tensorflow.keras import backend as K

session = K.get_session()
"""),
        Case("""\
from mylib import backend as K

K.get_session(config=None)
"""),
    )
    INVALID = (
        Case(
            """\
import tensorflow as tf

model = tf.keras.Sequential([tf.keras.layers.Dense(1)])
tf.keras.backend.get_session(config=tf.ConfigProto(floatx="float16"))  # AMP502
model.compile("adam", "mse")
""",
            """\
import tensorflow as tf

tf.keras.mixed_precision.set_global_policy("mixed_float16")
model = tf.keras.Sequential([tf.keras.layers.Dense(1)])
model.compile("adam", "mse")
""",
        ),
        Case(
            """\
import tensorflow as tf
from tensorflow import keras
from tensorflow.keras import backend as K

K.set_session(tf.Session(config=tf.ConfigProto(floatx="float16")))  # AMP502
model = keras.Sequential([keras.layers.Dense(1)])
""",
            """\
import tensorflow as tf
from tensorflow import keras
from tensorflow.keras import backend as K

keras.mixed_precision.set_global_policy("mixed_float16")  # AMP502
model = keras.Sequential([keras.layers.Dense(1)])
""",
        ),
        Case("""\
import tensorflow.compat.v1 as tf

config = tf.ConfigProto(floatx="float16")  # AMP502
session = tf.Session(config=config)
"""),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Configurations with floatx, and sessions fetched with a configuration."""
        done: set[ast.stmt] = set()
        wrong = [
            (call, keyword, "ConfigProto has no field floatx")
            for call in source.names.calls(*_CONFIGS)
            for keyword in call.keywords if keyword.arg == "floatx"
        ] + [
            (call, keyword, "get_session takes no config")
            for call in source.names.calls(*_SESSIONS)
            for keyword in call.keywords if keyword.arg == "config"
        ]  # fmt: skip
        for call, _, message in wrong:
            statement = source.statement(call)
            if statement not in done:
                done.add(statement)
                yield self.finding(source, call, message, self._policy(source, statement))

    def _policy(self, source: Source, statement: ast.stmt) -> Fix | None:
        """The policy instead of the statement, but before the first layer is made."""
        if not isinstance(statement, ast.Expr):
            return None
        text, imports = keras_models.spelled(
            source, "keras.mixed_precision.set_global_policy", statement
        )
        line = f'{text}("mixed_float16")'
        block = source.block(statement)
        earlier = [s for s in block[: block.index(statement)] if _makes_layers(source, s)]
        edits: list[Edit | None] = [*imports]
        if earlier:
            edits += [source.edits.line_before(earlier[0], line), source.edits.delete(statement)]
        else:
            edits.append(source.edits.replace(statement, line))
        return self.fix("set a policy", edits, safe=False)


def _makes_layers(source: Source, statement: ast.stmt) -> bool:
    prefixes = ("keras.layers.", "keras.models.", "keras.applications.", "keras.Sequential")
    return any(
        source.names.of(node.func).startswith(prefixes)
        for node in source.walk(statement)
        if isinstance(node, ast.Call)
    )
