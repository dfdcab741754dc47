"""The bytes of shards: mapped into memory from a disk, by ranged reads of `tf.io.gfile` elsewhere."""

import functools
import mmap
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import tensorflow as tf

_OPEN_FILES = 512  # Python's map of a file keeps the file open, and 1,024 is what a process may usually have
# A `GFile` reads so much at once, even where less is asked for: ranges that are nearer to one another cost nothing.
_REMOTE_READ_BYTES = 2**19
_REMOTE_READERS = 16  # requests under way: a bucket answers each in tens of milliseconds

Span = tuple[str, int, int]  # a file, and where the bytes in it begin and end


class FileBytes(Protocol):
    """Reads parts of files."""

    def read(self, spans: Sequence[Span]) -> list[memoryview]:
        """Returns the bytes of each span; fewer where the file ends before.

        Raises:
          OSError, tf.errors.OpError: A file that cannot be read.
        """


def file_bytes(path: str) -> FileBytes:
    """Returns what reads files that lie where `path` does."""
    return RangedReads() if "://" in path else MappedFiles()


class MappedFiles:
    """Files of a disk, which all processes of a machine that map them hold in memory once: in the page cache."""

    def __init__(self) -> None:
        self._map = functools.lru_cache(_OPEN_FILES)(_map_file)

    def read(self, spans: Sequence[Span]) -> list[memoryview]:
        parts = []
        for path, start, end in spans:
            view = self._map(path)
            # Asks for these pages of a file that is not in memory yet, so that all spans are read side by side.
            page = start - start % mmap.PAGESIZE
            view.obj.madvise(mmap.MADV_WILLNEED, page, max(0, min(end, len(view)) - page))
            parts.append(view[start:end])
        return parts


def _map_file(path: str) -> memoryview:
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    mapped.madvise(mmap.MADV_RANDOM)
    return memoryview(mapped)


class RangedReads:
    """Files of a bucket or another file system of TensorFlow's."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_REMOTE_READERS, thread_name_prefix="ranged-reads")

    def read(self, spans: Sequence[Span]) -> list[memoryview]:
        parts: list[memoryview] = [memoryview(b"")] * len(spans)

        def read_run(run: list[int]) -> None:
            path, first, _ = spans[run[0]]
            with tf.io.gfile.GFile(path, "rb") as file:
                file.seek(first)
                content = memoryview(file.read(max(spans[index][2] for index in run) - first))
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
