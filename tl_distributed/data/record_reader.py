"""Any record of a split by its number, without reading others."""

import dataclasses
import functools
from collections.abc import Sequence

import crc32c
import numpy as np
import tensorflow as tf

from tl_distributed.data.record_files import ByteCounter, Span, file_bytes
from tl_distributed.data.record_index import FOOTER_BYTES, FRAME_BYTES, HEADER_BYTES, map_index
from tl_distributed.errors import UserError, one_line

_LENGTH_BYTES = 8  # of a frame's first word: the record's length
_MASK_DELTA = 0xA282EAD8  # tensorflow/core/lib/hash/crc32c.h: a checksum that is stored is turned and shifted


@dataclasses.dataclass(frozen=True)
class RecordFile:
    """A shard whose records can be found.

    Attributes:
      path: Of the shard.
      num_records: In it.
      num_bytes: Its size.
      is_indexed: Whether its index lies beside it, see `record_index`; else all records are of one length.
    """

    path: str
    num_records: int
    num_bytes: int
    is_indexed: bool


class RecordReader:
    """The records of some shards, numbered end to end.

    Attributes:
      num_records: In all of them.
    """

    def __init__(self, files: Sequence[RecordFile], *, remedy: str):
        """`remedy` says what the user can do about a bad record."""
        self._files, self._remedy = files, remedy
        self._first = np.cumsum([0, *(file.num_records for file in files)])
        self._bytes, self._counter = file_bytes(files[0].path), ByteCounter()
        self._index = functools.cache(map_index)
        self.num_records = int(self._first[-1])

    @property
    def bytes_read(self) -> int:
        """Of shards, so far."""
        return self._counter.total

    def read(self, numbers: np.ndarray) -> list[memoryview]:
        """Returns the content of the records at `numbers [k]`, each in [0, num_records).

        Raises:
          UserError: A file that cannot be read, that does not hold the records where its index says, or a record that
            is not what was written.
        """
        spans = [self._span(number) for number in numbers.tolist()]
        try:
            frames = self._bytes.read(spans)
        except (OSError, tf.errors.OpError, ValueError) as error:  # ValueError: of mmap, an empty file
            path = getattr(error, "filename", None) or self._files[0].path
            raise UserError(f"{path} or a shard beside it cannot be read ({one_line(error)})") from None
        self._counter.add(sum(map(len, frames)))
        for number, frame, (_, start, end) in zip(numbers.tolist(), frames, spans, strict=True):
            length = int.from_bytes(frame[:_LENGTH_BYTES], "little")
            if len(frame) != end - start or length != len(frame) - FRAME_BYTES:
                raise self.bad_record(number, "it is not where the index says")
            if int.from_bytes(frame[-FOOTER_BYTES:], "little") != _checksum(frame[HEADER_BYTES:-FOOTER_BYTES]):
                raise self.bad_record(number, "its bytes are not those that were written: the checksum differs")
        return [frame[HEADER_BYTES:-FOOTER_BYTES] for frame in frames]

    def bad_record(self, number: int, reason: str) -> UserError:
        """Returns what to say of a record."""
        shard = self._shard(number)
        place = number - self._first[shard]
        return UserError(f"{self._files[shard].path}: record {place} is a bad record ({reason}); {self._remedy}")

    def _shard(self, number: int) -> int:
        return int(np.searchsorted(self._first, number, side="right")) - 1

    def _span(self, number: int) -> Span:
        shard = self._shard(number)
        file, place = self._files[shard], number - int(self._first[shard])
        if not file.is_indexed:
            length = file.num_bytes // file.num_records
            return file.path, place * length, (place + 1) * length
        offsets = self._index(file.path, num_records=file.num_records)
        end = int(offsets[place + 1]) if place + 1 < file.num_records else file.num_bytes
        return file.path, int(offsets[place]), end


def _checksum(content: memoryview) -> int:
    """Returns the masked CRC-32C that stands behind a TFRecord's content; computed by the processor, 20 GB/s."""
    value = crc32c.crc32c(content)
    return (((value >> 15) | (value << 17)) + _MASK_DELTA) & 0xFFFFFFFF
