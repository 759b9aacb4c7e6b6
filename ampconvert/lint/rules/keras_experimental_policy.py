"""AMP506: keras.mixed_precision.experimental."""

from __future__ import annotations

import ast

from ampconvert.findings import Edit
from ampconvert.lint import keras_models
from ampconvert.lint.renames import Adapted, RenameRule
from ampconvert.lint.rule import Case, Judged
from ampconvert.lint.source import Source

_OLD = "keras.mixed_precision.experimental"
_NEW = "keras.mixed_precision"
_NAMES = {
    f"{_OLD}.set_policy": f"{_NEW}.set_global_policy",
    f"{_OLD}.global_policy": f"{_NEW}.global_policy",
    f"{_OLD}.Policy": f"{_NEW}.Policy",
    f"{_OLD}.LossScaleOptimizer": f"{_NEW}.LossScaleOptimizer",
}


class KerasExperimentalPolicy(RenameRule):
    """`keras.mixed_precision.experimental` was removed: its names raise an AttributeError.

    TensorFlow 2.4 took the API out of `experimental`, and renamed `set_policy` to
    `set_global_policy`. The old Policy had a loss scale, the new one has none: `compile` scales
    the loss under "mixed_float16".

    A Policy or LossScaleOptimizer that is given a loss scale other than "dynamic" is reported and
    not fixed, for the new ones take no such argument. Nothing is said of the branch that runs only
    where the new names are missing.

    Source: https://www.tensorflow.org/guide/mixed_precision
    """

    CODE = "AMP506"
    NAME = "keras-experimental-policy"
    SEVERITY = "error"
    ADVICE = "Use keras.mixed_precision.set_global_policy, Policy and LossScaleOptimizer."
    FIX = "safe"
    FIX_SAFETY = "The names do the same since TensorFlow 2.4, and the old ones raise an error."
    OLD = _NAMES
    NAMESPACES = (_OLD,)
    VERDICT = "was removed"
    WORDS = ((b"experimental",), (b"mixed_precision",))
    JUDGED = Judged(true=37, read=37)
    VALID = (
        Case("""\
from tensorflow.keras import mixed_precision

mixed_precision.set_global_policy("mixed_float16")
"""),
        Case("""\
import tensorflow as tf

try:
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
except AttributeError:
    tf.keras.mixed_precision.experimental.set_policy("mixed_float16")
"""),
        Case("""\
import tensorflow as tf
from packaging import version

if version.parse(tf.__version__) >= version.parse("2.4"):
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
else:
    policy = tf.keras.mixed_precision.experimental.Policy("mixed_float16")
    tf.keras.mixed_precision.experimental.set_policy(policy)
"""),
        Case("""\
import tensorflow as tf

tf.config.experimental.set_memory_growth(None, True)
print(tf.keras.mixed_precision.global_policy())
"""),
    )
    INVALID = (
        Case(
            """\
import tensorflow as tf

policy = tf.keras.mixed_precision.experimental.Policy("mixed_float16")  # AMP506
tf.keras.mixed_precision.experimental.set_policy(policy)  # AMP506
""",
            """\
import tensorflow as tf

policy = tf.keras.mixed_precision.Policy("mixed_float16")  # AMP506
tf.keras.mixed_precision.set_global_policy(policy)  # AMP506
""",
        ),
        Case(
            """\
from tensorflow import keras
from tensorflow.keras.mixed_precision import experimental as mixed_precision


def main():
    mixed_precision.set_policy("mixed_float16")  # AMP506
    return mixed_precision.LossScaleOptimizer(  # AMP506
        keras.optimizers.SGD(0.1),
        loss_scale="dynamic",
    )
""",
            """\
from tensorflow import keras


def main():
    keras.mixed_precision.set_global_policy("mixed_float16")  # AMP506
    return keras.mixed_precision.LossScaleOptimizer(  # AMP506
        keras.optimizers.SGD(0.1),
    )
""",
        ),
        Case(
            """\
from tensorflow.keras.layers import Dense
from tensorflow.keras.mixed_precision.experimental import Policy, set_policy

set_policy(Policy("mixed_float16"))  # AMP506
layer = Dense(1)
""",
            """\
from tensorflow import keras
from tensorflow.keras.layers import Dense
from tensorflow.keras.mixed_precision import Policy

keras.mixed_precision.set_global_policy(Policy("mixed_float16"))  # AMP506
layer = Dense(1)
""",
        ),
        Case("""\
import tensorflow.keras.mixed_precision.experimental as mp

policy = mp.Policy("mixed_float16", loss_scale=128)  # AMP506
"""),
    )

    def adapted(self, source: Source, node: ast.expr, name: str) -> Adapted | None:
        """Arguments that there are no more go, if they say what holds without them."""
        call = source.parents[node]
        if not isinstance(call, ast.Call) or call.func is not node:
            return Adapted()
        gone: list[ast.expr | ast.keyword] = []
        gone += [k for k in call.keywords if k.arg in ("loss_scale", None)]
        gone += call.args[1:]
        edits: list[Edit] = []
        for argument in gone:
            value = argument.value if isinstance(argument, ast.keyword) else argument
            if source.values.constants(value) != {"dynamic"} or len(call.args) > 2:
                return None
            edits.append(source.edits.remove_argument(call, argument))
        return Adapted(tuple(edits))

    def spelled(self, source: Source, dotted: str, at: ast.AST) -> tuple[str, tuple[Edit, ...]]:
        """As it is reached in this file: through TensorFlow, or not."""
        return keras_models.spelled(source, dotted, at)

    def home(self, source: Source, statement: ast.ImportFrom, module: str) -> str:
        """Keras through TensorFlow stays there."""
        through = (statement.module or "").startswith("tensorflow.")
        return f"tensorflow.{module}" if through else module
