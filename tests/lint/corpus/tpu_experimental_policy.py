# Thread: https://github.com/tensorflow/tensorflow/issues/34782
# Title: [tf.keras] Mixed precision policy "mixed_bfloat16" not supported in Keras compile
# Wrong: The policy is built and set through mixed_precision.experimental, which later releases removed.
import tensorflow as tf


def compile_keras_model(dtype):
    policy = tf.keras.mixed_precision.experimental.Policy(dtype)  # expect: AMP506
    tf.keras.mixed_precision.experimental.set_policy(policy)  # expect: AMP506
    optimizer = tf.keras.optimizers.SGD(learning_rate=0.1, momentum=0.9)
    model = tf.keras.applications.ResNet50(weights=None)
    model.compile(
        loss="sparse_categorical_crossentropy",
        optimizer=optimizer,
        metrics=["sparse_categorical_accuracy"],
    )
    return model


if __name__ == "__main__":
    gpu_model = compile_keras_model("mixed_float16")
    tpu_model = compile_keras_model("mixed_bfloat16")
    print(gpu_model.count_params(), tpu_model.count_params())
