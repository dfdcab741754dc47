"""A tiny backbone that counts, among its weights, how often each image of a numbered data set trained it.

The counts lie in every checkpoint, so those of the last one tell what the final weights have seen, over all restarts:
each image exactly once an epoch, or some were lost or counted twice.
"""

import keras
import numpy as np
import tensorflow as tf

from tl_distributed.models.backbones import BACKBONES, Backbone
from tl_distributed.models.build import register_backbone

NUM_IMAGES = 96  # of the training split; no other variable has this shape


@keras.saving.register_keras_serializable(package="tl_distributed_tests")
class SeenImages(keras.layers.Layer):
    """Passes its images on; takes unaugmented ones in [-1, 1] from `write_toy_dataset(numbered=True)`."""

    def build(self, input_shape):
        self.counts = self.add_weight(shape=(NUM_IMAGES,), initializer="zeros", trainable=False, name="counts")

    def call(self, images, training=False):
        if training:
            high, low, _ = tf.unstack(tf.cast(tf.round((images[:, 0, 0] + 1) * 127.5), tf.int32), axis=-1)
            seen = tf.math.bincount(high * 256 + low, minlength=NUM_IMAGES, maxlength=NUM_IMAGES, dtype=tf.float32)
            # The engine takes the mean of what the replicas assign.
            self.counts.assign(self.counts + seen * tf.distribute.get_strategy().num_replicas_in_sync)
        return images


def _build(image_size: int) -> keras.Model:
    inputs = keras.Input((image_size, image_size, 3))
    x = SeenImages(name="seen")(inputs)
    for index, filters in enumerate((8, 16), start=1):
        x = keras.layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False, name=f"conv{index}")(x)
        x = keras.layers.BatchNormalization(momentum=0.8, name=f"bn{index}")(x)
        x = keras.layers.ReLU(name=f"relu{index}")(x)
    return keras.Model(inputs, x, name="counting")


def register_counting_backbone() -> None:
    """Adds `counting` to the table, once a process."""
    if "counting" not in BACKBONES:
        row = Backbone(
            name="counting", family="", constructor="", default_size=16, minimum_size=8, normalization="tf",
            gmacs=0.0001, has_imagenet_weights=False, feature_layers=("relu2",),
        )  # fmt: skip
        register_backbone(row, _build)


def seen_images(checkpoint_folder: str) -> np.ndarray:
    """Returns how often the newest checkpoint's weights were trained by each image: `[NUM_IMAGES]`."""
    reader = tf.train.load_checkpoint(checkpoint_folder)
    shapes = reader.get_variable_to_shape_map()
    found = [name for name, shape in shapes.items() if shape == [NUM_IMAGES] and name.startswith("weights/")]
    assert len(found) == 1, found
    return reader.get_tensor(found[0])
