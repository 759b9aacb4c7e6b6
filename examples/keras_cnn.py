"""The classifier of torch_cnn.py, written in Keras 3 on its PyTorch backend.

    pip install keras
    ampconvert examples/keras_cnn.py

On this backend a Keras model is an nn.Module, so nothing else is needed.
"""

import os

os.environ["KERAS_BACKEND"] = "torch"  # Keras reads it once, when it is imported

import keras
import numpy as np
import torch
from keras import layers


def build_model() -> torch.nn.Module:
    """Conv 32, pool, Conv 64, pool, Conv 64, Dense 64, Dense 10 and a softmax."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),  # Keras puts the channel last
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )


def example_inputs() -> torch.Tensor:
    """Four pictures of random pixels between 0 and 1."""
    pixels = np.random.default_rng(0).random((4, 28, 28, 1), dtype=np.float32)
    return torch.from_numpy(pixels)
