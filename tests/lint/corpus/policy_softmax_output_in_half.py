# Thread: https://github.com/tensorflow/tensorflow/issues/34406
# Title: Mixed precision training with tf.keras 2.0
# Wrong: Under mixed_float16 the last softmax layer is not forced to float32 and the policy is set through the removed experimental API.
import tensorflow as tf
from tensorflow.keras import Sequential
from tensorflow.keras.layers import Conv2D, Dense, Flatten, MaxPooling2D

tf.keras.mixed_precision.experimental.set_policy("mixed_float16")  # expect: AMP506


def get_model():
    return Sequential(
        [
            Conv2D(16, 3, activation="relu", input_shape=(28, 28, 1)),
            MaxPooling2D(2),
            Conv2D(32, 3, activation="relu"),
            MaxPooling2D(2),
            Flatten(),
            Dense(64, activation="relu"),
            Dense(10, activation="softmax"),  # expect: AMP503
        ]
    )


def run(train, validation, epochs=10):
    model = get_model()
    model.compile(
        loss="sparse_categorical_crossentropy",
        optimizer=tf.keras.optimizers.Adam(),
        metrics=["accuracy"],
    )
    return model.fit(train, validation_data=validation, epochs=epochs)
