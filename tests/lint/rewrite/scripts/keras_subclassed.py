import hashlib
import keras
import numpy as np
from keras.layers import Dense, Dropout, LayerNormalization


class Residual(keras.layers.Layer):
    def __init__(self, units):
        super().__init__()
        self.norm = LayerNormalization()
        self.inner = Dense(2 * units, activation="gelu")
        self.outer = Dense(units)

    def call(self, x):
        return x + self.outer(self.inner(self.norm(x)))


class Classifier(keras.Model):
    def __init__(self, units, classes, depth=2):
        super().__init__()
        self.embed = Dense(units)
        self.blocks = [Residual(units) for _ in range(depth)]
        self.dropout = Dropout(0.1)
        self.head = Dense(classes)

    def call(self, x, training=False):
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        x = self.dropout(x, training=training)
        return self.head(x)


keras.utils.set_random_seed(2)
rng = np.random.default_rng(2)
x = rng.normal(size=(256, 20)).astype("float32")
y = (x[:, :5].sum(axis=1) > 0).astype("int32") + 2 * (x[:, 5] > 0).astype("int32")

net = Classifier(32, 4)
net.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
for loss in net.fit(x, y, epochs=6, batch_size=32, shuffle=False, verbose=0).history["loss"]:
    print("loss", loss)
print("weights", hashlib.sha256(b"".join(w.tobytes() for w in net.get_weights())).hexdigest())
