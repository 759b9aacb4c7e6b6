# Thread: https://github.com/keras-team/keras/issues/20894
# Title: Mixed precision tutorial does not work for custom training loop
# Wrong: get_scaled_loss and get_unscaled_gradients belong to Keras 2; Keras 3's LossScaleOptimizer has only scale_loss: AttributeError.
import keras
import tensorflow as tf

keras.mixed_precision.set_global_policy("mixed_float16")
base = keras.optimizers.RMSprop()
optimizer = keras.mixed_precision.LossScaleOptimizer(base)


def make_model():
    inputs = keras.Input(shape=(784,))
    x = keras.layers.Dense(4096, activation="relu")(inputs)
    logits = keras.layers.Dense(10)(x)
    outputs = keras.layers.Activation("softmax", dtype="float32")(logits)
    return keras.Model(inputs, outputs)


model = make_model()
loss_object = keras.losses.SparseCategoricalCrossentropy()


@tf.function
def train_step(x, y):
    with tf.GradientTape() as tape:
        loss = loss_object(y, model(x))
        scaled_loss = optimizer.get_scaled_loss(loss)  # expect: AMP506|AMP507|AMP505
    scaled_gradients = tape.gradient(scaled_loss, model.trainable_variables)
    gradients = optimizer.get_unscaled_gradients(scaled_gradients)  # may: AMP506 AMP507 AMP505
    optimizer.apply_gradients(zip(gradients, model.trainable_variables))
    return loss
