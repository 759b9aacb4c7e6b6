# Thread: https://github.com/tensorflow/tensorflow/issues/42981
# Title: How to fix "AttributeError: module 'tensorflow.keras.backend' has no attribute 'get_session'"
# Wrong: The float16 set-up goes through K.get_session and a TF1 ConfigProto; neither exists in TF2 and neither turns on half precision.
import tensorflow as tf
from tensorflow import keras
from tensorflow.keras import backend as K

session = K.get_session(config=tf.compat.v1.ConfigProto(floatx="float16"))  # expect: AMP502

images = keras.layers.Input((64, 64, 3))
x = keras.layers.Conv2D(32, 5, strides=2, activation="relu")(images)
x = keras.layers.GlobalAveragePooling2D()(x)
shared = keras.layers.Dense(128, activation="relu")(x)
face = keras.Model(images, keras.layers.Dense(64 * 64 * 3)(shared))
face.compile(optimizer=keras.optimizers.Adam(5e-5), loss="mae")


def train(pairs, epochs=10):
    for epoch in range(epochs):
        for warped, target in pairs:
            loss = face.train_on_batch(warped, target)
        print(epoch, loss)
