# Thread: https://github.com/tensorflow/tensorflow/issues/33435
# Title: mixed_precision_graph_rewrite behaviours
# Wrong: The TF1 style graph rewrite switches mixed precision on for the whole process, even for the float32 run; the function is experimental and gone.
import time

import tensorflow as tf


def timed(model, optimizer, data, label):
    model.compile(optimizer=optimizer, loss="mse")
    started = time.perf_counter()
    model.fit(data, epochs=2, verbose=0)
    print(f"{label}: {time.perf_counter() - started:.1f}s")


def benchmark(build, data):
    plain = tf.keras.optimizers.Adam()
    mixed = tf.train.experimental.enable_mixed_precision_graph_rewrite(plain)  # expect: AMP506|AMP507
    timed(build(), tf.keras.optimizers.Adam(), data, "float32")
    timed(build(), mixed, data, "mixed")
