"""Stock Keras: `model.fit` and `model.predict`, as tutorials use them and at their best.

The network is the very one of our table, which is that of `keras.applications`; all around it is stock.
"""

import contextlib
import queue
import threading
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tl_distributed.benchmarks.random_images import NUM_CLASSES, random_images
from tl_distributed.models.backbones import Backbone, get_backbone
from tl_distributed.models.build import build_backbone
from tl_distributed.models.flops import count_macs

_PADDING, _DROPOUT, _RATE, _WEIGHT_DECAY = 4, 0.2, 1e-4, 1e-4


def start(settings: dict[str, Any]) -> Any:
    """Builds and compiles the model.

    Args:
      settings: `backbone`, `image_size`, `native_size`, `images`, `global_batch_size`, `augment`, `precision`,
        `replicas`, `mode`; `jit_compile` as `compile` takes it; `folder` of image files by class, from which a
        tutorial reads, or nothing for arrays in memory; `augment_in_map`: the tutorial's layers are in the dataset,
        not in the model.
    """
    strategy = _strategy(settings["replicas"])
    keras.utils.set_random_seed(0)
    if settings["precision"] != "auto":
        keras.config.set_dtype_policy(settings["precision"])
    elif tf.config.list_physical_devices("GPU"):
        keras.config.set_dtype_policy("mixed_bfloat16")
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = _tutorial_model(settings) if settings["folder"] else _best_model(settings)
        model.compile(
            keras.optimizers.AdamW(_RATE, weight_decay=_WEIGHT_DECAY),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            jit_compile=settings["jit_compile"],
        )
    dataset = _tutorial_dataset(settings) if settings["folder"] else _best_dataset(settings)
    contender = (_Predict if settings["mode"] == "forward" else _Fit)(model, dataset, settings["global_batch_size"])
    contender.facts = {
        "device": ", ".join(_devices(settings["replicas"])),
        "replicas": strategy.num_replicas_in_sync if strategy else 1,
        "xla": model.jit_compile,
        "precision": keras.config.dtype_policy().name,
        "macs_per_image": count_macs(model),
        "parameters": model.count_params(),
        "bytes_to_device_per_image": sum(
            int(np.prod(spec.shape[1:])) * spec.dtype.size for spec in tf.nest.flatten(dataset.element_spec)
        ),
    }
    return contender


def _strategy(replicas: int) -> Any:
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:  # leave memory to the contenders that wait
        tf.config.experimental.set_memory_growth(gpu, True)
    if replicas > 1 and not gpus:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
    devices = _devices(replicas)
    return tf.distribute.MirroredStrategy(devices) if len(devices) > 1 else None


def _devices(replicas: int) -> list[str]:
    """Returns all GPUs that are visible, or as many devices of the CPU as there are replicas."""
    gpus = tf.config.list_logical_devices("GPU")
    devices = gpus or tf.config.list_logical_devices("CPU")[: max(replicas, 1)]
    return [device.name for device in devices]


def _best_model(settings: dict[str, Any]) -> keras.Model:
    """Returns the network; on a GPU it resizes, so that uint8 of the stored size travels."""
    size = settings["image_size"]
    if not tf.config.list_physical_devices("GPU"):
        return _classifier(settings, keras.Input((size, size, 3)), lambda x: x)
    native = settings["native_size"]
    inputs = keras.Input((native, native, 3), dtype="uint8")
    return _classifier(settings, inputs, keras.layers.Resizing(size, size))


def _tutorial_model(settings: dict[str, Any]) -> keras.Model:
    """Returns augmentation layers (where they are not in the dataset), scaling and the network in one model."""
    augmentation = (lambda x: x) if settings["augment_in_map"] else _tutorial_augmentation(settings)
    return _classifier(settings, keras.Input((settings["image_size"],) * 2 + (3,)), augmentation)


def _tutorial_augmentation(settings: dict[str, Any]) -> Any:
    if settings["augment"] == "none":
        return lambda x: x
    shift = _PADDING / settings["native_size"]
    return keras.Sequential([keras.layers.RandomFlip("horizontal"), keras.layers.RandomTranslation(shift, shift)])


def _classifier(settings: dict[str, Any], inputs: Any, before: Any) -> keras.Model:
    backbone = get_backbone(settings["backbone"])
    network = build_backbone(backbone, image_size=settings["image_size"], weights="none")
    x = network(_scaled(before(inputs), backbone))
    if len(x.shape) == 4:
        x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(NUM_CLASSES, dtype="float32")(keras.layers.Dropout(_DROPOUT)(x)))


