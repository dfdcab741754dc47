"""Training batches from shards: ours in memory and on disk, and the ways of reading that one finds elsewhere.

Each gives batches in the order of a full shuffle a epoch (the bare readers: in the files' order), inside the graph, as
a training loop takes them; one number of each batch is used, so that none is optimised away.
"""

import abc
import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tl_distributed.benchmarks.memory import peak_bytes, reset_peak, resident_bytes
from tl_distributed.data.dataset import load_splits
from tl_distributed.data.order import BatchOrder
from tl_distributed.data.records import IMAGE_FEATURE, LABEL_FEATURE, DatasetInfo, read_manifest
from tl_distributed.data.shards import image_format

_SEED = 0
_HELD_FILES = 2000  # of the decoder that reads nothing
_SPEC = {IMAGE_FEATURE: tf.io.FixedLenFeature([], tf.string), LABEL_FEATURE: tf.io.FixedLenFeature([], tf.int64)}


def start(settings: dict[str, Any]) -> Any:
    """Opens the data set.

    Args:
      settings: `kind`, `data_dir`, `global_batch_size`, `image_size`; of TFDS `tfds_dir`.
    """
    if settings["kind"].startswith("tfds"):
        import tensorflow_datasets  # noqa: F401
    tf.constant(1) + 1  # the libraries and the runtime belong to the base
    read_manifest(settings["data_dir"])
    base = resident_bytes()
    reset_peak()
    info = read_manifest(settings["data_dir"])
    contender = _Ours(settings, info) if settings["kind"] in ("memory", "disk") else _Dataset(settings, info)
    examples, pixels = info.splits["train"].num_examples, image_format(info).num_bytes
    contender.facts = {"device": "CPU", "base_bytes": base, "split_bytes": examples * pixels, "examples": examples}
    return contender


def _one_number(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(labels, tf.int32)) + tf.cast(images[0, 0, 0, 0], tf.int32)


