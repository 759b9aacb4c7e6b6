# Written for TensorFlow 2.3.
import random
import numpy as np
import tensorflow as tf
from tensorflow.keras import layers
from tensorflow.keras.mixed_precision import experimental as mixed_precision

policy = mixed_precision.Policy('mixed_float16')
mixed_precision.set_policy(policy)
print('Compute dtype:', policy.compute_dtype)

random.seed(10)
tf.random.set_seed(10)
inputs = tf.keras.Input(shape=(20,))
x = layers.Dense(48, activation='relu')(inputs)
x = layers.Dense(3)(x)
outputs = layers.Activation('softmax', dtype='float32')(x)
model = tf.keras.Model(inputs=inputs, outputs=outputs)

optimizer = tf.keras.optimizers.RMSprop(1e-3)
optimizer = mixed_precision.LossScaleOptimizer(optimizer, loss_scale='dynamic')
loss_object = tf.keras.losses.SparseCategoricalCrossentropy()


@tf.function
def train_step(x, y):
    with tf.GradientTape() as tape:
        predictions = model(x)
        loss = loss_object(y, predictions)
        scaled_loss = optimizer.get_scaled_loss(loss)
    scaled_gradients = tape.gradient(scaled_loss, model.trainable_variables)
    gradients = optimizer.get_unscaled_gradients(scaled_gradients)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables))
    return loss


rng = np.random.RandomState(10)
data = rng.randn(96, 20).astype('float32')
target = data[:, :3].argmax(axis=1)
for epoch in range(10):
    total = 0.
    for i in range(0, 96, 32):
        total += float(train_step(data[i:i + 32], target[i:i + 32]))
    print('loss', total / 3)
