"""The bytes of shards: mapped into memory from a disk, by ranged reads of `tf.io.gfile` elsewhere."""

import functools
import mmap
import resource
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, Protocol

import numpy as np
import tensorflow as tf

_OPEN_FILES = 512  # Python's map of a file keeps the file open, and 1,024 is what a process may usually have
_ADVISED_READS = 100  # in a row, once one has waited for pages of a disk
_TRIED_PART = 8  # one in so many
# A `GFile` reads so much at once, even where less is asked for: ranges that are nearer to one another cost nothing.
_REMOTE_READ_BYTES = 2**19
_REMOTE_READERS = 16  # requests under way: a bucket answers each in tens of milliseconds

Span = tuple[str, int, int]  # a file, and where the bytes in it begin and end


class FileBytes(Protocol):
    """Reads parts of files.

    Attributes:
      lasts: Whether what was read once is the same bytes when it is read again; else each reading is a new transfer.
    """

    lasts: ClassVar[bool]

    def read(self, spans: Sequence[Span]) -> list[np.ndarray]:
        """Returns the bytes of each span, `[end - start] uint8`; fewer where the file ends before.

        Raises:
          OSError, tf.errors.OpError: A file that cannot be read.
        """


def file_bytes(path: str) -> FileBytes:
    """Returns what reads files that lie where `path` does."""
    return RangedReads() if "://" in path else MappedFiles()


class MappedFiles:
    """Files of a disk, which all processes of a machine that map them hold in memory once: in the page cache."""

    lasts = True

    def __init__(self) -> None:
        self._map = functools.lru_cache(_OPEN_FILES)(_map_file)
        self._reads_to_advise, self._faults = _ADVISED_READS, _major_faults()

    def read(self, spans: Sequence[Span]) -> list[np.ndarray]:
        map_of = self._map
        parts = [map_of(path)[0][start:end] for path, start, end in spans]
        if self._must_advise(parts):
            for path, start, end in spans:
                page = start - start % mmap.PAGESIZE
                content, mapped = map_of(path)
                mapped.madvise(mmap.MADV_WILLNEED, page, max(0, min(end, len(content)) - page))
        return parts

    def _must_advise(self, parts: list[np.ndarray]) -> bool:
        """Tells whether the system is to be asked for these pages, which takes a tenth of the time of copying them.

        It is where files are not in memory, so that all parts are read side by side. That is tried out now and then,
        by the first page of some parts.
        """
        if self._reads_to_advise:
            self._reads_to_advise -= 1
            if self._reads_to_advise:
                return True
            self._faults = _major_faults()
        for part in parts[::_TRIED_PART]:
            part[:1].tobytes()
        faults = _major_faults()
        if faults == self._faults:
            return False
        self._reads_to_advise, self._faults = _ADVISED_READS, faults
        return True


def _major_faults() -> int:
    """Returns how often this process has waited for a page of a disk."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


def _map_file(path: str) -> tuple[np.ndarray, mmap.mmap]:
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    mapped.madvise(mmap.MADV_RANDOM)
    return np.frombuffer(mapped, np.uint8), mapped


class RangedReads:
    """Files of a bucket or another file system of TensorFlow's."""

    lasts = False

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_REMOTE_READERS, thread_name_prefix="ranged-reads")

    def read(self, spans: Sequence[Span]) -> list[np.ndarray]:
        parts = [np.empty(0, np.uint8)] * len(spans)

        def read_run(run: list[int]) -> None:
            path, first, _ = spans[run[0]]
            with tf.io.gfile.GFile(path, "rb") as file:
                file.seek(first)
                content = np.frombuffer(file.read(max(spans[index][2] for index in run) - first), np.uint8)
            for index in run:
                _, start, end = spans[index]
                parts[index] = content[start - first : end - first]

        list(self._pool.map(read_run, _runs(spans)))
        return parts


def _runs(spans: Sequence[Span]) -> list[list[int]]:
    """Returns the places of spans that are read in one go, in runs."""
    runs: list[list[int]] = []
    for index in sorted(range(len(spans)), key=spans.__getitem__):
        path, start, _ = spans[index]
        if runs:
            last_path, _, last_end = spans[runs[-1][-1]]
            if path == last_path and start - last_end < _REMOTE_READ_BYTES:
                runs[-1].append(index)
                continue
        runs.append([index])
    return runs


class ByteCounter:
    """Counts bytes in many threads."""

    def __init__(self) -> None:
        self._lock, self.total = threading.Lock(), 0

    def add(self, number: int) -> None:
        with self._lock:
            self.total += number
