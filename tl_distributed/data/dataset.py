"""Splits of a data set, held in memory or streamed from shards, and the batches that the engine asks for.

Both kinds answer the same two questions. Training: the uint8 images of one replica's slice of global batch
number `step`. Evaluation: every example exactly once, in fixed-size batches with the count of real rows.
No `tf.distribute` dataset is used: with one alive in the process the training step ran at half speed on CPUs.
"""

import dataclasses
import logging
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from tl_distributed.commandline import UserError, tensorflow_cause
from tl_distributed.data.free_memory import free_memory_bytes
from tl_distributed.data.order import example_indices
from tl_distributed.data.records import DatasetInfo, parse_records
from tl_distributed.data.subset import StratifiedChoice

_LOG = logging.getLogger(__name__)

_READ_BATCH = 1024
_INTERLEAVED_RECORDS, _OPEN_FILES = 64, 16
_READ_ERRORS = (tf.errors.DataLossError, tf.errors.InvalidArgumentError)
_PARSING, _COUNT = "parse_records_of_shard", "wrong number of records"  # by which errors of the graph are told apart
_MEMORY_SHARE = 0.25  # of the free memory: the most that auto gives to the splits


@dataclasses.dataclass(frozen=True)
class EvalBatch:
    """`images [batch, h, w, 3] uint8` and `labels [batch] int32`, of which the first `num_valid` rows are real."""

    images: np.ndarray
    labels: np.ndarray
    num_valid: int


