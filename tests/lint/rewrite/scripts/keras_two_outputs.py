"""Functional model with two outputs: what it is, and how much."""
import hashlib

import keras
import numpy as np
from keras import layers

keras.utils.set_random_seed(1)


def build(features, classes):
    inputs = keras.Input(shape=(features,), name="features")
    extra = keras.Input(shape=(4,), name="extra")
    x = layers.Dense(64, activation="relu")(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.concatenate([x, extra])
    x = layers.Dense(32, activation="relu")(x)
    kind = layers.Dense(classes, activation="softmax", name="kind")(x)
    amount = layers.Dense(
        1,
        name="amount",
    )(x)
    return keras.Model(inputs=[inputs, extra], outputs={"kind": kind, "amount": amount})


def data(samples=256):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(samples, 16)).astype("float32")
    extra = rng.normal(size=(samples, 4)).astype("float32")
    kind = x[:, :3].argmax(axis=1)
    amount = x[:, 3] * 0.5 + extra[:, 0]
    return {"features": x, "extra": extra}, {"kind": kind, "amount": amount}


def main():
    model = build(16, 3)
    model.compile(
        optimizer=keras.optimizers.Adam(1e-2),
        loss={"kind": "sparse_categorical_crossentropy", "amount": "mse"},
        loss_weights={"kind": 1.0, "amount": 0.5},
        metrics={"kind": ["accuracy"]},
    )
    x, y = data()
    history = model.fit(x, y, epochs=8, batch_size=32, shuffle=False, verbose=0)
    for loss in history.history["loss"]:
        print("loss", loss)
    digest = hashlib.sha256(b"".join(w.tobytes() for w in model.get_weights()))
    print("weights", digest.hexdigest())


if __name__ == "__main__":
    main()
