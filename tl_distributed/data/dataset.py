"""Splits of a data set, held in memory or streamed from shards, and the batches that the engine asks for.

Both kinds answer the same two questions. Training: the uint8 images of one replica's slice of global batch
number `step`. Evaluation: every example exactly once, in fixed-size batches with the count of real rows.
A split may hold rows of features in place of images (`feature_bank`), and several versions of each example, of
which epoch e shows version e modulo their number.
No `tf.distribute` dataset is used: with one alive in the process the training step ran at half speed on CPUs.
"""

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import tensorflow as tf

from tl_distributed.commandline import UserError
from tl_distributed.data.free_memory import free_memory_bytes
from tl_distributed.data.order import example_indices
from tl_distributed.data.records import DatasetInfo
from tl_distributed.data.shards import (
    PARALLEL_READS,
    READ_BATCH,
    READ_ERRORS,
    RecordFormat,
    bad_record,
    check_size,
    image_format,
    ordered,
    read_all,
    read_batches,
    shard_paths,
    wrong_count,
)  # fmt: skip
from tl_distributed.data.subset import StratifiedChoice

_LOG = logging.getLogger(__name__)

_INTERLEAVED_RECORDS, _OPEN_FILES = 64, 16
_PARSING, _COUNT = "parse_records_of_shard", "wrong number of records"  # by which errors of the graph are told apart
MEMORY_SHARE = 0.25  # of the free memory: the most that auto gives to the splits


@dataclasses.dataclass(frozen=True)
class EvalBatch:
    """`images [batch, h, w, 3] uint8` and `labels [batch] int32`, of which the first `num_valid` rows are real.

    From a bank the images are rows of features.
    """

    images: np.ndarray
    labels: np.ndarray
    num_valid: int


