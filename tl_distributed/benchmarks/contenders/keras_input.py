"""What feeds stock Keras: `tf.data` as tutorials use it, and at its best; the same for every library and backend."""

from types import ModuleType
from typing import Any

import numpy as np
import tensorflow as tf

from tl_distributed.benchmarks.contenders.keras_networks import PADDING, tutorial_augmentation
from tl_distributed.benchmarks.random_images import random_images

_RESIZED_AT_ONCE = 64


def tutorial_dataset(keras: ModuleType, settings: dict[str, Any]) -> tf.data.Dataset:
    """Reads, decodes and resizes image files, one by one, in every epoch."""
    dataset = keras.utils.image_dataset_from_directory(
        settings["folder"], image_size=(settings["image_size"],) * 2, batch_size=settings["global_batch_size"],
        verbose=False,
    )  # fmt: skip
    if settings["augment_in_map"] and settings["augment"] != "none":
        augmentation = tutorial_augmentation(keras, settings)
        dataset = dataset.map(lambda x, y: (augmentation(x, training=True), y), num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.prefetch(tf.data.AUTOTUNE)


def best_dataset(settings: dict[str, Any], *, on_gpu: bool) -> tf.data.Dataset:
    """Whole batches from memory, without end.

    Crop and flip on uint8 of the stored size, then, on a CPU, one resize of the batch. Without augmentation a CPU
    finds float32 images of the network's size in memory: what never changes is done once.
    """
    images, labels = random_images(settings["images"], settings["native_size"])
    size, augments = settings["image_size"], settings["augment"] == "basic"
    if not augments and not on_gpu:
        images = _resized(images, size)

    def batch(indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x, y = tf.gather(images, indices), tf.gather(labels, indices)
        if augments:
            x = tf.image.random_flip_left_right(random_crop(x))
            if not on_gpu:
                x = tf.image.resize(x, (size, size))
        return x, y

    order = tf.data.Dataset.range(len(labels)).shuffle(len(labels)).repeat()
    batches = order.batch(settings["global_batch_size"], drop_remainder=True)
    return batches.map(batch, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def _resized(images: np.ndarray, size: int) -> np.ndarray:
    parts = np.array_split(images, max(len(images) // _RESIZED_AT_ONCE, 1))
    return np.concatenate([tf.image.resize(part, (size, size)).numpy() for part in parts])


def random_crop(x: tf.Tensor) -> tf.Tensor:
    """Crops each image of a batch at a place of its own after padding."""
    batch, size = tf.shape(x)[0], x.shape[1]
    padded = tf.pad(x, [[0, 0], [PADDING, PADDING], [PADDING, PADDING], [0, 0]], "SYMMETRIC")
    offsets = tf.random.uniform([2, batch, 1], 0, 2 * PADDING + 1, tf.int32) + tf.range(size)
    rows = tf.gather(padded, offsets[0], axis=1, batch_dims=1)
    columns = tf.gather(tf.transpose(rows, [0, 2, 1, 3]), offsets[1], axis=1, batch_dims=1)
    return tf.ensure_shape(tf.transpose(columns, [0, 2, 1, 3]), x.shape)