def _scaled(x: Any, backbone: Backbone) -> Any:
    if backbone.normalization == "internal":
        return x
    if backbone.normalization == "tf":
        return keras.layers.Rescaling(1 / 127.5, -1.0)(x)
    return getattr(keras.applications, backbone.family).preprocess_input(keras.ops.cast(x, "float32"))


def _tutorial_dataset(settings: dict[str, Any]) -> tf.data.Dataset:
    """Reads, decodes and resizes image files, one by one, in every epoch."""
    dataset = keras.utils.image_dataset_from_directory(
        settings["folder"], image_size=(settings["image_size"],) * 2, batch_size=settings["global_batch_size"],
        verbose=False,
    )  # fmt: skip
    if settings["augment_in_map"] and settings["augment"] != "none":
        augmentation = _tutorial_augmentation(settings)
        dataset = dataset.map(lambda x, y: (augmentation(x, training=True), y), num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.prefetch(tf.data.AUTOTUNE)


def _best_dataset(settings: dict[str, Any]) -> tf.data.Dataset:
    """Whole batches from memory: crop and flip on uint8 of the stored size, then, on a CPU, one resize of the batch."""
    images, labels = random_images(settings["images"], settings["native_size"])
    size, on_gpu = settings["image_size"], bool(tf.config.list_physical_devices("GPU"))

    def prepare(x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        if settings["augment"] == "basic":
            x = tf.image.random_flip_left_right(_random_crop(x))
        if not on_gpu:
            x = tf.image.resize(x, (size, size))
        return x, y

    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(len(images)).repeat()
    dataset = dataset.batch(settings["global_batch_size"], drop_remainder=True)
    return dataset.map(prepare, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def _random_crop(x: tf.Tensor) -> tf.Tensor:
    """Crops each image of a batch at a place of its own after padding."""
    batch, size = tf.shape(x)[0], x.shape[1]
    padded = tf.pad(x, [[0, 0], [_PADDING, _PADDING], [_PADDING, _PADDING], [0, 0]], "SYMMETRIC")
    offsets = tf.random.uniform([2, batch, 1], 0, 2 * _PADDING + 1, tf.int32) + tf.range(size)
    rows = tf.gather(padded, offsets[0], axis=1, batch_dims=1)
    columns = tf.gather(tf.transpose(rows, [0, 2, 1, 3]), offsets[1], axis=1, batch_dims=1)
    return tf.ensure_shape(tf.transpose(columns, [0, 2, 1, 3]), x.shape)


class _Fit:
    """One call of `fit` that never ends, halted between blocks, so that what begins a call is not in a block."""

    def __init__(self, model: keras.Model, dataset: tf.data.Dataset, batch_size: int):
        self._batch_size = batch_size
        self._gate = _Gate()
        endless = {"steps_per_epoch": 10**9} if dataset.cardinality() == tf.data.INFINITE_CARDINALITY else {}

        def fit() -> None:
            try:
                model.fit(dataset, epochs=10**9, verbose=0, callbacks=[self._gate], **endless)
            except BaseException as error:
                self._gate.finished.put(error)

        self._thread = threading.Thread(target=fit, daemon=True)

    def warm_up(self) -> None:
        self._thread.start()
        self.block(2)

    def block(self, amount: float) -> dict[str, float]:
        """Lets `fit` do so many steps."""
        start = time.perf_counter()
        self._gate.orders.put(int(amount))
        end = self._gate.finished.get()
        if isinstance(end, BaseException):
            raise end
        return {"seconds": end - start, "done": int(amount) * self._batch_size}


class _Gate(keras.callbacks.Callback):
    """Halts `fit` before a step until steps are ordered; says when they are done."""

    def __init__(self):
        super().__init__()
        self.orders, self.finished = queue.Queue(), queue.Queue()
        self._left = 0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self._left == 0:
            self._left = self.orders.get()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._left -= 1
        if self._left == 0:
            tf.test.experimental.sync_devices()
            self.finished.put(time.perf_counter())


class _Predict:
    def __init__(self, model: keras.Model, dataset: tf.data.Dataset, batch_size: int):
        self._model, self._dataset, self._batch_size = model, dataset.repeat(), batch_size

    def warm_up(self) -> None:
        for _ in range(2):
            self.block(1)

    def block(self, amount: float) -> dict[str, float]:
        """Predicts so many batches."""
        start = time.perf_counter()
        self._model.predict(self._dataset, steps=int(amount), verbose=0)
        return {"seconds": time.perf_counter() - start, "done": int(amount) * self._batch_size}
