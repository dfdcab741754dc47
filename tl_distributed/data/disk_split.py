"""A split that stays in its shards: of each batch the records are read that it holds, and no others."""

import atexit
import collections
import contextlib
import dataclasses
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tl_distributed.data.host import HOST
from tl_distributed.data.known_records import KnownRecords
from tl_distributed.data.order import BatchOrder
from tl_distributed.data.record_reader import RecordFile, RecordReader
from tl_distributed.data.shards import DECODING, RecordFormat, bad_record, decoded
from tl_distributed.data.splits import Batch, EvalBatch, TrainFeed, eval_rows
from tl_distributed.errors import UserError

_MOST_BATCHES_READY, _BYTES_READY = 4, 2**28  # read ahead: the smaller of the two, but at least one batch
_STOPPED_SECONDS = 0.05  # in which no call begins once all have been told to stop
_ALIGNMENT = 64  # bytes; TensorFlow takes an array over that lies so, and copies any other


class DiskSplit:
    """A split in shards. Any position of it is as near as the first, and none is held for longer than its batch.

    A record of a mapped file is checked when this process first reads it, of any other file each time: `RecordReader`.

    Attributes:
      bytes_read: Of the shards, by all feeds of this process so far.
    """

    mode = "disk"

    def __init__(self, versions: Sequence[Sequence[RecordFile]], record_format: RecordFormat):
        """`versions` are the files of each version, whose records are in the same order."""
        files = [file for version in versions for file in version]
        self._reader = RecordReader(files, remedy=record_format.remedy)
        self._files, self._format, self._buffers = [file.path for file in files], record_format, _Buffers()
        self._known = KnownRecords(
            self._reader.num_records, record_format.locate,
            lasts=self._reader.lasts, share_places=record_format.decode is None,
        )  # fmt: skip
        self.num_examples = self._reader.num_records // len(versions)

    @property
    def bytes_read(self) -> int:
        return self._reader.bytes_read

    def train_feed(self, order: BatchOrder, *, first_step: int) -> TrainFeed:
        own = order.own_replicas

        def rows(step: tf.Tensor) -> tf.Tensor:
            return order.part(
                step, own.start, replicas=len(own), num_examples=self.num_examples, num_rows=self._reader.num_records
            )[0]

        steps = tf.data.Dataset.range(first_step, tf.int64.max).map(rows)
        source = self._source()
        return _DiskFeed(iter(source.batches(steps, len(own) * order.replica_batch_size)), source, order)

    def eval_batches(self, batch_size: int, *, rows: slice | None = None) -> Iterator[EvalBatch]:
        own = np.arange(batch_size)[rows or slice(None)]
        source = self._source()
        starts = tf.data.Dataset.range(0, self.num_examples, batch_size)
        examples = starts.map(lambda start: tf.minimum(start + own, self.num_examples - 1))  # as `eval_rows`
        batches = source.batches(examples, len(own)).as_numpy_iterator()
        try:
            for (_, num_valid), batch in zip(eval_rows(self.num_examples, batch_size, rows), batches, strict=True):
                images, labels, *sizes = batch
                yield EvalBatch(images, labels, num_valid, *sizes)
        except tf.errors.OpError as error:
            raise source.input_error(error) or error from None

    def _source(self) -> "_Source":
        return _Source(self._reader, self._known, self._format, self._files, self._buffers)


_SOURCES: weakref.WeakSet["_Source"] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    for source in list(_SOURCES):
        source.stop()


