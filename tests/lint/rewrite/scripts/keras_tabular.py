"""House prices: raw features with their own normalization, a regression, early stopping."""
import argparse
import hashlib

import keras
import numpy as np
from keras import Sequential
from keras.callbacks import EarlyStopping
from keras.layers import Dense, Input, Normalization


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--units", type=int, default=32)
    return parser.parse_args()


def houses(samples=200):
    rng = np.random.default_rng(12)
    area = rng.uniform(30, 300, samples)
    income = rng.uniform(2e4, 2e5, samples)
    rooms = rng.integers(1, 9, samples)
    price = 0.01 * area + income / 1e5 + 0.1 * rooms
    return np.stack([area, income, rooms], axis=1), price


class Prices:
    def __init__(self, args, features):
        self.args = args
        self.normalizer = Normalization()
        self.normalizer.adapt(features)
        self.model = self.build()

    def build(self):
        model = Sequential()
        model.add(Input((3,)))
        model.add(self.normalizer)
        for _ in range(2):
            model.add(Dense(self.args.units, "relu"))
        model.add(Dense(1))
        model.compile(loss="mae", optimizer="adam")
        return model

    def train(self, features, prices):
        stop = EarlyStopping(monitor="loss", patience=3)
        return self.model.fit(
            features, prices, epochs=self.args.epochs, batch_size=20,
            shuffle=False, callbacks=[stop], verbose=0,
        )


if __name__ == "__main__":
    args = parse()
    keras.utils.set_random_seed(12)
    features, prices = houses()
    run = Prices(args, features)
    for loss in run.train(features, prices).history["loss"]:
        print("loss", loss)
    weights = run.model.get_weights()
    print("weights", hashlib.sha256(b"".join(np.asarray(w).tobytes() for w in weights)).hexdigest())
