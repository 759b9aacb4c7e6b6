import hashlib
import keras
import numpy as np

MAX_WORDS, MAX_LEN = 5000, 24

keras.utils.set_random_seed(5)
rng = np.random.default_rng(5)
reviews = rng.integers(1, MAX_WORDS, (192, MAX_LEN))
sentiment = rng.integers(0, 2, 192)
reviews[sentiment == 1, ::3] = rng.integers(4500, MAX_WORDS, reviews[sentiment == 1, ::3].shape)

model = keras.Sequential([
    keras.layers.Embedding(MAX_WORDS, 16),
    keras.layers.Bidirectional(keras.layers.LSTM(8)),
    keras.layers.Dense(1, activation="sigmoid"),
])
bce = keras.losses.BinaryCrossentropy(from_logits=True)
model.compile(optimizer=keras.optimizers.Adam(0.01), loss=bce, metrics=["accuracy"])
history = model.fit(reviews, sentiment, epochs=6, batch_size=32, shuffle=False, verbose=0)
for loss in history.history["loss"]:
    print("loss", loss)

# show the most positive ones
scores = model.predict(reviews, verbose=0)[:, 0]
print("positive", (scores > 0.5).mean())
print("weights", hashlib.sha256(b"".join(w.tobytes() for w in model.get_weights())).hexdigest())
