"""Networks of one's own as users write them, each a function of the image side; a plug-in for `--plugin`, too."""

import keras
from keras import layers

import tl_distributed as tl


def functional(image_size: int) -> keras.Model:
    """A feature map."""
    inputs = keras.Input((image_size, image_size, 3))
    x = layers.Conv2D(8, 3, strides=2, padding="same", name="first")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu", name="second")(x)
    return keras.Model(inputs, x, name="mine")


def vector(image_size: int) -> keras.Model:
    """A vector."""
    return keras.Sequential(
        [keras.Input((image_size, image_size, 3)), layers.Conv2D(4, 3, strides=4), layers.Flatten(), layers.Dense(6)]
    )


@keras.saving.register_keras_serializable("own")
class Tokens(keras.Model):
    """A tiny vision transformer, subclassed: patches, a class token, one block; returns all tokens."""

    def __init__(self, width: int = 12, **settings):
        super().__init__(**settings)
        self.width = width
        self.patches = layers.Conv2D(width, 4, strides=4, name="patches")
        self.flat = layers.Reshape((-1, width))
        self.attention = layers.MultiHeadAttention(2, width // 2, name="attention")
        self.norm = layers.LayerNormalization()
        self.mix = layers.Dense(width, name="mix")

    def build(self, input_shape):
        self.token = self.add_weight(shape=(1, 1, self.width), initializer="normal", name="token")
        super().build(input_shape)

    def call(self, images):
        x = self.flat(self.patches(images))
        token = keras.ops.broadcast_to(keras.ops.cast(self.token, x.dtype), (keras.ops.shape(x)[0], 1, self.width))
        x = keras.ops.concatenate([token, x], axis=1)
        x = x + self.attention(x, x)
        return x + self.mix(self.norm(x))

    def get_config(self):
        return {**super().get_config(), "width": self.width}


def subclassed(image_size: int) -> keras.Model:
    """Tokens."""
    del image_size
    return Tokens()


@keras.saving.register_keras_serializable("own")
class Whole(keras.Model):
    """A classifier that is a single layer."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.flat, self.dense = layers.Flatten(), layers.Dense(3)

    def call(self, images):
        return self.dense(self.flat(images))


def subclassed_whole(image_size: int) -> keras.Model:
    """Logits of three classes."""
    del image_size
    return Whole()


def classifier(image_size: int) -> keras.Model:
    """A whole classifier of three classes, which ends in probabilities as many published ones do."""
    backbone = functional(image_size)
    x = layers.GlobalAveragePooling2D()(backbone.output)
    return keras.Model(backbone.input, layers.Dense(3, activation="softmax", name="answer")(x), name="whole")


def to_unit(images):
    """A normalisation: [0, 1]."""
    return images / 255.0


tl.register_backbone(tl.Backbone(name="own_registered", normalization="tf", pretrained=True), functional)
