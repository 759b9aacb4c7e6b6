# MLP with Sequential.add, "accelerated" by float16 weights.
import hashlib

import numpy as np
from keras import backend as K
from keras.models import Sequential
from keras.layers import Activation, Dense, Dropout
from keras.optimizers import SGD
from keras.utils import set_random_seed, to_categorical

K.set_floatx('float16')
K.set_epsilon(1e-4)  # the default is too small for float16

set_random_seed(3)
rng = np.random.default_rng(3)
X = rng.random((200, 12))
labels = (X[:, 0] * 4).astype(int)
Y = to_categorical(labels, 4)

model = Sequential()
model.add(Dense(48, input_shape=(12,)))
model.add(Activation('relu'))
use_dropout = False
if use_dropout:
    model.add(Dropout(0.2))
model.add(Dense(4))
model.add(Activation('softmax'))

model.compile(loss='categorical_crossentropy', optimizer=SGD(learning_rate=0.1), metrics=['acc'])
result = model.fit(X, Y, batch_size=20, epochs=10, shuffle=False, verbose=0)
for value in result.history['loss']:
    print('loss', value)
print('weights', hashlib.sha256(b''.join(w.tobytes() for w in model.get_weights())).hexdigest())
