"""A split read from its shards again in every epoch."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import tensorflow as tf

from tl_distributed.data.shards import (
    PARALLEL_READS,
    READ_ERRORS,
    RecordFormat,
    bad_record,
    ordered,
    wrong_count,
)  # fmt: skip
from tl_distributed.data.splits import HOST, EvalBatch, TrainFeed, padded_batch
from tl_distributed.errors import UserError

_assert_cardinality = tf.data.experimental.assert_cardinality

_OPEN_FILES = 16
_READY_BATCHES = 4  # AUTOTUNE keeps up to hundreds
_WINDOW_BYTES = 2**29  # the most that a window may hold; four times as much is in memory
_BLOCK_RECORDS, _BLOCK_BYTES = 256, 2**20  # read from a file before the next has its turn: the smaller of the two
_PARSING, _COUNT = "parse_records_of_shard", "wrong number of records"  # by which errors of the graph are told apart


class StreamSplit:
    """A split read from its shards again in every epoch; a window of examples is held for shuffling.

    A split that the window holds as a whole is read once.
    """

    mode = "stream"

    def __init__(
        self, versions: Sequence[list[str]], num_examples: int, record_format: RecordFormat, buffer_examples: int
    ):
        """`versions` are the files of each version, whose records are in the same order."""
        self.num_examples = num_examples
        self._versions, self._format = versions, record_format
        self._buffer_examples = max(1, min(buffer_examples, _WINDOW_BYTES // record_format.num_bytes))
        self._block_records = max(1, min(_BLOCK_RECORDS, _BLOCK_BYTES // record_format.num_bytes))

    def train_feed(self, *, global_batch_size: int, num_replicas: int, seed: int, first_step: int) -> TrainFeed:
        dataset = self.endless(seed, first_step * global_batch_size)
        dataset = dataset.rebatch(global_batch_size, drop_remainder=True).prefetch(_READY_BATCHES)
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
                yield padded_batch(images, labels, batch_size)
        except READ_ERRORS as error:
            raise bad_record(files, error, self._format) from None
        if done != self.num_examples:
            raise wrong_count(files, self._format)

    def endless(self, seed: int, first_position: int) -> tf.data.Dataset:
        """Returns batches, of any size, of examples and labels from `first_position` of the endless sequence on.

        Any position can be reached again: whole epochs are jumped over, the rest of one is read and dropped.
        """
        first_epoch, skipped = divmod(first_position, self.num_examples)
        if len(self._versions) == 1 and self.num_examples <= self._buffer_examples:
            epochs = self._epochs_of_one_window(seed, first_epoch, skipped)
        else:
            following = tf.data.Dataset.counter(start=first_epoch + 1, dtype=tf.int64)
            following = following.flat_map(lambda epoch: self._epoch(seed, epoch, 0))
            epochs = self._epoch(seed, tf.constant(first_epoch, tf.int64), skipped).concatenate(following)
        return epochs.with_options(ordered())

    def _epochs_of_one_window(self, seed: int, first_epoch: int, skipped: int) -> tf.data.Dataset:
        """Returns endless epochs of a split that the window holds as a whole: the files are read once.

        Opening them takes 20 to 40 ms an epoch, 5 times as long as reading 1,000 images of 32 px.
        """
        window = self._windows(tf.constant(self._versions[0])).apply(_assert_cardinality(1)).cache().repeat()
        epochs = tf.data.Dataset.counter(start=first_epoch, dtype=tf.int64)

        def shuffled(epoch: tf.Tensor, examples: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            first_row = tf.where(epoch == first_epoch, skipped, 0)
            return self._shuffled(*examples, _epoch_seed(seed, epoch), tf.constant(0, tf.int64), first_row)

        return tf.data.Dataset.zip(epochs, window).map(shuffled)

    def _epoch(self, seed: int, epoch: tf.Tensor, skipped: int) -> tf.data.Dataset:
        """Returns one epoch in batches: files in a new order, interleaved, then each window of examples shuffled.

        Stateless and on whole batches: `Dataset.shuffle` takes no seed that depends on the epoch, and handles
        records one by one. The shards are shuffled already, so a window need not reach into the next.
        """
        epoch_seed = _epoch_seed(seed, epoch)
        files = tf.constant(self._versions)[epoch % len(self._versions)]
        files = tf.random.experimental.stateless_shuffle(files, epoch_seed)
        first_window, skipped_of_it = divmod(skipped, self._buffer_examples)

        def shuffled(number: tf.Tensor, examples: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            first_row = tf.where(number == first_window, skipped_of_it, 0)
            return self._shuffled(*examples, epoch_seed, number, first_row)

        windows = self._windows(files).enumerate().skip(first_window)
        windows = windows.map(shuffled, num_parallel_calls=2, deterministic=True)  # before the assertion: 10 % faster
        num_windows = -(-self.num_examples // self._buffer_examples)
        return windows.apply(_assert_cardinality(num_windows - first_window))

    def _windows(self, files: tf.Tensor) -> tf.data.Dataset:
        """Returns the examples and labels of the files in windows, the last one shorter.

        The records are parsed block by block as they are read: moving rows of one array costs a third less than moving
        as many strings.
        """
        return (
            tf.data.Dataset.from_tensor_slices(files)
            .interleave(
                lambda file: tf.data.TFRecordDataset(file).batch(self._block_records).map(self._parse),
                cycle_length=min(_OPEN_FILES, len(self._versions[0])),
                num_parallel_calls=tf.data.AUTOTUNE,
                deterministic=True,
            )
            .rebatch(self._buffer_examples)
        )

    def _shuffled(
        self, images: tf.Tensor, labels: tf.Tensor, epoch_seed: tf.Tensor, number: tf.Tensor, first_row: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns window `number` of an epoch in its new order, from a row on."""
        expected = tf.minimum(self.num_examples - number * self._buffer_examples, self._buffer_examples)
        window_seed = tf.random.experimental.stateless_fold_in(epoch_seed, tf.cast(number, tf.int32) + 1)
        with tf.control_dependencies([tf.debugging.assert_equal(tf.size(labels, tf.int64), expected, _COUNT)]):
            rows = tf.random.experimental.stateless_shuffle(tf.range(tf.size(labels)), window_seed)
        return tf.gather(images, rows[first_row:]), tf.gather(labels, rows[first_row:])

    def _parse(self, records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.name_scope(_PARSING):
            return self._format.parse(records)


def _epoch_seed(seed: int, epoch: tf.Tensor) -> tf.Tensor:
    return tf.random.experimental.stateless_fold_in([seed, 0], tf.cast(epoch, tf.int32))


@dataclasses.dataclass(frozen=True)
class _StreamFeed:
    waits_for_input: ClassVar[bool] = True
    iterator: Any
    files: list[str]
    format: RecordFormat
    replica_batch_size: int

    def input_error(self, error: tf.errors.OpError | UnicodeDecodeError) -> UserError | None:
        if isinstance(error, UnicodeDecodeError):
            return bad_record(self.files, error, self.format)
        if isinstance(error, tf.errors.FailedPreconditionError) or _COUNT in error.message:
            return wrong_count(self.files, self.format)
        read = isinstance(error, (tf.errors.DataLossError, tf.errors.NotFoundError)) or _PARSING in error.message
        return bad_record(self.files, error, self.format) if read else None

    def host_inputs(self) -> tuple[tf.Tensor, tf.Tensor]:
        return next(self.iterator)

    def replica_batch(
        self, step: tf.Tensor, replica: Any, images: tf.Tensor, labels: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        del step
        with tf.device(HOST):
            first = tf.cast(replica, tf.int32) * self.replica_batch_size
            images, labels = (part[first : first + self.replica_batch_size] for part in (images, labels))
            images = tf.ensure_shape(images, [self.replica_batch_size, *self.format.shape])
            return images, tf.ensure_shape(labels, [self.replica_batch_size])
