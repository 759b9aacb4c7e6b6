# Thread: https://github.com/keras-team/keras/issues/16552
# Title: Mix precision leads to nan loss
# Wrong: The subclassed model ends in a softmax Dense without dtype="float32" under mixed_float16; tiny probabilities become zero and the loss nan.
import tensorflow as tf
from tensorflow import keras

keras.mixed_precision.set_global_policy("mixed_float16")


class SignalNet(keras.Model):
    def __init__(self, classes=11):
        super().__init__()
        self.conv = keras.layers.Conv2D(64, (1, 7), padding="same", activation="relu")
        self.pool = keras.layers.GlobalAveragePooling2D()
        self.hidden = keras.layers.Dense(128, activation="relu")
        self.out = keras.layers.Dense(classes, activation="softmax")  # expect: AMP503

    def call(self, x):
        return self.out(self.hidden(self.pool(self.conv(x))))


def main(signals, labels, snr):
    keep = snr >= 0
    net = SignalNet()
    net.compile("adam", loss=keras.losses.CategoricalCrossentropy(), metrics=["accuracy"])
    data = tf.data.Dataset.from_tensor_slices((signals[keep], labels[keep])).batch(256)
    net.fit(data, epochs=50)
    return net
