"""AMP509: a mask constant beyond float16 in a Keras layer."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding
from ampconvert.lint import keras_models
from ampconvert.lint.rule import Case, Rule
from ampconvert.lint.source import Source

_WHERE = ("tensorflow.where", "keras.ops.where", "tensorflow.compat.v1.where")
_LARGEST = 65504.0


class KerasMaskConstant(Rule):
    """A mask constant of more than 65504 becomes infinite in a layer that computes in float16.

    `(1 - mask) * -1e9` is NaN where the mask is 1, for 0 times infinity is no number.
    `tf.where(mask, scores, -1e9)` gives -inf, and a row that is masked throughout becomes NaN in
    the softmax.

    Found in files that set the policy "mixed_float16", where the constant is multiplied with
    `1 - mask` or stands in `where`. A mask that was cast to float32 before is found wrongly.

    Source: https://www.tensorflow.org/guide/mixed_precision
    """

    CODE = "AMP509"
    NAME = "keras-mask-constant"
    DEFAULT = False
    ADVICE = "Use a constant that float16 holds, such as -3e4, or compute the mask in float32."
    FIX = "unsafe"
    FIX_SAFETY = "Scores below -30000 would no longer be hidden."
    WORDS = ((b"mixed_float16",), (b"where", b"mask"))
    VALID = (
        Case("""\
import tensorflow as tf

tf.keras.mixed_precision.set_global_policy("mixed_float16")


def hide(scores, mask):
    return scores + (1.0 - mask) * -3e4
"""),
        Case("""\
import tensorflow as tf


def hide(scores, mask):
    return tf.where(mask, scores, -1e9)
"""),
        Case("""\
import tensorflow as tf

tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")


def hide(scores, mask):
    return tf.where(mask, scores, -1e9)
"""),
    )
    INVALID = (
        Case(
            """\
import tensorflow as tf

tf.keras.mixed_precision.set_global_policy("mixed_float16")


class Attention(tf.keras.layers.Layer):
    def call(self, scores, mask):
        return tf.nn.softmax(scores + (1.0 - mask) * -1e9)  # AMP509
""",
            """\
import tensorflow as tf

tf.keras.mixed_precision.set_global_policy("mixed_float16")


class Attention(tf.keras.layers.Layer):
    def call(self, scores, mask):
        return tf.nn.softmax(scores + (1.0 - mask) * -3e4)  # AMP509
""",
        ),
        Case(
            """\
import keras
from keras import ops

keras.mixed_precision.set_global_policy("mixed_float16")


def hide(scores, mask):
    return ops.where(mask, scores, -1e9)  # AMP509
""",
            """\
import keras
from keras import ops

keras.mixed_precision.set_global_policy("mixed_float16")


def hide(scores, mask):
    return ops.where(mask, scores, -3e4)  # AMP509
""",
        ),
        Case("""\
from tensorflow import where
from tensorflow.keras import mixed_precision as mp

mp.set_global_policy("mixed_float16")
BIG = 1e9


class Layer:
    def call(self, x, attention_mask):
        bias = (1 - attention_mask) * -BIG  # AMP509
        return where(x > 0, x + bias, -BIG)  # AMP509
"""),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Products with an inverted mask, and arguments of `where`."""
        if "mixed_float16" not in keras_models.policies(source):
            return
        for product in source.nodes(ast.BinOp):
            if isinstance(product.op, ast.Mult):
                for mask, constant in ((product.left, product.right),
                                       (product.right, product.left)):  # fmt: skip
                    if _is_inverted(mask) and _is_beyond(source, constant):
                        yield self._found(source, product, constant)
                        break
        for call in source.names.calls(*_WHERE):
            for value in call.args[1:]:
                if _is_beyond(source, value):
                    yield self._found(source, call, value)
                    break

    def _found(self, source: Source, node: ast.expr, constant: ast.expr) -> Finding:
        number = min(source.values.numbers(constant), key=abs)
        plain = constant.operand if isinstance(constant, ast.UnaryOp) else constant
        fix = None
        if isinstance(plain, ast.Constant):
            edit = source.edits.replace(constant, "-3e4" if number < 0 else "3e4")
            fix = self.fix("use 30000", [edit], safe=False)
        return self.finding(source, node, f"{number:g} is infinite in float16", fix)


def _is_inverted(mask: ast.expr) -> bool:
    """Whether this is `1 - mask`."""
    return (
        isinstance(mask, ast.BinOp)
        and isinstance(mask.op, ast.Sub)
        and isinstance(mask.left, ast.Constant)
        and mask.left.value == 1
    )


def _is_beyond(source: Source, constant: ast.expr) -> bool:
    numbers = source.values.numbers(constant)
    return bool(numbers) and all(_LARGEST < abs(n) < float("inf") for n in numbers)
