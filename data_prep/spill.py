"""The pictures of a build between its two passes: in local files that are deleted one by one as they are written out.

A record's place in its split follows from a key, uniform in 64 bits. The leading bits of the key name the file, so
that the second pass goes through the files in order, and what it has written is gone from the disk: a build takes the
data set's own size and little more.
"""

import contextlib
import os
from collections.abc import Sequence

import numpy as np

NUM_BUCKETS = 64  # files; the most that lies on the disk twice is one of them
_BUFFER_BYTES = 2**17  # of each file


def bucket_of(keys: np.ndarray, num_buckets: int = NUM_BUCKETS) -> np.ndarray:
    """Returns the file of each of `[n] uint64` keys; a power of two of files."""
    bits = num_buckets.bit_length() - 1
    return (keys >> np.uint64(64 - bits)).astype(np.int64) if bits else np.zeros(len(keys), np.int64)


class Spill:
    """Byte strings in a folder's files; append first, then read from any thread. A context manager that closes them."""

    def __init__(self, folder: str, num_buckets: int = NUM_BUCKETS):
        """Makes the files; `folder` is local and not there yet."""
        os.mkdir(folder)
        self.num_buckets = num_buckets
        self._paths = [os.path.join(folder, f"{bucket:03d}.spill") for bucket in range(num_buckets)]
        self._files = [open(path, "xb+", _BUFFER_BYTES) for path in self._paths]  # noqa: SIM115 - closed by __exit__
        self._ends = [0] * num_buckets

    def append(self, keys: np.ndarray, items: Sequence[bytes]) -> np.ndarray:
        """Writes items by their keys; returns `[n] int64`, the offset of each in its file."""
        offsets = np.empty(len(items), np.int64)
        for row, (bucket, item) in enumerate(zip(bucket_of(keys, self.num_buckets).tolist(), items, strict=True)):
            offsets[row] = self._ends[bucket]
            self._files[bucket].write(item)
            self._ends[bucket] += len(item)
        return offsets

    def finish(self) -> None:
        """Ends the writing."""
        for file in self._files:
            file.flush()

    def read(self, buckets: np.ndarray, offsets: np.ndarray, lengths: np.ndarray) -> list[bytes]:
        """Returns items; reads each file in its order, which a disk prefers."""
        found = [b""] * len(offsets)
        for row in np.lexsort((offsets, buckets)).tolist():
            descriptor = self._files[buckets[row]].fileno()
            found[row] = os.pread(descriptor, int(lengths[row]), int(offsets[row]))
        return found

    def delete(self, bucket: int) -> None:
        """Deletes a file, of which nothing is read any more."""
        self._files[bucket].close()
        os.remove(self._paths[bucket])

    def __enter__(self) -> "Spill":
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            with contextlib.suppress(OSError):  # a full disk, which has been told already
                file.close()
