"""The ids of a build's images while it runs: in a file, since a million names are too many for the memory."""

import hashlib
import mmap
from collections.abc import Iterable, Sequence

import numpy as np


class IdFile:
    """Names one after the other in a local file; append first, then read. A context manager that closes it.

    Memory holds 16 bytes a name.
    """

    def __init__(self, path: str):
        self._file = open(path, "xb+")  # noqa: SIM115 - closed by __exit__
        self._map: mmap.mmap | bytes = b""
        self._ends: list[np.ndarray] = [np.zeros(1, np.int64)]
        self._digests: list[np.ndarray] = [np.zeros(0, np.uint64)]

    def append(self, names: Sequence[str]) -> None:
        """Writes names behind those that are there."""
        encoded = [name.encode("utf-8", "surrogatepass") for name in names]
        self._file.write(b"".join(encoded))
        self._ends.append(self._ends[-1][-1] + np.cumsum([len(name) for name in encoded], dtype=np.int64))
        if not encoded:
            self._ends.pop()
        digests = b"".join(hashlib.blake2b(name, digest_size=8).digest() for name in encoded)
        self._digests.append(np.frombuffer(digests, np.uint64))

    def finish(self) -> None:
        """Ends the writing.

        Raises:
          ValueError: A name that is there twice.
        """
        self._file.flush()
        if self._file.tell():
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        self._ends = [np.concatenate(self._ends)]
        digests = np.concatenate(self._digests)
        self._digests = []
        order = np.argsort(digests, kind="stable")
        for place in np.flatnonzero(digests[order][1:] == digests[order][:-1]):
            first, second = self.read(order[place : place + 2])
            if first == second:
                raise ValueError(f"two images are called {first!r}")

    def read(self, indices: Iterable[int]) -> list[str]:
        """Returns some names."""
        (ends,) = self._ends
        return [self._map[ends[index] : ends[index + 1]].decode("utf-8", "surrogatepass") for index in indices]

    def __enter__(self) -> "IdFile":
        return self

    def __exit__(self, *_: object) -> None:
        if self._map:
            self._map.close()
        self._file.close()