class _Reader(abc.ABC):
    """Reads whole epochs until a block has taken as long as it should; each block begins with a fresh iterator."""

    facts: dict[str, Any]

    def __init__(self, batch_size: int, examples: int):
        self._batch_size, self._steps_per_epoch = batch_size, max(1, examples // batch_size)
        self._read = tf.function(self._read_body, autograph=True)

    @abc.abstractmethod
    def _iterator(self) -> Any:
        """Returns what a block reads from."""

    @abc.abstractmethod
    def _batch(self, iterator: Any, step: tf.Tensor) -> tf.Tensor:
        """Reads a batch in the graph; returns one number of it."""

    def _read_body(self, iterator: Any, first: tf.Tensor, steps: tf.Tensor) -> tf.Tensor:
        total = tf.constant(0)
        for step in tf.range(first, first + steps):
            total += self._batch(iterator, step)
        return total

    def warm_up(self) -> None:
        """Reads an epoch, so that files are in the page cache, and ours from disk has checked each record once."""
        steps = tf.constant(self._steps_per_epoch, tf.int64)
        self._read(self._iterator(), tf.constant(0, tf.int64), steps).numpy()

    def block(self, amount: float) -> dict[str, float]:
        """Reads for so many seconds or longer."""
        start, epochs = time.perf_counter(), 0
        iterator = self._iterator()
        steps = tf.constant(self._steps_per_epoch, tf.int64)
        while epochs == 0 or time.perf_counter() - start < amount:
            self._read(iterator, epochs * steps, steps).numpy()
            epochs += 1
        return {
            "seconds": time.perf_counter() - start,
            "done": epochs * self._steps_per_epoch * self._batch_size,
            "resident_bytes": resident_bytes(),
            "peak_bytes": peak_bytes(),
        }


class _Ours(_Reader):
    def __init__(self, settings: dict[str, Any], info: DatasetInfo):
        super().__init__(settings["global_batch_size"], info.splits["train"].num_examples)
        self._split = load_splits(settings["data_dir"], info, ("train",), input_mode=settings["kind"])["train"]
        self._feed = self._new_feed()

    def _new_feed(self) -> Any:
        order = BatchOrder(global_batch_size=self._batch_size, num_replicas=1, seed=_SEED)
        return self._split.train_feed(order, first_step=0)

    def _iterator(self) -> Any:
        if self._split.mode == "memory":
            return ()
        self._feed = self._new_feed()
        return self._feed.iterator

    def _batch(self, iterator: Any, step: tf.Tensor) -> tf.Tensor:
        if self._split.mode == "memory":
            return _one_number(*self._feed.replica_batch(step, 0)[:2])
        feed = dataclasses.replace(self._feed, iterator=iterator)
        return _one_number(*feed.replica_batch(step, 0, *feed.host_inputs())[:2])


class _Dataset(_Reader):
    def __init__(self, settings: dict[str, Any], info: DatasetInfo):
        super().__init__(settings["global_batch_size"], info.splits["train"].num_examples)
        self._dataset = _DATASETS[settings["kind"]](settings, info).prefetch(tf.data.AUTOTUNE)

    def _iterator(self) -> Any:
        return iter(self._dataset)

    def _batch(self, iterator: Any, step: tf.Tensor) -> tf.Tensor:
        batch = next(iterator)
        if isinstance(batch, tuple):
            return _one_number(*batch)
        return tf.size(tf.strings.length(batch)) if batch.dtype == tf.string else tf.cast(batch[0], tf.int32)


def _files(settings: dict[str, Any], info: DatasetInfo) -> list[str]:
    return [f"{settings['data_dir']}/{shard.file}" for shard in info.splits["train"].shards]


def _bare(settings: dict[str, Any], info: DatasetInfo) -> tf.data.Dataset:
    """Serialised records in the files' order, not shuffled and not parsed."""
    reads = tf.data.AUTOTUNE if settings["kind"] == "bare_parallel" else None
    records = tf.data.TFRecordDataset(_files(settings, info), num_parallel_reads=reads)
    return records.repeat().batch(settings["global_batch_size"], drop_remainder=True)


def _decode_square(file: tf.Tensor, info: DatasetInfo) -> tf.Tensor:
    """Returns a picture as the tutorials have it: decoded, and squashed to a square."""
    return _square(tf.io.decode_jpeg(file, channels=3, dct_method="INTEGER_ACCURATE"), info)


def _square(pixels: tf.Tensor, info: DatasetInfo) -> tf.Tensor:
    return tf.cast(tf.image.resize(pixels, info.image_shape[:2]), tf.uint8)


def _decode_alone(settings: dict[str, Any], info: DatasetInfo) -> tf.data.Dataset:
    """Pictures of the files' order, decoded in parallel and nothing else; of each batch's pictures one number."""
    files = [
        tf.train.Example.FromString(record).features.feature[IMAGE_FEATURE].bytes_list.value[0]
        for record in tf.data.TFRecordDataset(_files(settings, info)).take(_HELD_FILES).as_numpy_iterator()
    ]

    def decode(file: tf.Tensor) -> tf.Tensor:
        return tf.io.decode_jpeg(file, channels=3, dct_method="INTEGER_ACCURATE")[0, 0, 0]

    pixels = tf.data.Dataset.from_tensor_slices(files).repeat().map(decode, num_parallel_calls=tf.data.AUTOTUNE)
    return pixels.batch(settings["global_batch_size"], drop_remainder=True)


def _parse_one(info: DatasetInfo) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        parsed = tf.io.parse_single_example(record, _SPEC)
        if info.storage != "pixels":
            return _decode_square(parsed[IMAGE_FEATURE], info), parsed[LABEL_FEATURE]
        return tf.reshape(tf.io.decode_raw(parsed[IMAGE_FEATURE], tf.uint8), info.image_shape), parsed[LABEL_FEATURE]

    return parse


def _idiom(settings: dict[str, Any], info: DatasetInfo) -> tf.data.Dataset:
    """Parses each record, then shuffles with a buffer as large as the set, then batches: the usual idiom."""
    records = tf.data.TFRecordDataset(_files(settings, info), num_parallel_reads=tf.data.AUTOTUNE)
    examples = records.map(_parse_one(info), num_parallel_calls=tf.data.AUTOTUNE)
    examples = examples.shuffle(info.splits["train"].num_examples).repeat()
    if settings["kind"] == "resize_on_cpu":
        size = (settings["image_size"],) * 2
        examples = examples.map(lambda x, y: (tf.image.resize(x, size), y), num_parallel_calls=tf.data.AUTOTUNE)
    return examples.batch(settings["global_batch_size"], drop_remainder=True)


def _tfds(settings: dict[str, Any], info: DatasetInfo) -> tf.data.Dataset:
    """What TFDS reads of its own records of as many images of the same size (PNG, as its CIFAR-10; or JPEG).

    It keeps a set below 250 MB in memory, decoded, unless told not to.
    """
    import tensorflow_datasets as tfds

    count = info.splits["train"].num_examples
    builder = tfds.builder_from_directory(f"{settings['tfds_dir']}/noise/1.0.0")
    config = tfds.ReadConfig(try_autocache=settings["kind"] == "tfds")
    examples = builder.as_dataset(split="train", as_supervised=True, shuffle_files=True, read_config=config)
    if info.storage != "pixels":
        square = functools.partial(_square, info=info)
        examples = examples.map(lambda x, y: (square(x), y), num_parallel_calls=tf.data.AUTOTUNE)
    return examples.shuffle(count).repeat().batch(settings["global_batch_size"], drop_remainder=True)


_DATASETS = {
    "bare": _bare,
    "bare_parallel": _bare,
    "decode_alone": _decode_alone,
    "idiom": _idiom,
    "resize_on_cpu": _idiom,
    "tfds": _tfds,
    "tfds_from_disk": _tfds,
}
