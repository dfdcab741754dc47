"""Resize, flip, crop and zoom of a batch: ours, `tf.image` under XLA, and Keras's augmentation layers.

Each makes float32 `[batch, size, size, 3]` of a uint8 batch in memory, one batch after the other, in the order that
costs it the least. `tf.image` has no zoom that compiles: it does without, and crops all images of a batch alike; under
XLA it does without the crop too, since that is compiled anew for every offset.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tl_distributed.benchmarks.random_images import NUM_CLASSES, random_images
from tl_distributed.pixels.augment import NAMED_AUGMENTATIONS, augment_batch
from tl_distributed.pixels.augment_settings import AugmentSettings
from tl_distributed.pixels.seeds import per_image_seeds

_PADDING, _ZOOM = 4, 0.2


def start(settings: dict[str, Any]) -> Any:
    """`settings`: `kind`, `native_size`, `image_size`, `batch_size`."""
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    kind = _InDataset if settings["kind"] == "keras_tf_data" else _InMemory
    return kind(settings)


def our_settings() -> AugmentSettings:
    """Returns flip, crop and zoom, and nothing else."""
    fields = {"horizontal_flip": True, "crop_padding_pixels": _PADDING, "zoom_fraction": _ZOOM}
    return dataclasses.replace(NAMED_AUGMENTATIONS["none"], **fields)


def _ours(settings: dict[str, Any]) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]:
    def prepare(images: tf.Tensor, labels: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        seeds = per_image_seeds(tf.constant(0), step, tf.range(settings["batch_size"]))
        pixels, _ = augment_batch(
            images, labels, seeds, settings=our_settings(), image_size=settings["image_size"], num_classes=NUM_CLASSES
        )
        return pixels

    return prepare


def _tf_image(settings: dict[str, Any]) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]:
    batch, size, crops = settings["batch_size"], settings["native_size"], settings["kind"] != "tf_image_xla"

    def prepare(images: tf.Tensor, labels: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        del labels
        seed = tf.stack([tf.cast(step, tf.int32), 0])
        if crops:
            images = tf.pad(images, [[0, 0], [_PADDING, _PADDING], [_PADDING, _PADDING], [0, 0]], "SYMMETRIC")
            images = tf.image.stateless_random_crop(images, [batch, size, size, 3], seed)
        images = tf.image.stateless_random_flip_left_right(images, seed)
        return tf.image.resize(images, (settings["image_size"],) * 2)

    return prepare


def _layers(settings: dict[str, Any], *, resize_first: bool) -> list[keras.layers.Layer]:
    shift = _PADDING / settings["native_size"]
    augmentations = [
        keras.layers.RandomFlip("horizontal"),
        keras.layers.RandomTranslation(shift, shift, fill_mode="reflect"),
        keras.layers.RandomZoom(_ZOOM, fill_mode="reflect"),
    ]
    resizing = keras.layers.Resizing(settings["image_size"], settings["image_size"])
    return [resizing, *augmentations] if resize_first else [*augmentations, resizing]


def _keras(settings: dict[str, Any]) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]:
    layers = _layers(settings, resize_first=settings["kind"] == "keras_graph_resize_first")

    def prepare(images: tf.Tensor, labels: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        del labels, step
        images = tf.cast(images, tf.float32)
        for layer in layers:
            images = layer(images, training=True)
        return images

    return prepare


class _InMemory:
    """One call for each batch, which is in memory."""

    def __init__(self, settings: dict[str, Any]):
        kind = settings["kind"]
        make = _ours if kind.startswith("ours") else _tf_image if kind.startswith("tf_image") else _keras
        if kind == "keras_eager":
            self._prepare = make(settings)
        else:
            compiled = kind in ("ours_xla", "tf_image_xla")
            self._prepare = tf.function(make(settings), autograph=False, jit_compile=compiled)
        images, labels = random_images(settings["batch_size"], settings["native_size"])
        self._images, self._labels, self._step = tf.constant(images), tf.constant(labels), 0
        self._batch_size = settings["batch_size"]
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        self.facts = {"device": devices[0].name}

    def warm_up(self) -> None:
        self.block(2)

    def block(self, amount: float) -> dict[str, float]:
        """Prepares so many batches."""
        start = time.perf_counter()
        for _ in range(int(amount)):
            self._step += 1
            pixels = self._prepare(self._images, self._labels, tf.constant(self._step))
        pixels[0, 0, 0, 0].numpy()  # waits
        tf.test.experimental.sync_devices()
        return {"seconds": time.perf_counter() - start, "done": int(amount) * self._batch_size}


class _InDataset:
    """`tf.data`: the layers in `map`, batches at a time, on all cores."""

    def __init__(self, settings: dict[str, Any]):
        layers = _layers(settings, resize_first=False)

        def prepare(images: tf.Tensor) -> tf.Tensor:
            images = tf.cast(images, tf.float32)
            for layer in layers:
                images = layer(images, training=True)
            return images

        images, _ = random_images(settings["batch_size"], settings["native_size"])
        batches = tf.data.Dataset.from_tensors(images).repeat()
        self._dataset = batches.map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
        self._batch_size = settings["batch_size"]
        self.facts = {"device": "CPU"}

    def warm_up(self) -> None:
        self.block(2)

    def block(self, amount: float) -> dict[str, float]:
        """Prepares so many batches, with an iterator of its own: none is ready before the block begins."""
        start = time.perf_counter()
        for _ in self._dataset.take(int(amount)).prefetch(tf.data.AUTOTUNE):
            pass
        return {"seconds": time.perf_counter() - start, "done": int(amount) * self._batch_size}