class TrainFeed(Protocol):
    """Training batches, read inside the engine's `tf.function` loop.

    Attributes:
      waits_for_input: Whether `host_inputs` may have to wait, for files and for what is made of them.
    """

    waits_for_input: bool

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
        """Takes `images [versions * n, h, w, 3] uint8`, one version of all after the other, and `labels [n] int32`."""
        self.num_examples = len(labels)
        with tf.device("/cpu:0"):  # on the host also where there are GPUs: only batches travel
            self._images, self._labels = tf.constant(images), tf.constant(labels, tf.int32)

    def train_feed(self, *, global_batch_size: int, num_replicas: int, seed: int, first_step: int) -> TrainFeed:
        del first_step  # the position of a batch is its step number
        return _MemoryFeed(self._images, self._labels, global_batch_size, global_batch_size // num_replicas, seed)

    def eval_batches(self, batch_size: int) -> Iterator[EvalBatch]:
        for start in range(0, self.num_examples, batch_size):
            end = min(start + batch_size, self.num_examples)
            with tf.device("/cpu:0"):
                images, labels = self._images[start:end].numpy(), self._labels[start:end].numpy()
            yield _padded(images, labels, batch_size)

    def examples(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the images `[k, h, w, 3] uint8` and labels `[k] int32` at `indices [k]`."""
        with tf.device("/cpu:0"):
            return tf.gather(self._images, indices).numpy(), tf.gather(self._labels, indices).numpy()


@dataclasses.dataclass(frozen=True)
class _MemoryFeed:
    waits_for_input: ClassVar[bool] = False
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
        rows, indices = batch_rows(
            step, replica, num_examples=self.labels.shape[0], num_rows=self.images.shape[0],
            global_batch_size=self.global_batch_size, replica_batch_size=self.replica_batch_size, seed=self.seed,
        )  # fmt: skip
        with tf.device("/cpu:0"):
            return tf.gather(self.images, rows), tf.gather(self.labels, indices)


def batch_rows(
    step: tf.Tensor,
    replica: Any,
    *,
    num_examples: int,
    num_rows: int,
    global_batch_size: int,
    replica_batch_size: int,
    seed: int,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns which rows, and which examples, a replica's part of a global batch holds: `[per_replica] int64` each.

    A split holds `num_rows / num_examples` versions of its examples, one version of all after the other.
    """
    with tf.device("/cpu:0"):
        first = tf.cast(step, tf.int64) * global_batch_size + tf.cast(replica, tf.int64) * replica_batch_size
        positions = first + tf.range(replica_batch_size, dtype=tf.int64)
        indices = example_indices(positions, num_examples=num_examples, seed=seed)
        version = positions // num_examples % (num_rows // num_examples)
        return version * num_examples + indices, indices


class StreamSplit:
    """A split read from its shards again in every epoch; a window of examples is held for shuffling."""

    mode = "stream"

    def __init__(
        self, versions: Sequence[list[str]], num_examples: int, record_format: RecordFormat, buffer_examples: int
    ):
        """`versions` are the files of each version, whose records are in the same order."""
        self.num_examples = num_examples
        self._versions, self._format, self._buffer_examples = versions, record_format, buffer_examples

    def train_feed(self, *, global_batch_size: int, num_replicas: int, seed: int, first_step: int) -> TrainFeed:
        dataset = self._endless(seed, first_step * global_batch_size)
        dataset = dataset.rebatch(global_batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
        return _StreamFeed(iter(dataset), self._versions[0], self._format, global_batch_size // num_replicas)

    def eval_batches(self, batch_size: int) -> Iterator[EvalBatch]:
        files = self._versions[0]
        dataset = tf.data.TFRecordDataset(files, num_parallel_reads=PARALLEL_READS).with_options(ordered())
        dataset = dataset.batch(batch_size).map(self._format.parse)
        done = 0
        try:
            for images, labels in dataset.prefetch(2).as_numpy_iterator():
                done += len(images)
                if done > self.num_examples:
                    break
                yield _padded(images, labels, batch_size)
        except READ_ERRORS as error:
            raise bad_record(files, error, self._format) from None
        if done != self.num_examples:
            raise wrong_count(files, self._format)

    def _endless(self, seed: int, first_position: int) -> tf.data.Dataset:
        """Returns batches, of any size, of serialised records from `first_position` of the endless sequence on.

        Any position can be reached again: whole epochs are jumped over, the rest of one is read and dropped.
        """
        first_epoch, skipped = divmod(first_position, self.num_examples)
        rest = self._epoch(seed, tf.constant(first_epoch, tf.int64))
        if skipped:  # record by record, which is several times slower
            rest = rest.unbatch().skip(skipped).batch(READ_BATCH)
        following = tf.data.Dataset.counter(start=first_epoch + 1, dtype=tf.int64)
        following = following.flat_map(lambda epoch: self._epoch(seed, epoch))
        return rest.concatenate(following).with_options(ordered())

    def _epoch(self, seed: int, epoch: tf.Tensor) -> tf.data.Dataset:
        """Returns one epoch in batches: files in a new order, interleaved, then each window of records shuffled.

        Stateless and on whole batches: `Dataset.shuffle` takes no seed that depends on the epoch, and handles
        records one by one. The shards are shuffled already, so a window need not reach into the next.
        """
        epoch_seed = tf.random.experimental.stateless_fold_in([seed, 0], tf.cast(epoch, tf.int32))
        files = tf.constant(self._versions)[epoch % len(self._versions)]
        files = tf.random.experimental.stateless_shuffle(files, epoch_seed)
        windows = (
            tf.data.Dataset.from_tensor_slices(files)
            .interleave(
                lambda file: tf.data.TFRecordDataset(file).batch(_INTERLEAVED_RECORDS),
                cycle_length=min(_OPEN_FILES, len(self._versions[0])),
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
    waits_for_input: ClassVar[bool] = True
    iterator: Any
    files: list[str]
    format: RecordFormat
    replica_batch_size: int

    def input_error(self, error: tf.errors.OpError) -> UserError | None:
        if isinstance(error, tf.errors.FailedPreconditionError) or _COUNT in error.message:
            return wrong_count(self.files, self.format)
        read = isinstance(error, tf.errors.DataLossError) or _PARSING in error.message
        return bad_record(self.files, error, self.format) if read else None

    def host_inputs(self) -> tuple[tf.Tensor]:
        return (next(self.iterator),)

    def replica_batch(self, step: tf.Tensor, replica: Any, serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        del step
        with tf.device("/cpu:0"):
            first = tf.cast(replica, tf.int32) * self.replica_batch_size
            rows = serialized[first : first + self.replica_batch_size]
            with tf.name_scope(_PARSING):
                images, labels = self.format.parse(rows)
            images = tf.ensure_shape(images, [self.replica_batch_size, *self.format.shape])
            return images, tf.ensure_shape(labels, [self.replica_batch_size])


def choose_input_mode(info: DatasetInfo, names: Sequence[str], *, processes_on_machine: int) -> str:
    """Returns memory where the named splits fit into a quarter of the free memory for each process, else stream."""
    num_examples = sum(info.splits[name].num_examples for name in names if name in info.splits)
    num_bytes, free = num_examples * int(np.prod(info.image_shape)), free_memory_bytes()
    mode = "memory" if num_bytes <= MEMORY_SHARE * free / processes_on_machine else "stream"
    _LOG.info("Input: %s mode (%.0f MB of pixels, %.0f MB of memory free).", mode, num_bytes / 1e6, free / 1e6)
    return mode


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
    if input_mode == "auto":
        input_mode = choose_input_mode(info, names, processes_on_machine=1)
    present = [name for name in names if name in info.splits]
    splits: dict[str, Split] = {}
    for name in present:
        splits[name] = open_split(
            [_checked_files(data_dir, info, name)], info.splits[name].num_examples, image_format(info.image_shape),
            mode=input_mode, shuffle_buffer_examples=shuffle_buffer_examples,
        )  # fmt: skip
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
    split, record_format = info.splits[name], image_format(info.image_shape)
    files = _checked_files(data_dir, info, name)
    counts = [split.counts_per_class.get(class_name, 0) for class_name in info.class_names]
    choice = StratifiedChoice(counts, images_per_class=images_per_class, seed=seed)
    images, labels = [np.empty((0, *info.image_shape), np.uint8)], [np.empty(0, np.int32)]
    done = 0
    for batch_images, batch_labels in read_batches(files, record_format):
        done += len(batch_labels)
        try:
            chosen = choice.mask(batch_labels)
        except IndexError:  # more of a class than the manifest says
            raise wrong_count(files, record_format) from None
        images.append(batch_images[chosen])
        labels.append(batch_labels[chosen])
    if done != split.num_examples:
        raise wrong_count(files, record_format)
    short = [class_name for class_name, count in zip(info.class_names, counts, strict=True) if count < images_per_class]
    if short:
        _LOG.info("--images_per_class=%d: fewer in %s, all are taken.", images_per_class, ", ".join(short[:5]))
    return MemorySplit(np.concatenate(images), np.concatenate(labels))


def _checked_files(data_dir: str, info: DatasetInfo, name: str) -> list[str]:
    """Returns the paths of a split's shards after a look at each file's size."""
    shards = shard_paths(data_dir, info, name)
    if not shards:
        raise UserError(f"--data_dir={data_dir}: split {name} has no examples")
    for file, shard in shards.items():
        check_size(file, shard.num_bytes)
    return list(shards)


def open_split(
    versions: Sequence[list[str]],
    num_examples: int,
    record_format: RecordFormat,
    *,
    mode: str,
    shuffle_buffer_examples: int,
) -> Split:
    """Opens the split that lies in some files.

    Args:
      versions: Files of each version; all versions hold the same examples in the same order.
      num_examples: Of each version.
      record_format: Of their records.
      mode: memory or stream.
      shuffle_buffer_examples: Window of stream mode.

    Raises:
      UserError: In memory mode a record that does not parse, or a wrong number of them.
    """
    if mode == "stream":
        return StreamSplit(versions, num_examples, record_format, shuffle_buffer_examples)
    shape = (len(versions) * num_examples, *record_format.shape)
    images, labels = np.empty(shape, record_format.dtype.as_numpy_dtype), np.empty(num_examples, np.int32)
    for index, files in enumerate(versions):
        read_all(files, images[index * num_examples :][:num_examples], labels, record_format)
    return MemorySplit(images, labels)


def _padded(images: np.ndarray, labels: np.ndarray, batch_size: int) -> EvalBatch:
    """Repeats the last row up to `batch_size`, so that one compiled program serves every batch."""
    missing = batch_size - len(images)
    if missing:
        images = np.concatenate([images, np.repeat(images[-1:], missing, axis=0)])
        labels = np.concatenate([labels, np.repeat(labels[-1:], missing, axis=0)])
    return EvalBatch(images, labels, batch_size - missing)
