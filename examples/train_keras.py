"""Training a Keras 3 model with model.fit, on Keras' torch backend.

pip install keras scikit-learn
python examples/train_keras.py --dtype fp16

The data are scikit-learn's 1,797 handwritten digits.
"""

import argparse
import os

os.environ["KERAS_BACKEND"] = "torch"  # Keras reads it once, when it is imported

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits

from ampconvert.training.keras import guard_keras, prepare_keras


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dtype", choices=("fp16", "bf16"), default="fp16")
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()

    x, y = digits()
    model = prepare_keras(cnn(), options.dtype)
    model.compile(
        optimizer=keras.optimizers.Adam(2e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    guard = guard_keras(model)
    history = model.fit(
        x, y, batch_size=64, epochs=options.epochs, validation_split=0.2, verbose=0
    ).history
    print(f"loss {history['loss'][-1]:.4f}  accuracy {history['val_accuracy'][-1]:.2%}")
    print(f"loss scale {guard.scale:g}, {guard.skipped} of {guard.steps} steps skipped")


def cnn() -> keras.Model:
    """Two convolutions, a norm, dropout, and a dense layer that gives the scores of ten digits."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(2),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dropout(0.1),
            layers.Dense(10),
        ]
    )


def digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's handwritten digits: float32[N, 8, 8, 1] from 0 to 1, and labels."""
    data = load_digits()
    return data.images[..., None].astype("float32") / 16, data.target


if __name__ == "__main__":
    main()
