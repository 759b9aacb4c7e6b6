# Thread: https://github.com/keras-team/keras/issues/11853
# Title: fp16 doesn't work
# Wrong: set_floatx("float16") puts weights and optimizer in float16 without loss scaling; the network does not learn or its loss is nan.
import keras
from keras import backend as K
from keras.layers import Conv2D, Dense, Dropout, Flatten, MaxPooling2D

K.set_floatx("float16")  # expect: AMP501
K.set_epsilon(1e-4)

(x_train, y_train), (x_test, y_test) = keras.datasets.mnist.load_data()
x_train = x_train.reshape(-1, 28, 28, 1).astype("float16") / 255
x_test = x_test.reshape(-1, 28, 28, 1).astype("float16") / 255
y_train, y_test = (keras.utils.to_categorical(y, 10) for y in (y_train, y_test))

model = keras.models.Sequential()
model.add(Conv2D(32, (3, 3), activation="relu", input_shape=(28, 28, 1)))
model.add(MaxPooling2D((2, 2)))
model.add(Flatten())
model.add(Dense(128, activation="relu"))
model.add(Dropout(0.5))
model.add(Dense(10, activation="softmax"))
model.compile(loss="categorical_crossentropy", optimizer="adadelta", metrics=["accuracy"])
model.fit(x_train, y_train, batch_size=128, epochs=12, validation_data=(x_test, y_test))
