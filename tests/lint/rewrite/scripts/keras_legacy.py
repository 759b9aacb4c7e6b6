# Keras 2 in a current TensorFlow, with clipping in the loop.
import hashlib

import numpy as np
import tensorflow as tf
import tf_keras
from tf_keras import layers


class Net(tf_keras.Model):
    def __init__(self, hidden, classes):
        super().__init__()
        self.hidden = layers.Dense(hidden, activation='tanh')
        self.out = layers.Dense(classes)

    def call(self, x):
        return tf.nn.softmax(self.out(self.hidden(x)))


tf_keras.utils.set_random_seed(14)
net = Net(32, 3)
opt = tf_keras.optimizers.Adam(1e-2)
cce = tf_keras.losses.SparseCategoricalCrossentropy()


@tf.function
def step(x, y):
    with tf.GradientTape() as tape:
        probabilities = net(x)
        loss = cce(y, probabilities)
    gradients = tape.gradient(loss, net.trainable_variables)
    gradients, norm = tf.clip_by_global_norm(gradients, 1.0)
    opt.apply_gradients(zip(gradients, net.trainable_variables))
    return loss, norm


rng = np.random.default_rng(14)
x = rng.normal(size=(128, 10)).astype('float32')
y = x[:, :3].argmax(axis=1)
for epoch in range(6):
    results = [step(x[i:i + 32], y[i:i + 32]) for i in range(0, 128, 32)]
    print('loss', float(np.mean([float(loss) for loss, _ in results])))
print('norm', float(results[-1][1]) < 10)
print('weights', hashlib.sha256(b''.join(w.tobytes() for w in net.get_weights())).hexdigest())
