# Thread: https://github.com/matterport/Mask_RCNN/issues/1482
# Title: Half precision training but get total loss=Nan
# Wrong: The half training is made with set_floatx("float16"): each loss looks right but their sum is nan.
import tensorflow as tf
from tensorflow.keras import backend as K
from tensorflow.keras import layers, models


class HalfTrainer:
    def __init__(self, config):
        self.config = config
        tf.keras.backend.set_floatx("float16")  # expect: AMP501
        K.set_epsilon(1e-4)
        self.model = self.build()

    def build(self):
        image = layers.Input(shape=(None, None, 3))
        x = image
        for width in (32, 64, 128):
            x = layers.Conv2D(width, 3, strides=2, padding="same", activation="relu")(x)
        boxes = layers.Conv2D(4, 1, name="boxes")(x)
        scores = layers.Conv2D(1, 1, activation="sigmoid", name="scores")(x)
        return models.Model(image, [boxes, scores])

    def train(self, dataset, epochs):
        self.model.compile(
            optimizer=tf.keras.optimizers.SGD(self.config.lr, momentum=0.9, clipnorm=5.0),
            loss={"boxes": "huber", "scores": "binary_crossentropy"},
        )
        self.model.fit(dataset, epochs=epochs, steps_per_epoch=self.config.steps)
