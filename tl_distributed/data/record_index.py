"""Where each record of a shard lies: `NAME.index` beside shard `NAME`, so that any record is read alone.

The index holds, for every record, the byte offset at which its TFRecord frame begins, 8 bytes each, unsigned and
little-endian. A frame ends where the next one begins, or with the file. It is (TensorFlow's `record_writer.h`):

  length of the record, uint64    its masked CRC-32C, uint32    the record    its masked CRC-32C, uint32
"""

import numpy as np

from tl_distributed.errors import UserError, one_line
from tl_distributed.files import write_file

HEADER_BYTES, FOOTER_BYTES = 12, 4  # of a frame, before and after the record
FRAME_BYTES = HEADER_BYTES + FOOTER_BYTES
_OFFSET = np.dtype("<u8")


def index_name(shard: str) -> str:
    """Returns the name, or path, of the index of a shard."""
    return f"{shard}.index"


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """Returns `[n] uint64`, where frames of records of these `[n]` lengths in bytes begin, one after the other."""
    ends = np.cumsum(np.asarray(lengths, np.uint64) + np.uint64(FRAME_BYTES))
    return np.concatenate([np.zeros(1, np.uint64), ends])[:-1]


def write_index(shard: str, lengths: np.ndarray) -> None:
    """Writes the index of the shard at path `shard`, whose records have these `[n]` lengths, whole or not at all."""
    write_file(index_name(shard), offsets_of(lengths).astype(_OFFSET).tobytes())


def read_index(shard: str, *, num_records: int, num_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads the index of the shard at path `shard`.

    Args:
      shard: Path of the shard, which is not opened.
      num_records: That it holds.
      num_bytes: Its size.

    Returns:
      `[n] int64` offsets of the records themselves in the file, without their frames, and `[n] int64` lengths.

    Raises:
      UserError: No index there, or one that cannot be of this shard.
    """
    import tensorflow as tf

    path = index_name(shard)
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            content = file.read()
    except tf.errors.NotFoundError:
        raise UserError(f"{path}: missing; {_REMEDY}") from None
    except tf.errors.OpError as error:
        raise UserError(f"{path}: cannot be read ({error.message})") from None
    if len(content) != num_records * _OFFSET.itemsize:
        raise UserError(f"{path}: {len(content):,} bytes, of {num_records:,} records it has 8 each; {_REMEDY}")
    starts = np.frombuffer(content, _OFFSET)
    ends = np.append(starts[1:], np.uint64(num_bytes))[: len(starts)]
    is_ordered = not len(starts) or (starts[0] == 0 and ends[-1] == num_bytes)
    if not is_ordered or (ends < starts + np.uint64(FRAME_BYTES)).any() or (ends > num_bytes).any():
        raise UserError(f"{path}: no index of a shard of {num_bytes:,} bytes; {_REMEDY}")
    offsets = starts.astype(np.int64) + HEADER_BYTES
    return offsets, ends.astype(np.int64) - offsets - FOOTER_BYTES


def map_index(shard: str, *, num_records: int) -> np.ndarray:
    """Returns the offsets of the frames of the shard at path `shard`, `[n] uint64`, mapped from a disk, not loaded.

    Raises:
      UserError: No index there, or one of another length.
    """
    import tensorflow as tf

    path = index_name(shard)
    try:
        if "://" in path:
            with tf.io.gfile.GFile(path, "rb") as file:
                offsets = np.frombuffer(file.read(), _OFFSET)
        else:
            offsets = np.memmap(path, _OFFSET, "r").view(np.ndarray)
    except (OSError, ValueError, tf.errors.OpError) as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)}); {_REMEDY}") from None
    if len(offsets) != num_records:
        raise UserError(f"{path}: {len(offsets):,} offsets, the shard has {num_records:,} records; {_REMEDY}")
    return offsets


_REMEDY = "copy it anew, or build the data set again with --overwrite"
