"""Ids of any number of records, compared in 16 bytes each."""

import hashlib

import numpy as np

from tl_distributed.errors import UserError

_BYTES = 16


class IdDigests:
    """Remembers the ids of files in their order, and which is of which record."""

    def __init__(self) -> None:
        self._digests = bytearray()
        self._files: list[tuple[int, str]] = []  # position of each file's first id

    def add(self, encoded: bytes, path: str, number: int) -> None:
        """Adds the id of record, or line, `number` of a file; each file's are added one after the other from 0."""
        if number == 0:
            self._files.append((len(self._digests) // _BYTES, path))
        self._digests += hashlib.blake2b(encoded, digest_size=_BYTES).digest()

    def check_unique(self) -> None:
        """Raises `UserError` that names two records of the same id."""
        digests = self._array()
        order = np.lexsort((digests[:, 1], digests[:, 0]))
        ordered = digests[order]
        for place in np.flatnonzero((ordered[1:] == ordered[:-1]).all(axis=1))[:1]:
            (path, number), (first_path, first_number) = (
                self._place(position) for position in sorted(order[place : place + 2].tolist(), reverse=True)
            )
            raise UserError(
                f"{path}: the id of record {number} is there twice, also in record {first_number} of {first_path}"
            )

    def first_difference(self, other: "IdDigests") -> tuple[str, int] | None:
        """Returns file and number, here, of the first id that differs from that in the same place of another."""
        digests, others = self._array(), other._array()
        count = min(len(digests), len(others))
        wrong = np.flatnonzero((digests[:count] != others[:count]).any(axis=1))
        return self._place(int(wrong[0])) if len(wrong) else None

    def _array(self) -> np.ndarray:
        return np.frombuffer(bytes(self._digests), np.uint64).reshape(-1, 2)

    def _place(self, position: int) -> tuple[str, int]:
        first, path = max(file for file in self._files if file[0] <= position)
        return path, position - first
