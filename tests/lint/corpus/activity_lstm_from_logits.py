# Thread: https://github.com/mmalekzadeh/dana/issues/1
# Title: Potential bug - Usage of from_logits=True on the model that has softmax activated output
# Wrong: The LSTM network returns softmax probabilities but is trained with from_logits=True.
import tensorflow as tf
from tensorflow.keras import layers
from tensorflow.keras.models import Model


def deep_conv_lstm(inp_shape, out_shape, filters=64, dense=128, drop=0.5):
    inp = layers.Input(inp_shape)
    x = inp
    for _ in range(4):
        x = layers.Conv2D(filters, (5, 1), activation="relu")(x)
    x = layers.Reshape((x.shape[1], x.shape[2] * x.shape[3]))(x)
    act = layers.LSTM(dense, return_sequences=True)(x)
    act = layers.Dropout(drop)(act)
    act = layers.LSTM(dense)(act)
    out = layers.Dense(out_shape, activation="softmax", name="act_smx")(act)  # may: AMP504
    return Model(inputs=inp, outputs=out)


def standard_training(windows, labels, classes, epochs=50):
    net = deep_conv_lstm(windows.shape[1:], classes)
    net.compile(
        loss=tf.keras.losses.CategoricalCrossentropy(from_logits=True),  # expect: AMP504
        optimizer=tf.keras.optimizers.Adam(),
        metrics=["accuracy"],
    )
    stop = tf.keras.callbacks.EarlyStopping(patience=5, restore_best_weights=True)
    net.fit(windows, labels, epochs=epochs, validation_split=0.1, callbacks=[stop])
    return net
