# Thread: https://github.com/keras-team/keras/issues/15271
# Title: Missing _keras_logits from model.predict(x) leads to difference in loss evaluation
# Wrong: The model ends in a sigmoid and the loss is told from_logits=True, so the sigmoid is applied twice outside of fit().
import keras
import numpy as np

inputs = keras.Input((16,))
hidden = keras.layers.Dense(32, activation="relu")(inputs)
outputs = keras.layers.Dense(1, activation="sigmoid")(hidden)  # may: AMP504
model = keras.Model(inputs, outputs)

bce = keras.losses.BinaryCrossentropy(from_logits=True)  # expect: AMP504
model.compile(optimizer="adam", loss=bce)


def compare(x, y):
    model.fit(x, y, epochs=2, verbose=0)
    inside = model.evaluate(x, y, verbose=0)
    outside = float(bce(y, model.predict(x, verbose=0)))
    return inside, outside


if __name__ == "__main__":
    rng = np.random.default_rng(0)
    print(compare(rng.normal(size=(256, 16)), rng.integers(0, 2, size=(256, 1)).astype("float32")))
