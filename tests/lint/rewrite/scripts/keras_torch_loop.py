"""Keras layers, trained by a loop in PyTorch."""
import os

os.environ["KERAS_BACKEND"] = "torch"

import hashlib

import keras
import numpy as np
import torch

keras.utils.set_random_seed(6)


def get_model():
    inputs = keras.Input(shape=(24,), name="digits")
    x1 = keras.layers.Dense(64, activation="relu")(inputs)
    x2 = keras.layers.Dense(64, activation="relu")(x1)
    outputs = keras.layers.Dense(5, name="predictions")(x2)
    return keras.Model(inputs=inputs, outputs=outputs)


def train(model, loader, optimizer, loss_fn, epochs):
    for epoch in range(epochs):
        total = 0.0
        for inputs, targets in loader:
            logits = model(inputs, training=True)
            loss = loss_fn(targets, logits)

            model.zero_grad()
            trainable_weights = [v for v in model.trainable_weights]

            loss.backward()
            gradients = [v.value.grad for v in trainable_weights]
            with torch.no_grad():
                optimizer.apply(gradients, trainable_weights)
            total += loss.item()
        print("loss", total / len(loader))


rng = np.random.default_rng(6)
x = rng.normal(size=(160, 24)).astype("float32")
y = x[:, :5].argmax(axis=1)
dataset = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
loader = torch.utils.data.DataLoader(dataset, batch_size=32)

model = get_model()
train(
    model,
    loader,
    keras.optimizers.Adam(learning_rate=1e-2),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    epochs=8,
)
print("weights", hashlib.sha256(b"".join(w.tobytes() for w in model.get_weights())).hexdigest())
