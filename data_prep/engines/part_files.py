"""The images of a build's parts: a file a part in a folder of any file system, written once and read anywhere."""

import os
import uuid
from collections.abc import Sequence

import numpy as np

from tl_distributed.files import is_remote, replace_file


class PartWriter:
    """Writes the images of one part; the file appears under its name when the context ends well."""

    def __init__(self, folder: str, number: int):
        self._path = _path(folder, number)
        self._temporary = f"{self._path}.{uuid.uuid4().hex}.tmp"
        self._end = 0

    def append(self, keys: np.ndarray, items: Sequence[bytes]) -> np.ndarray:
        """Writes items; returns `[n] int64`, the offset of each."""
        del keys  # the order is that of the part
        ends = self._end + np.cumsum([len(item) for item in items], dtype=np.int64)
        self._file.write(b"".join(items))
        offsets = np.concatenate([np.array([self._end], np.int64), ends])[:-1]
        self._end = int(ends[-1]) if len(ends) else self._end
        return offsets

    def __enter__(self) -> "PartWriter":
        import tensorflow as tf

        self._file = tf.io.gfile.GFile(self._temporary, "wb")
        self._file.write(b"")  # makes the file, also of a part without pictures
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        import tensorflow as tf

        self._file.close()
        if kind is None:
            replace_file(self._temporary, self._path)
        else:
            tf.io.gfile.remove(self._temporary)


def read_images(folder: str, parts: np.ndarray, offsets: np.ndarray, lengths: np.ndarray) -> list[bytes]:
    """Returns images, `[n]` each: of which part, at which offset, how many bytes; reads each file in its order."""
    found = [b""] * len(parts)
    order = np.lexsort((offsets, parts))
    for rows in np.split(order, np.flatnonzero(np.diff(parts[order])) + 1):
        if len(rows):
            path = _path(folder, int(parts[rows[0]]))
            for row, image in zip(rows.tolist(), _read(path, offsets[rows], lengths[rows]), strict=True):
                found[row] = image
    return found


def _read(path: str, offsets: np.ndarray, lengths: np.ndarray) -> list[bytes]:
    import tensorflow as tf

    spans = zip(offsets.tolist(), lengths.tolist(), strict=True)
    if not is_remote(path):
        with open(path, "rb", buffering=0) as file:
            return [os.pread(file.fileno(), length, offset) for offset, length in spans]
    with tf.io.gfile.GFile(path, "rb") as file:
        images = []
        for offset, length in spans:
            file.seek(offset)
            images.append(file.read(length))
        return images


def _path(folder: str, number: int) -> str:
    return f"{folder}/images-{number:05d}"
