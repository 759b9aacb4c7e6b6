# Thread: https://github.com/keras-team/keras/issues/19479
# Title: Using `LossScaleOptimizer` with TF 2.16.1
# Right: Keras 3's LossScaleOptimizer scales the loss with scale_loss and unscales the gradients itself in apply_gradients.
import keras
import tensorflow as tf

keras.mixed_precision.set_global_policy("mixed_float16")


class Regressor(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = keras.layers.Dense(256, activation="relu")
        self.out = keras.layers.Dense(1, dtype="float32")
        self.opt = keras.mixed_precision.LossScaleOptimizer(keras.optimizers.Adam(1e-3))
        self.mse = keras.losses.MeanSquaredError()

    def call(self, x):
        return self.out(self.hidden(x))

    def one_step(self, x, y):
        with tf.GradientTape() as tape:
            loss = self.mse(y, self(x, training=True))
            scaled = self.opt.scale_loss(loss)
        grads = tape.gradient(scaled, self.trainable_variables)
        self.opt.apply_gradients(zip(grads, self.trainable_variables))
        return loss
