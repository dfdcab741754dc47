"""First pass of a build: raw pixels to one flat local file, everything that decides about them to a small index.

Image i lies at byte `i * image_bytes`, so the second pass reads any image in any order, from any thread.
Memory holds the index only: about 40 bytes an image.
"""

import os
from collections.abc import Sequence

import numpy as np

from data_prep import splits
from data_prep.id_file import IdFile
from data_prep.source import Chunk, Source
from tl_distributed.data.records import SPLITS
from tl_distributed.progress import Progress


class PixelFile:
    """The flat file of raw uint8 images; append first, then read. A context manager that closes it."""

    def __init__(self, path: str, image_bytes: int):
        self._file = open(path, "xb+", buffering=0)  # noqa: SIM115 - closed by __exit__
        self._image_bytes = image_bytes

    def append(self, images: np.ndarray) -> None:
        """Writes `[n, height, width, 3] uint8` behind what is there."""
        data = memoryview(np.ascontiguousarray(images)).cast("B")
        while data:  # a raw write may be short, most often just before the disk is full
            data = data[self._file.write(data) :]

    def read(self, indices: Sequence[int]) -> list[bytes]:
        """Returns the pixels of some images; reads in file order, which a disk prefers. Safe from any thread."""
        indices = np.asarray(indices)
        pixels: list[bytes] = [b""] * len(indices)
        for position in np.argsort(indices, kind="stable"):
            offset = int(indices[position]) * self._image_bytes
            pixels[position] = os.pread(self._file.fileno(), self._image_bytes, offset)
        return pixels

    def __enter__(self) -> "PixelFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class Index:
    """What is known of each image in the pixel file, in its order.

    Attributes, once `finish` was called:
      hashes: `[n, 2] uint64` of the contents.
      labels: `[n] int32`.
      origins: `[n] int8`, the source's split as an index into `SPLITS`.
      groups: `[n] int64`, a number for each of the source's groups, -1 for an image of none; or nothing.
    """

    groups: np.ndarray | None

    def __init__(self) -> None:
        self._hashes: list[np.ndarray] = [np.zeros((0, 2), np.uint64)]
        self._labels: list[np.ndarray] = [np.zeros(0, np.int32)]
        self._origins: list[np.ndarray] = [np.zeros(0, np.int8)]
        self._groups: list[np.ndarray] = [np.zeros(0, np.int64)]
        self._group_numbers: dict[str, int] = {}

    def append(self, hashes: np.ndarray, labels: np.ndarray, split: str, groups: Sequence[str] | None = None) -> None:
        self._hashes.append(hashes)
        self._labels.append(labels.astype(np.int32))
        self._origins.append(np.full(len(labels), SPLITS.index(split), np.int8))
        known = self._group_numbers
        numbers = [known.setdefault(name, len(known)) if name else -1 for name in groups or [""] * len(labels)]
        self._groups.append(np.array(numbers, np.int64))

    def finish(self) -> None:
        self.hashes = np.concatenate(self._hashes)
        self.labels = np.concatenate(self._labels)
        self.origins = np.concatenate(self._origins)
        self.groups = np.concatenate(self._groups) if self._group_numbers else None
        self._hashes, self._labels, self._origins, self._groups = [], [], [], []


def read_source(source: Source, pixel_file: PixelFile, id_file: IdFile, *, seed: int) -> Index:
    """Reads every split of the source once into both files and returns the index, with progress.

    Raises:
      UserError: What the source refuses.
      ValueError: A source that breaks its own contract (shape, type, label, a name twice).
    """
    index = Index()
    for split in source.splits:
        with Progress(total=source.count(split), unit="images", label=f"Read {split}") as progress:
            for chunk in source.chunks(split):
                _check_chunk(chunk, source)
                pixel_file.append(chunk.images)
                id_file.append(chunk.names)
                index.append(splits.content_hashes(chunk.images, seed=seed), chunk.labels, split, chunk.groups)
                progress.update(len(chunk.labels))
    index.finish()
    id_file.finish()
    return index


def _check_chunk(chunk: Chunk, source: Source) -> None:
    shape = (len(chunk.labels), source.image_size, source.image_size, 3)
    if chunk.images.shape != shape or chunk.images.dtype != np.uint8 or len(chunk.names) != len(chunk.labels):
        raise ValueError(
            f"source {source.name}: {chunk.images.dtype} images {chunk.images.shape}, expected uint8 {shape}"
        )
    if len(chunk.labels) and not 0 <= chunk.labels.min() <= chunk.labels.max() < len(source.class_names):
        bad = int(np.argmax((chunk.labels < 0) | (chunk.labels >= len(source.class_names))))
        raise ValueError(f"source {source.name}: {chunk.names[bad]} has label {chunk.labels[bad]}")
