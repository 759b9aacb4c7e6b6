"""Keras scripts that are not rewritten: the line, the reason and what to do instead."""

from __future__ import annotations

import pytest

from ampconvert.errors import UserError
from ampconvert.lint.rewrite.keras import rewrite_keras

HEAD = """\
import keras
import tensorflow as tf

model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
optimizer = keras.optimizers.Adam()
"""
LOOP = """\
with tf.GradientTape() as tape:
    loss = tf.reduce_mean(model(x) ** 2)
grads = tape.gradient(loss, model.trainable_variables)
"""
APPLY = "optimizer.apply_gradients(zip(grads, model.trainable_variables))\n"
FIT = "model.compile('adam', 'mse')\n"


def refused(text: str) -> str:
    with pytest.raises(UserError) as caught:
        rewrite_keras(text, "train.py", dtype="float16")
    return str(caught.value)


@pytest.mark.parametrize(
    ("body", "line", "reason", "instead"),
    [
        (LOOP + "grads = [tf.clip_by_norm(g, 1.0) for g in grads]\n" + APPLY, 8,
         "multiplied by the loss scale", "global_clipnorm="),
        (LOOP + "print(tf.linalg.global_norm(grads))\n" + APPLY, 9, "read or changed", "bfloat16"),
        (LOOP + "for g, v in zip(grads, model.trainable_variables):\n    v.assign_sub(g)\n", 8,
         "loss scale", "bfloat16"),
        ("def step(optimizer):\n" + "".join(f"    {x}\n" for x in (LOOP + APPLY).splitlines()), 10,
         "what optimizer is made of", "make the optimizer in this file"),
        ("with tf.GradientTape() as tape:\n    with tf.GradientTape() as inner:\n"
         "        inner.watch(x)\n        y = model(x)\n    penalty = inner.gradient(y, x)\n", 10,
         "gradient penalty", "bfloat16"),
        ("tape = tf.GradientTape()\nwith tape:\n    loss = model(x)\n"
         "grads = tape.gradient(loss, model.trainable_variables)\n" + APPLY, 6, "before its `with`",
         "with tf.GradientTape() as tape:"),
        (FIT + "keras.backend.set_floatx('float64')\n", 7, "one of 16 bits", "take it out"),
        (FIT + "keras.mixed_precision.set_global_policy('float64')\n", 7, "float64", "take it out"),
        (FIT + "if gpu:\n    keras.mixed_precision.experimental.set_policy('mixed_float16')\n", 8,
         "under a condition", "lint --fix"),
        (FIT + "tf.compat.v1.disable_eager_execution()\n", 7, "TensorFlow 1", "port it"),
        (FIT + "tf.Session(config=tf.ConfigProto(floatx='float16')).run(model)\n", 7,
         "session of TensorFlow 1", "port the script"),
        (FIT + "model.pop()\n", 7, "taken out or moved", "build the model as it is to be"),
        ("net = keras.applications.ResNet50(weights=None)\nnet.compile('adam', 'mse')\n", 6,
         "inside of keras.applications", "include_top=False"),
        ("net = keras.Sequential()\nfor n in (8, 2):\n    net.add(keras.layers.Dense(n))\n"
         "net.compile('adam', 'mse')\n", 8, "in a loop", "after the loop"),
        ("net = keras.Sequential([keras.layers.Dense(2), other.Head()])\nnet.compile('adam')\n", 6,
         "model's output", "make the output layer in this file"),
    ],
)  # fmt: skip
def test_refused(body: str, line: int, reason: str, instead: str) -> None:
    told = refused(HEAD + body)
    assert told.startswith(f"train.py:{line}: ")
    assert reason in told and instead in told


def test_loops_of_other_frameworks() -> None:
    jax = "import jax\nimport keras\n\nmodel = keras.Sequential([keras.layers.Dense(2)])\n"
    assert refused(jax + "grad = jax.value_and_grad(loss)\n").startswith("train.py:5: ")
    torch = (
        "import keras\nimport torch\n\nmodel = keras.Sequential([keras.layers.Dense(2)])\n"
        "optimizer = torch.optim.Adam(model.parameters())\n"
        "for x in data:\n    loss = model(x).sum()\n    loss.backward()\n    optimizer.step()\n"
        "late = keras.optimizers.Adam()\n"
        "for x in data:\n    late.apply([v.value.grad for v in model.trainable_weights])\n"
    )
    assert "train.py:8: no optimizer of Keras" in refused(torch)
    # bfloat16 needs no scaling.
    for text in (jax + "grad = jax.value_and_grad(loss)\n", torch):
        assert "mixed_bfloat16" in rewrite_keras(text, "train.py", dtype="bfloat16").text


def test_no_python_and_no_model() -> None:
    assert refused("import keras\nmodel = (\n").startswith("train.py:2: this is no Python")
    assert "no layer or model of Keras" in refused("import keras\nprint(keras.__version__)\n")
    assert "no import" in refused("def main():\n    import keras\n    keras.layers.Dense(2)\n")