class TrainFeed(Protocol):
    """Training batches, read inside the engine's `tf.function` loop."""

    def input_error(self, error: tf.errors.OpError) -> UserError | None:
        """Returns what to tell the user where an error of the loop came from reading, else `None`."""

    def host_inputs(self) -> tuple[Any, ...]:
        """Called once a step, outside the replicas: what every replica's `replica_batch` is given."""

    def replica_batch(self, step: tf.Tensor, replica: Any, *host_inputs: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Called in each replica: its `[per_replica, h, w, 3] uint8` images and `[per_replica] int32` labels."""


class Split(Protocol):
    """One split of a data set."""

    num_examples: int
    mode: str

    def train_feed(self, *, global_batch_size: int, num_replicas: int, seed: int, first_step: int) -> TrainFeed: ...

    def eval_batches(self, batch_size: int) -> Iterator[EvalBatch]: ...


class MemorySplit:
    """A split held once in host memory as uint8; a batch is one gather by a stateless shuffle of indices."""

    mode = "memory"

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        """Takes `images [n, h, w, 3] uint8` and `labels [n] int32`."""
        self.num_examples = len(images)
        with tf.device("/cpu:0"):  # on the host also where there are GPUs: only batches travel
            self._images, self._labels = tf.constant(images), tf.constant(labels, tf.int32)

    def train_feed(self, *, global_batch_size: int, num_replicas: int, seed: int, first_step: int) -> TrainFeed:
        del first_step  # the position of a batch is its step number
        return _MemoryFeed(self._images, self._labels, global_batch_size, global_batch_size // num_replicas, seed)

    def eval_batches(self, batch_size: int) -> Iterator[EvalBatch]:
        images, labels = self._images.numpy(), self._labels.numpy()
        for start in range(0, self.num_examples, batch_size):
            yield _padded(images[start : start + batch_size], labels[start : start + batch_size], batch_size)


@dataclasses.dataclass(frozen=True)
class _MemoryFeed:
    images: tf.Tensor
    labels: tf.Tensor
    global_batch_size: int
    replica_batch_size: int
    seed: int

    def input_error(self, error: tf.errors.OpError) -> None:
        del error  # everything was read before training began

    def host_inputs(self) -> tuple[()]:
        return ()

    def replica_batch(self, step: tf.Tensor, replica: Any) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.device("/cpu:0"):
            first = tf.cast(step, tf.int64) * self.global_batch_size
            first += tf.cast(replica, tf.int64) * self.replica_batch_size
            positions = first + tf.range(self.replica_batch_size, dtype=tf.int64)
            indices = example_indices(positions, num_examples=self.images.shape[0], seed=self.seed)
            return tf.gather(self.images, indices), tf.gather(self.labels, indices)


class StreamSplit:
    """A split read from its shards again in every epoch; a window of examples is held for shuffling."""

    mode = "stream"

    def __init__(self, files: list[str], num_examples: int, image_shape: tuple[int, int, int], buffer_examples: int):
        self.num_examples = num_examples
        self._files, self._image_shape, self._buffer_examples = files, image_shape, buffer_examples

    def train_feed(self, *, global_batch_size: int, num_replicas: int, seed: int, first_step: int) -> TrainFeed:
        dataset = self._endless(seed, first_step * global_batch_size)
        dataset = dataset.rebatch(global_batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
        return _StreamFeed(iter(dataset), self._files, self._image_shape, global_batch_size // num_replicas)

    def eval_batches(self, batch_size: int) -> Iterator[EvalBatch]:
        dataset = tf.data.TFRecordDataset(self._files, num_parallel_reads=tf.data.AUTOTUNE).with_options(_ordered())
        dataset = dataset.batch(batch_size).map(lambda rows: parse_records(rows, self._image_shape))
        done = 0
        try:
            for images, labels in dataset.prefetch(2).as_numpy_iterator():
                done += len(images)
                if done > self.num_examples:
                    break
                yield _padded(images, labels, batch_size)
        except _READ_ERRORS as error:
            raise _bad_record(self._files, error) from None
        if done != self.num_examples:
            raise _wrong_count(self._files)

    def _endless(self, seed: int, first_position: int) -> tf.data.Dataset:
        """Returns batches, of any size, of serialised records from `first_position` of the endless sequence on.

        Any position can be reached again: whole epochs are jumped over, the rest of one is read and dropped.
        """
        first_epoch, skipped = divmod(first_position, self.num_examples)
        rest = self._epoch(seed, tf.constant(first_epoch, tf.int64)).unbatch().skip(skipped).batch(_READ_BATCH)
        following = tf.data.Dataset.counter(start=first_epoch + 1, dtype=tf.int64)
        following = following.flat_map(lambda epoch: self._epoch(seed, epoch))
        return rest.concatenate(following).with_options(_ordered())

    def _epoch(self, seed: int, epoch: tf.Tensor) -> tf.data.Dataset:
        """Returns one epoch in batches: files in a new order, interleaved, then each window of records shuffled.

        Stateless and on whole batches: `Dataset.shuffle` takes no seed that depends on the epoch, and handles
        records one by one. The shards are shuffled already, so a window need not reach into the next.
        """
        epoch_seed = tf.random.experimental.stateless_fold_in([seed, 0], tf.cast(epoch, tf.int32))
        files = tf.random.experimental.stateless_shuffle(tf.constant(self._files), epoch_seed)
        windows = (
            tf.data.Dataset.from_tensor_slices(files)
            .interleave(
                lambda file: tf.data.TFRecordDataset(file).batch(_INTERLEAVED_RECORDS),
                cycle_length=min(_OPEN_FILES, len(self._files)),
                num_parallel_calls=tf.data.AUTOTUNE,
                deterministic=True,
            )
            .rebatch(self._buffer_examples)
        )

        def shuffled(number: tf.Tensor, records: tf.Tensor) -> tf.Tensor:
            expected = tf.minimum(self.num_examples - number * self._buffer_examples, self._buffer_examples)
            window_seed = tf.random.experimental.stateless_fold_in(epoch_seed, tf.cast(number, tf.int32) + 1)
            with tf.control_dependencies([tf.debugging.assert_equal(tf.size(records, tf.int64), expected, _COUNT)]):
                return tf.random.experimental.stateless_shuffle(records, window_seed)

        num_windows = -(-self.num_examples // self._buffer_examples)
        windows = windows.apply(tf.data.experimental.assert_cardinality(num_windows))
        return windows.enumerate().map(shuffled, num_parallel_calls=2, deterministic=True)


@dataclasses.dataclass(frozen=True)
class _StreamFeed:
    iterator: Any
    files: list[str]
    image_shape: tuple[int, int, int]
    replica_batch_size: int

    def input_error(self, error: tf.errors.OpError) -> UserError | None:
        if isinstance(error, tf.errors.FailedPreconditionError) or _COUNT in error.message:
            return _wrong_count(self.files)
        read = isinstance(error, tf.errors.DataLossError) or _PARSING in error.message
        return _bad_record(self.files, error) if read else None

    def host_inputs(self) -> tuple[tf.Tensor]:
        return (next(self.iterator),)

    def replica_batch(self, step: tf.Tensor, replica: Any, serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        del step
        with tf.device("/cpu:0"):
            first = tf.cast(replica, tf.int32) * self.replica_batch_size
            rows = serialized[first : first + self.replica_batch_size]
            with tf.name_scope(_PARSING):
                images, labels = parse_records(rows, self.image_shape)
            images = tf.ensure_shape(images, [self.replica_batch_size, *self.image_shape])
            return images, tf.ensure_shape(labels, [self.replica_batch_size])


def load_splits(
    data_dir: str, info: DatasetInfo, names: tuple[str, ...], *, input_mode: str, shuffle_buffer_examples: int
) -> dict[str, Split]:
    """Opens the named splits of a finished data set.

    Args:
      data_dir: The data set's folder.
      info: Its manifest.
      names: Splits to open; one that the data set lacks is left out.
      input_mode: memory, stream, or auto: memory where the splits fit into a quarter of the free memory.
      shuffle_buffer_examples: Window of stream mode.

    Raises:
      UserError: A split without examples, a missing shard, or a record that does not parse.
    """
    present = [name for name in names if name in info.splits]
    num_bytes = sum(info.splits[name].num_examples for name in present) * int(np.prod(info.image_shape))
    if input_mode == "auto":
        free = free_memory_bytes()
        input_mode = "memory" if num_bytes <= _MEMORY_SHARE * free else "stream"
        _LOG.info(
            "Input: %s mode (%.0f MB of pixels, %.0f MB of memory free).", input_mode, num_bytes / 1e6, free / 1e6
        )
    splits: dict[str, Split] = {}
    for name in present:
        files, num_examples = _shard_files(data_dir, info, name), info.splits[name].num_examples
        if input_mode == "memory":
            splits[name] = MemorySplit(*_read_all(files, num_examples, info.image_shape))
        else:
            splits[name] = StreamSplit(files, num_examples, info.image_shape, shuffle_buffer_examples)
    return splits


def load_subset(data_dir: str, info: DatasetInfo, name: str, *, images_per_class: int, seed: int) -> MemorySplit:
    """Reads some images of each class of a split into memory; the others are dropped as they are read.

    Args:
      data_dir: The data set's folder.
      info: Its manifest.
      name: Split, which the data set has.
      images_per_class: Images of each class; of a class that has fewer, all.
      seed: Chooses them. Of one seed, a larger subset includes every smaller one.

    Raises:
      UserError: As `load_splits`.
    """
    split = info.splits[name]
    files = _shard_files(data_dir, info, name)
    counts = [split.counts_per_class.get(class_name, 0) for class_name in info.class_names]
    choice = StratifiedChoice(counts, images_per_class=images_per_class, seed=seed)
    images, labels = [np.empty((0, *info.image_shape), np.uint8)], [np.empty(0, np.int32)]
    done = 0
    for batch_images, batch_labels in _read_batches(files, info.image_shape):
        done += len(batch_labels)
        try:
            chosen = choice.mask(batch_labels)
        except IndexError:  # more of a class than the manifest says
            raise _wrong_count(files) from None
        images.append(batch_images[chosen])
        labels.append(batch_labels[chosen])
    if done != split.num_examples:
        raise _wrong_count(files)
    short = [class_name for class_name, count in zip(info.class_names, counts, strict=True) if count < images_per_class]
    if short:
        _LOG.info("--images_per_class=%d: fewer in %s, all are taken.", images_per_class, ", ".join(short[:5]))
    return MemorySplit(np.concatenate(images), np.concatenate(labels))


def _shard_files(data_dir: str, info: DatasetInfo, name: str) -> list[str]:
    """Returns the paths of a split's shards after a look at each file's size."""
    shards = {f"{data_dir.rstrip('/')}/{shard.file}": shard for shard in info.splits[name].shards if shard.num_records}
    if not shards:
        raise UserError(f"--data_dir={data_dir}: split {name} has no examples")
    for file, shard in shards.items():
        _check_size(file, shard.num_bytes)
    return list(shards)


def _check_size(file: str, num_bytes: int) -> None:
    try:
        found = tf.io.gfile.stat(file).length
    except tf.errors.NotFoundError:
        raise UserError(f"{file}: missing; build the data set again with --overwrite") from None
    if found != num_bytes:
        raise UserError(
            f"{file}: {found} bytes, dataset.json says {num_bytes}; copy it anew, or build the data set again "
            "with --overwrite"
        )


def _read_all(files: list[str], num_examples: int, image_shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    images, labels = np.empty((num_examples, *image_shape), np.uint8), np.empty(num_examples, np.int32)
    done = 0
    for batch_images, batch_labels in _read_batches(files, image_shape):
        end = done + len(batch_images)
        if end > num_examples:
            raise _wrong_count(files)
        images[done:end], labels[done:end] = batch_images, batch_labels
        done = end
    if done != num_examples:
        raise _wrong_count(files)
    return images, labels


def _read_batches(files: list[str], image_shape: tuple[int, int, int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields images and labels of all records in order, in batches of any size."""
    dataset = tf.data.TFRecordDataset(files, num_parallel_reads=tf.data.AUTOTUNE).with_options(_ordered())
    dataset = dataset.batch(_READ_BATCH).map(
        lambda rows: parse_records(rows, image_shape), num_parallel_calls=tf.data.AUTOTUNE
    )
    try:
        yield from dataset.prefetch(2).as_numpy_iterator()
    except _READ_ERRORS as error:
        raise _bad_record(files, error) from None


def _bad_record(files: list[str], error: tf.errors.OpError) -> UserError:
    return UserError(
        f"{files[0]} or one of the {len(files) - 1} shards beside it has a bad record "
        f"({tensorflow_cause(error.message)}); python -m data_prep.verify_tfrecords names it"
    )


def _wrong_count(files: list[str]) -> UserError:
    return UserError(
        f"{files[0]} and the {len(files) - 1} shards beside it do not hold as many records as dataset.json says; "
        "python -m data_prep.verify_tfrecords names the shard"
    )


def _padded(images: np.ndarray, labels: np.ndarray, batch_size: int) -> EvalBatch:
    """Repeats the last row up to `batch_size`, so that one compiled program serves every batch."""
    missing = batch_size - len(images)
    if missing:
        images = np.concatenate([images, np.repeat(images[-1:], missing, axis=0)])
        labels = np.concatenate([labels, np.repeat(labels[-1:], missing, axis=0)])
    return EvalBatch(images, labels, batch_size - missing)


def _ordered() -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    return options
