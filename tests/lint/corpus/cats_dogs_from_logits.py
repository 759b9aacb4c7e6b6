# Thread: https://github.com/lovedlim/tensorflow/issues/2
# Title: 4.5 개/고양이 분류에서 from_logits 관련 Warning
# Wrong: A book's cat and dog classifier has a sigmoid output and BinaryCrossentropy(from_logits=True); TensorFlow warns about it.
import tensorflow as tf
import tensorflow_datasets as tfds


def resize(image, label):
    return tf.image.resize(image, (300, 300)) / 255.0, label


def build_model():
    return tf.keras.Sequential([
        tf.keras.layers.Conv2D(32, 3, activation="relu", input_shape=(300, 300, 3)),
        tf.keras.layers.MaxPooling2D(2),
        tf.keras.layers.Flatten(),
        tf.keras.layers.Dense(64, activation="relu"),
        tf.keras.layers.Dense(1, activation="sigmoid"),  # may: AMP504
    ])


train = tfds.load("cats_vs_dogs", split="train[:80%]", as_supervised=True).map(resize).batch(32)
loss = tf.keras.losses.BinaryCrossentropy(from_logits=True)  # expect: AMP504
model = build_model()
model.compile(optimizer=tf.keras.optimizers.Adam(0.001), loss=loss, metrics=["accuracy"])
model.fit(train, epochs=5)
