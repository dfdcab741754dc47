"""Reading shards: what their records hold, all of them into arrays, and what is said of bad ones."""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from tl_distributed.data.host_rows import HostRows
from tl_distributed.data.records import DatasetInfo, Shard, parse_records
from tl_distributed.errors import UserError, tensorflow_cause

READ_BATCH = 256  # several are under way at once, and features can be large
PARALLEL_READS = 16  # not AUTOTUNE: the order of the records follows from it, and would follow the machine's cores
# The last where the text of a parser's error quotes bytes that are no text.
READ_ERRORS = (tf.errors.DataLossError, tf.errors.InvalidArgumentError, UnicodeDecodeError)


@dataclasses.dataclass(frozen=True)
class RecordFormat:
    """What the records of a split hold.

    Attributes:
      shape: Of one example.
      dtype: Of one example.
      parse: Maps `[batch] string` to (`[batch, *shape] dtype`, `[batch] int32` labels).
      remedy: What the user can do about a bad record.
    """

    shape: tuple[int, ...]
    dtype: tf.DType
    parse: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
    remedy: str

    @property
    def num_bytes(self) -> int:
        """Of one example."""
        return int(np.prod(self.shape)) * self.dtype.size


def image_format(image_shape: tuple[int, int, int]) -> RecordFormat:
    """Returns the format of the data set's own records."""
    return RecordFormat(
        image_shape, tf.uint8, lambda rows: parse_records(rows, image_shape),
        "python -m data_prep.verify_tfrecords names the shard",
    )  # fmt: skip


def shard_paths(data_dir: str, info: DatasetInfo, split: str) -> dict[str, Shard]:
    """Returns the path of each shard of a split that holds records, in order."""
    return {f"{data_dir.rstrip('/')}/{shard.file}": shard for shard in info.splits[split].shards if shard.num_records}


def check_size(file: str, num_bytes: int) -> None:
    """Raises `UserError` for a file that is missing or of another length than its manifest says."""
    try:
        found = tf.io.gfile.stat(file).length
    except tf.errors.NotFoundError:
        raise UserError(f"{file}: missing; build the data set again with --overwrite") from None
    if found != num_bytes:
        raise UserError(
            f"{file}: {found} bytes, dataset.json says {num_bytes}; copy it anew, or build the data set again "
            "with --overwrite"
        )


def read_all(files: list[str], rows: HostRows, first_row: int, labels: np.ndarray, record_format: RecordFormat) -> None:
    """Reads the files' records into `rows` from `first_row` on, and into `labels`, which has one for each record."""
    done = 0
    for batch_images, batch_labels in read_batches(files, record_format):
        end = done + len(batch_images)
        if end > len(labels):
            raise wrong_count(files, record_format)
        rows.write(first_row + done, batch_images)
        labels[done:end] = batch_labels
        done = end
    if done != len(labels):
        raise wrong_count(files, record_format)


def read_batches(files: list[str], record_format: RecordFormat) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields examples and labels of all records in order, in batches of any size."""
    dataset = tf.data.TFRecordDataset(files, num_parallel_reads=PARALLEL_READS).with_options(ordered())
    dataset = dataset.batch(READ_BATCH).map(record_format.parse, num_parallel_calls=tf.data.AUTOTUNE)
    try:
        yield from dataset.prefetch(2).as_numpy_iterator()
    except READ_ERRORS as error:
        raise bad_record(files, error, record_format) from None


def bad_record(
    files: list[str], error: tf.errors.OpError | UnicodeDecodeError, record_format: RecordFormat
) -> UserError:
    cause = "no tf.train.Example" if isinstance(error, UnicodeDecodeError) else tensorflow_cause(error.message)
    return UserError(
        f"{files[0]} or one of the {len(files) - 1} shards beside it has a bad record ({cause}); {record_format.remedy}"
    )


def wrong_count(files: list[str], record_format: RecordFormat) -> UserError:
    return UserError(
        f"{files[0]} and the {len(files) - 1} shards beside it do not hold as many records as dataset.json says; "
        f"{record_format.remedy}"
    )


def ordered() -> tf.data.Options:
    """Returns the options of a dataset whose order is always the same."""
    options = tf.data.Options()
    options.deterministic = True
    return options
