"""Training loops by hand in Keras: how their losses are scaled for float16."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lint.rewrite.test_keras import rewritten


def test_a_tape_for_each_optimizer() -> None:
    text = (Path(__file__).parent / "scripts" / "keras_gan.py").read_text()
    made = rewritten(text)
    assert "            scaled_d_loss = self.d_optimizer.scale_loss(d_loss)\n" in made
    assert "tape.gradient(scaled_g_loss, self.generator.trainable_weights)" in made
    assert made.count("_optimizer=loss_scaled(keras.optimizers.Adam(") == 2
    assert "scale_loss" not in rewritten(text, "bfloat16")


TAPE = """\
import keras
import tensorflow as tf

model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, dtype="float32")])
optimizer = {optimizer}
with tf.GradientTape({tape}) as tape:
    loss = tf.reduce_mean(model(x) ** 2)
{rest}
"""


@pytest.mark.parametrize(
    "rest",
    [
        "optimizer.apply_gradients(zip(tape.gradient(@, model.weights), model.weights))",
        "g = tape.gradient(@, model.weights)\noptimizer.apply(g, model.weights)",
        "g = tape.gradient(@, model.weights)\npairs = list(zip(g, model.weights))\n"
        "optimizer.apply_gradients(pairs)",
        "g = tape.gradient(@, v)\n"
        "optimizer.apply_gradients((a, b) for a, b in zip(g, v) if a is not None)",
        "g = tape.gradient(target=@, sources=v)\n"
        "optimizer.apply_gradients([(a, b) for (a, b) in zip(g, v)])",
    ],
)
def test_ways_to_apply_gradients(rest: str) -> None:
    given = {"optimizer": "keras.optimizers.Adam()", "tape": "persistent=True"}
    made = rewritten(TAPE.format(rest=rest.replace("@", "loss"), **given))
    assert "\n    scaled_loss = optimizer.scale_loss(loss)\n" in made
    assert "optimizer = loss_scaled(keras.optimizers.Adam())" in made
    assert rest.replace("@", "scaled_loss") in made


def test_a_gradient_under_its_own_tape() -> None:
    rest = "    g = tape.gradient(loss, v)\n    optimizer.apply_gradients(zip(g, v))"
    made = rewritten(TAPE.format(optimizer="tf.optimizers.SGD()", tape="", rest=rest))
    assert "    scaled_loss = optimizer.scale_loss(loss)\n    g = tape.gradient(scaled_" in made


def test_an_optimizer_that_scales_already() -> None:
    scaler = "keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam())"
    rest = "optimizer.apply(tape.gradient(loss, model.weights), model.weights)"
    made = rewritten(TAPE.format(optimizer=scaler, tape="", rest=rest))
    assert f"optimizer = {scaler}\n" in made and "scaled_loss = optimizer.scale_loss(loss)" in made


def test_a_loss_that_is_scaled_already() -> None:
    rest = "optimizer.apply(tape.gradient(scaled, model.weights), model.weights)"
    text = TAPE.format(optimizer="keras.optimizers.Adam()", tape="", rest=rest)
    text = text.replace(
        "\noptimizer.apply", "\n    scaled = optimizer.scale_loss(loss)\noptimizer.apply"
    )
    made = rewritten(text)
    assert made.count("scale_loss") == 1 and "= loss_scaled(keras.optimizers.Adam())" in made


def test_keras_2_scales_and_divides_in_the_loop() -> None:
    (path,) = (Path(__file__).parent / "scripts").glob("keras_legacy.py")
    made = rewritten(path.read_text())
    assert "        scaled_loss = opt.get_scaled_loss(loss) if AMP_ENABLED else loss\n" in made
    assert (
        "    gradients = tape.gradient(scaled_loss, net.trainable_variables)\n    if AMP_ENABLED:\n"
        "        gradients = opt.get_unscaled_gradients(gradients)\n    gradients, norm = " in made
    )


def test_each_backward_pass_has_its_optimizer() -> None:
    made = rewritten("""\
import keras
import torch

nets = [keras.Sequential([keras.layers.Dense(2)]) for _ in range(2)]
first, second = keras.optimizers.Adam(), keras.optimizers.SGD()
for x in data:
    a = nets[0](x).sum()
    a.backward()
    first.apply([v.value.grad for v in nets[0].trainable_weights], nets[0].trainable_weights)
    (nets[1](x) - 1).abs().sum().backward()
    second.apply([v.value.grad for v in nets[1].trainable_weights], nets[1].trainable_weights)
""")
    assert "    first.scale_loss(a).backward()\n" in made
    assert "    second.scale_loss((nets[1](x) - 1).abs().sum()).backward()\n" in made
    assert "= loss_scaled(keras.optimizers.Adam()), loss_scaled(keras.optimizers.SGD())" in made
