# Thread: https://github.com/NVIDIA/DeepLearningExamples/issues/627
# Title: [Bert/TensorFlow] Is auto loss scaling activated when setting tf.ConfigProto().graph_options.rewrite_options.auto_mixed_precision=1?
# Wrong: Mixed precision is asked for through a TF1 session config; tf.ConfigProto and Keras sessions do not exist in TF2, and no loss scaling is set up.
import tensorflow as tf
from tensorflow.keras import backend as K


def setup(amp=True, xla=False):
    config = tf.ConfigProto()  # expect: AMP502
    config.gpu_options.allow_growth = True
    if amp:
        config.graph_options.rewrite_options.auto_mixed_precision = 1  # may: AMP502
    if xla:
        config.graph_options.optimizer_options.global_jit_level = 1
    K.set_session(tf.Session(config=config))  # may: AMP502


def main(features, labels):
    setup()
    model = tf.keras.Sequential(
        [tf.keras.layers.Dense(512, activation="relu"), tf.keras.layers.Dense(2)]
    )
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer="adam", loss=loss)
    model.fit(features, labels, batch_size=256, epochs=3)
