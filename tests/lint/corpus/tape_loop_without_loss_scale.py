# Thread: https://github.com/keras-team/keras/issues/19244
# Title: Docs for Mixed precision training and the use of `LossScaleOptimizer` in custom loops with jax backend
# Wrong: The custom loop trains under mixed_float16 with a plain optimizer and never scales the loss; training stalls after some steps.
import keras
import tensorflow as tf

keras.mixed_precision.set_global_policy("mixed_float16")

net = keras.Sequential(
    [
        keras.layers.Dense(512, activation="gelu"),
        keras.layers.Dense(512, activation="gelu"),
        keras.layers.Dense(100, dtype="float32"),
    ]
)
optimizer = keras.optimizers.AdamW(3e-4)  # may: AMP505
loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@tf.function
def train_step(x, y):
    with tf.GradientTape() as tape:  # may: AMP505
        loss = loss_fn(y, net(x, training=True))
    grads = tape.gradient(loss, net.trainable_variables)  # expect: AMP505
    optimizer.apply_gradients(zip(grads, net.trainable_variables))  # may: AMP505
    return loss


def fit(dataset, epochs):
    for epoch in range(epochs):
        for x, y in dataset:
            loss = train_step(x, y)
        print(epoch, float(loss))
