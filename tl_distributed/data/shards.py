"""Shards: what their records hold, all of them from end to end, and what is said of bad ones."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from tl_distributed.data.canvas import decode_to_canvas
from tl_distributed.data.example_fields import AlikeExamples, find_bytes_and_numbers
from tl_distributed.data.machine import usable_cores
from tl_distributed.data.record_reader import RecordFile
from tl_distributed.data.records import IMAGE_FEATURE, LABEL_FEATURE, DatasetInfo, Shard, parse_files, parse_pixels
from tl_distributed.data.splits import Batch
from tl_distributed.errors import UserError, tensorflow_cause

READ_BATCH = 256  # several are under way at once, and features can be large
DECODING = "decode_picture_of_shard"  # by which errors of the graph are told apart
VERIFY = "python -m data_prep.verify_tfrecords names the shard"
# The last where the text of a parser's error quotes bytes that are no text.
READ_ERRORS = (tf.errors.DataLossError, tf.errors.InvalidArgumentError, UnicodeDecodeError)


@dataclasses.dataclass(frozen=True)
class RecordFormat:
    """What the records of a split hold.

    Attributes:
      shape: Of one example; of encoded pictures, of a canvas.
      dtype: Of one example.
      parse: Maps records `[batch] string` to (contents, `[batch, *label_shape] int32` labels). Contents are the
        examples, `[batch, *shape] dtype`; or `[batch] string`, files to decode.
      locate: Maps a record to where its content begins and ends in it, and its label, or a list of them.
      remedy: What the user can do about a bad record.
      decode: Maps such a file to a canvas and `[2] int32`, the picture's height and width; `None` without.
      label_shape: Of `DatasetInfo`.
    """

    shape: tuple[int, ...]
    dtype: tf.DType
    parse: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
    locate: Callable[[memoryview], tuple[int, int, int | list[int]]]
    remedy: str
    decode: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]] | None = None
    label_shape: tuple[int, ...] = ()

    @property
    def num_bytes(self) -> int:
        """Of one example."""
        return int(np.prod(self.shape)) * self.dtype.size


def image_format(info: DatasetInfo) -> RecordFormat:
    """Returns the format of a data set's own records."""
    most, keys = info.most_labels, (IMAGE_FEATURE.encode(), LABEL_FEATURE.encode())
    label_of = functools.partial(_label, most)

    def locate(record: memoryview) -> tuple[int, int, int | list[int]]:
        start, end, labels = find_bytes_and_numbers(record, *keys)
        return start, end, label_of(labels)

    if info.storage == "pixels":
        return RecordFormat(
            info.image_shape, tf.uint8, lambda records: parse_pixels(records, info.image_shape, most),
            AlikeExamples(*keys, label_of).find, VERIFY, label_shape=info.label_shape,
        )  # fmt: skip
    return RecordFormat(
        (info.canvas_size, info.canvas_size, 3), tf.uint8, lambda records: parse_files(records, most), locate, VERIFY,
        functools.partial(
            decode_to_canvas, image_size=info.image_size, canvas_size=info.canvas_size, is_jpeg=info.storage == "jpeg"
        ),
        info.label_shape,
    )  # fmt: skip


def _label(most_labels: int, labels: list[int]) -> int | list[int]:
    if not most_labels:
        if len(labels) != 1:
            raise ValueError(f"{len(labels)} labels where one is expected")
        return labels[0]
    if len(labels) > most_labels:
        raise ValueError(f"{len(labels)} labels, dataset.json says {most_labels} at most")
    return labels + [-1] * (most_labels - len(labels))


def split_files(data_dir: str, info: DatasetInfo, split: str) -> list[RecordFile]:
    """Returns the shards of a split that hold records, in order, after a look at each one's size.

    Raises:
      UserError: There is none, or one is missing or of another length than the manifest says.
    """
    files = [
        RecordFile(path, shard.num_records, shard.num_bytes, info.is_indexed)
        for path, shard in shard_paths(data_dir, info, split).items()
    ]
    if not files:
        raise UserError(f"--data_dir={data_dir}: split {split} has no examples")
    for file in files:
        check_size(file.path, file.num_bytes)
    return files


def shard_paths(data_dir: str, info: DatasetInfo, split: str) -> dict[str, Shard]:
    """Returns the path of each shard of a split that holds records, in order."""
    return {f"{data_dir.rstrip('/')}/{shard.file}": shard for shard in info.splits[split].shards if shard.num_records}


def check_size(path: str, num_bytes: int) -> None:
    """Raises `UserError` for a file that is missing or of another length than its manifest says."""
    try:
        found = tf.io.gfile.stat(path).length
    except tf.errors.NotFoundError:
        raise UserError(f"{path}: missing; build the data set again with --overwrite") from None
    if found != num_bytes:
        raise UserError(
            f"{path}: {found} bytes, dataset.json says {num_bytes}; copy it anew, or build the data set again with "
            "--overwrite"
        )


def read_in_order(
    files: Sequence[str], num_examples: int, record_format: RecordFormat, *, batch_size: int = READ_BATCH
) -> Iterator[Batch]:
    """Yields all examples of some shards, end to end, in batches as arrays; the last is smaller. Checksums are checked.

    Args:
      files: Paths of the shards.
      num_examples: That they should hold.
      record_format: Of their records.
      batch_size: Of the batches.

    Raises:
      UserError: A record that is damaged or does not parse, or another number of them.
    """
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False  # there is nothing to tune, and ending it has been seen to take seconds
    records = tf.data.TFRecordDataset(list(files)).batch(batch_size)
    batches = records.map(record_format.parse, num_parallel_calls=2)
    if record_format.decode is not None:
        batches = decoded(batches, record_format).batch(batch_size)
    done = 0
    try:
        for batch in batches.prefetch(2).with_options(options).as_numpy_iterator():
            done += len(batch[1])
            if done > num_examples:
                break
            yield Batch(*batch)
    except READ_ERRORS as error:
        raise bad_record(files, error, record_format) from None
    if done != num_examples:
        raise wrong_count(files, record_format)


def decoded(batches: tf.data.Dataset, record_format: RecordFormat) -> tf.data.Dataset:
    """Decodes batches of (files, labels), all cores at once; returns single (canvas, label, size)."""

    def decode(file: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        with tf.name_scope(DECODING):
            canvas, size = record_format.decode(file)
        return canvas, label, size

    # Pictures come in order, so one that takes long holds those behind it: twice as many as cores keep all at work.
    return batches.unbatch().map(decode, num_parallel_calls=2 * usable_cores(), deterministic=True)


def bad_record(
    files: Sequence[str], error: tf.errors.OpError | UnicodeDecodeError, record_format: RecordFormat
) -> UserError:
    cause = "no tf.train.Example" if isinstance(error, UnicodeDecodeError) else tensorflow_cause(error.message)
    return UserError(f"{_one_of(files)} has a bad record ({cause}); {record_format.remedy}")


def wrong_count(files: Sequence[str], record_format: RecordFormat) -> UserError:
    return UserError(
        f"{files[0]}{' and the shards beside it do' if len(files) > 1 else ' does'} not hold as many records as "
        f"dataset.json says; {record_format.remedy}"
    )


def _one_of(files: Sequence[str]) -> str:
    return files[0] if len(files) == 1 else f"{files[0]} or one of the {len(files) - 1} shards beside it"
