"""Any record of a split by its number, without reading others."""

import dataclasses
import functools
import struct
from collections.abc import Sequence

import crc32c
import numpy as np
import tensorflow as tf

from tl_distributed.data.record_files import ByteCounter, Span, file_bytes
from tl_distributed.data.record_index import FOOTER_BYTES, FRAME_BYTES, HEADER_BYTES, map_index
from tl_distributed.errors import UserError, one_line

_LENGTH, _CHECKSUM = struct.Struct("<Q"), struct.Struct("<I")  # of a record, before and after it
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
      lasts: Whether a record that was read once is the same when it is read again: `FileBytes`.
    """

    def __init__(self, files: Sequence[RecordFile], *, remedy: str):
        """`remedy` says what the user can do about a bad record."""
        self._files, self._remedy = files, remedy
        self._first = np.cumsum([0, *(file.num_records for file in files)])
        self._bytes, self._counter = file_bytes(files[0].path), ByteCounter()
        self._offsets = functools.cache(self._map_offsets)  # of a shard by its number
        self.num_records, self.lasts = int(self._first[-1]), self._bytes.lasts

    @property
    def bytes_read(self) -> int:
        """Of shards, so far."""
        return self._counter.total

    def read(self, numbers: np.ndarray, were_read: np.ndarray | None = None) -> list[np.ndarray]:
        """Returns the content of the records at `numbers [k]`, each in [0, num_records), as `[length] uint8`.

        A record is checked when it is first read: that it is where it should be, and its checksum.

        Args:
          numbers: Of the records.
          were_read: `[k] bool`, which of them were read before, of files that last; none by default.

        Raises:
          UserError: A file that cannot be read, that does not hold the records where its index says, or a record that
            is not what was written.
        """
        try:
            frames = self._bytes.read(self._spans(numbers))
        except (OSError, tf.errors.OpError, ValueError) as error:  # ValueError: of mmap, an empty file
            path = getattr(error, "filename", None) or self._files[0].path
            raise UserError(f"{path} or a shard beside it cannot be read ({one_line(error)})") from None
        self._counter.add(sum(map(len, frames)))
        if were_read is None:
            self._check(numbers, frames)
        elif not were_read.all():
            new = np.flatnonzero(~were_read)
            self._check(numbers[new], [frames[index] for index in new.tolist()])
        return [frame[HEADER_BYTES:-FOOTER_BYTES] for frame in frames]

    def _check(self, numbers: np.ndarray, frames: list[np.ndarray]) -> None:
        for number, frame in zip(numbers.tolist(), frames, strict=True):
            if len(frame) < FRAME_BYTES or _LENGTH.unpack_from(frame)[0] != len(frame) - FRAME_BYTES:
                raise self.bad_record(number, "it is not where the index says")
        # Without a word of Python between them, so that threads that read do not wait for one another.
        checksums = list(map(crc32c.crc32c, [frame[HEADER_BYTES:-FOOTER_BYTES] for frame in frames]))
        for number, frame, checksum in zip(numbers.tolist(), frames, checksums, strict=True):
            if _CHECKSUM.unpack_from(frame, len(frame) - FOOTER_BYTES)[0] != _masked(checksum):
                raise self.bad_record(number, "its bytes are not those that were written: the checksum differs")

    def bad_record(self, number: int, reason: str) -> UserError:
        """Returns what to say of a record."""
        shard = self._shard(number)
        place = number - self._first[shard]
        return UserError(f"{self._files[shard].path}: record {place} is a bad record ({reason}); {self._remedy}")

    def _shard(self, number: int) -> int:
        return int(np.searchsorted(self._first, number, side="right")) - 1

    def _spans(self, numbers: np.ndarray) -> list[Span]:
        shards = np.searchsorted(self._first, numbers, side="right") - 1
        places = numbers - self._first[shards]
        return [self._span(shard, place) for shard, place in zip(shards.tolist(), places.tolist(), strict=True)]

    def _span(self, shard: int, place: int) -> Span:
        file = self._files[shard]
        if not file.is_indexed:
            length = file.num_bytes // file.num_records
            return file.path, place * length, (place + 1) * length
        offsets = self._offsets(shard)
        return file.path, offsets[place], offsets[place + 1] if place + 1 < file.num_records else file.num_bytes

    def _map_offsets(self, shard: int) -> memoryview:
        file = self._files[shard]
        return memoryview(map_index(file.path, num_records=file.num_records))  # whose items are Python's own numbers


def _masked(checksum: int) -> int:
    """Returns a CRC-32C as it stands behind a TFRecord's content."""
    return (((checksum >> 15) | (checksum << 17)) + _MASK_DELTA) & 0xFFFFFFFF