class _Source:
    """What a pipeline reads from. An error that ends it is kept here, whole: TensorFlow passes on a text."""

    def __init__(
        self, reader: RecordReader, known: KnownRecords, record_format: RecordFormat, files: list[str],
        buffers: "_Buffers",
    ):  # fmt: skip
        self._reader, self._known, self._format, self._files, self._buffers = (
            reader, known, record_format, files, buffers,
        )  # fmt: skip
        self._error: UserError | None = None
        self._lock, self._begun, self._ended, self._is_stopped = threading.Lock(), 0, 0, False
        _SOURCES.add(self)

    def stop(self) -> None:
        """Ends reading ahead: Python stops threads that come to it while it ends, and TensorFlow waits for them."""
        self._is_stopped, begun = True, -1
        while not begun == self._begun == self._ended:
            begun = self._begun
            time.sleep(_STOPPED_SECONDS)

    def batches(self, rows: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
        """Maps `[batch_size] int64` numbers of records to batches, some of them ahead, in order."""
        ready = max(1, min(_MOST_BATCHES_READY, _BYTES_READY // (batch_size * self._format.num_bytes)))
        options = tf.data.Options()
        options.deterministic = True
        options.autotune.enabled = False  # which would take more memory, up to hundreds of batches
        if self._format.decode is None:
            batches = rows.map(self._read_examples, num_parallel_calls=min(2, ready))
        else:
            files = rows.map(self._read_files, num_parallel_calls=min(2, ready))
            batches = decoded(files, self._format).batch(batch_size, drop_remainder=True)
        return batches.prefetch(max(1, ready - 2)).with_options(options)

    def input_error(self, error: tf.errors.OpError) -> UserError | None:
        if self._error is not None:
            return self._error
        return bad_record(self._files, error, self._format) if DECODING in error.message else None

    def _read_examples(self, numbers: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        count, dtype = numbers.shape[0], self._format.dtype
        examples, labels = self._call(self._examples, numbers, (tf.uint8, tf.int32))
        if dtype != tf.uint8:
            examples = tf.bitcast(tf.reshape(examples, [count, -1, dtype.size]), dtype)
        labels = tf.ensure_shape(labels, [count, *self._format.label_shape])
        return tf.reshape(examples, [count, *self._format.shape]), labels

    def _read_files(self, numbers: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        files, labels = self._call(self._encoded, numbers, (tf.string, tf.int32))
        return (
            tf.ensure_shape(files, numbers.shape),
            tf.ensure_shape(labels, [numbers.shape[0], *self._format.label_shape]),
        )

    def _call(self, method: Callable, numbers: tf.Tensor, types: tuple[tf.DType, ...]) -> Any:
        """Calls a method in the graph, which holds but a weak reference to it: a graph may outlive all."""
        reference = weakref.WeakMethod(method)

        def call(numbers: np.ndarray) -> Any:
            method = reference()
            if method is None:
                raise RuntimeError("read ahead for a feed that is gone")
            with method.__self__._counted():
                return method(numbers)

        return tf.numpy_function(call, [numbers], types)

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self._begun += 1
        try:
            if self._is_stopped:
                raise RuntimeError("read ahead for a process that ends")
            yield
        finally:
            with self._lock:
                self._ended += 1

    def _examples(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns examples as `[n, num_bytes] uint8`, copied once from where they lie, and their labels."""
        num_bytes = self._format.num_bytes
        contents, labels = self._contents(numbers)
        for number, content in zip(numbers.tolist(), contents, strict=True):
            if len(content) != num_bytes:
                reason = f"{len(content):,} bytes, an example has {num_bytes:,}"
                raise self._keep(self._reader.bad_record(number, reason))
        examples = self._buffers.take(len(numbers), num_bytes)
        np.concatenate(contents, out=examples.reshape(-1))
        return examples, labels

    def _encoded(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns pictures as `[n]` files, and their labels."""
        contents, labels = self._contents(numbers)
        files = np.empty(len(numbers), object)
        files[:] = [content.tobytes() for content in contents]
        return files, labels

    def _contents(self, numbers: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        contents, labels = [], []
        try:
            records = self._reader.read(numbers, self._known.were_read(numbers))
            for number, record, place in zip(numbers.tolist(), records, self._known.places(numbers), strict=True):
                try:
                    start, end, label = place or self._known.place(number, memoryview(record))
                except ValueError as error:
                    raise self._reader.bad_record(number, str(error)) from None
                contents.append(record[start:end])
                labels.append(label)
        except UserError as error:
            raise self._keep(error) from None
        return contents, np.array(labels, np.int32).reshape(len(labels), *self._format.label_shape)

    def _keep(self, error: UserError) -> UserError:
        self._error = self._error or error
        return error


class _Buffers:
    """Arrays for batches, used again once TensorFlow has let go of them: the system zeroes each page of a new one."""

    def __init__(self) -> None:
        self._free: collections.defaultdict[int, list[np.ndarray]] = collections.defaultdict(list)  # by size in bytes

    def take(self, count: int, num_bytes: int) -> np.ndarray:
        """Returns `[count, num_bytes] uint8`, of any content, which TensorFlow can take over without copying.

        It is used again once this array is gone, whatever views of it there are.
        """
        size = count * num_bytes
        free = self._free[size]
        try:
            whole = free.pop()
        except IndexError:
            whole = np.empty(size + _ALIGNMENT, np.uint8)
        first = -whole.ctypes.data % _ALIGNMENT
        taken = whole[first : first + size].reshape(count, num_bytes)
        weakref.finalize(taken, free.append, whole).atexit = False
        return taken


@dataclasses.dataclass(frozen=True)
class _DiskFeed:
    waits_for_input: ClassVar[bool] = True
    iterator: Any
    source: _Source
    order: BatchOrder

    def input_error(self, error: tf.errors.OpError) -> UserError | None:
        return self.source.input_error(error)

    def host_inputs(self) -> tuple[tf.Tensor, ...]:
        return next(self.iterator)

    def replica_batch(self, step: tf.Tensor, replica: Any, *parts: tf.Tensor) -> Batch:
        del step
        size = self.order.replica_batch_size
        with tf.device(HOST):
            first = (tf.cast(replica, tf.int32) - self.order.own_replicas.start) * size
            return Batch(*(tf.ensure_shape(part[first : first + size], [size, *part.shape[1:]]) for part in parts))
