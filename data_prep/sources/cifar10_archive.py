"""CIFAR-10 from the official binary or python archive, or the folder it unpacks to.

Format: https://www.cs.toronto.edu/~kriz/cifar.html (Krizhevsky 2009). Both hold 10,000 images a file, each 3,072
bytes: a red, a green and a blue plane of 32x32.
"""

import posixpath
from collections.abc import Callable, Iterator

import numpy as np

from data_prep.sources import safe_pickle
from data_prep.sources.base import Chunk, Source
from data_prep.sources.containers import UnreadableFile, open_container
from data_prep.sources.decode import resize_array
from tl_distributed.commandline import UserError

_SIDE = 32
_IMAGE_BYTES = 3 * _SIDE * _SIDE
_CHUNK_IMAGES = 1000
_BATCHES = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)}


class Cifar10ArchiveSource(Source):
    """The ten classes in the official order, 50,000 images of train and 10,000 of test."""

    name = "cifar10_archive"
    splits = ("train", "test")

    def __init__(self, *, path: str, image_size: int):
        """Finds the files and reads the class names.

        Args:
          path: `cifar-10-binary.tar.gz`, `cifar-10-python.tar.gz`, or a folder with the files of one of them.
          image_size: Height and width in pixels; other than 32 resizes.

        Raises:
          UserError: Files are missing (named) or damaged.
        """
        self.image_size = image_size
        self._container = open_container(path)
        self._paths = {posixpath.basename(name): name for name in self._container.files}
        self._is_binary = "data_batch_1.bin" in self._paths
        self._ending, self._parse = (".bin", _parse_binary) if self._is_binary else ("", _parse_python)
        names_file = "batches.meta.txt" if self._is_binary else "batches.meta"
        needed = [name + self._ending for names in _BATCHES.values() for name in names] + [names_file]
        missing = [name for name in needed if name not in self._paths]
        if missing:
            raise UserError(
                f"--input={path}: no {missing[0]} there; expected the official CIFAR-10 binary or python archive, "
                "or the folder it unpacks to"
            )
        self.class_names = self._read_file(names_file, _parse_names if self._is_binary else _parse_python_names)
        self.details = {"format": "binary" if self._is_binary else "python"}
        self.notes = []

    def chunks(self, split: str) -> Iterator[Chunk]:
        for batch in _BATCHES[split]:
            pixels, labels = self._read_file(batch + self._ending, self._parse)
            if len(labels) != len(pixels) or not len(labels) or not 0 <= min(labels) <= max(labels) < 10:
                raise UserError(
                    f"--input={self._container.path}: {batch}{self._ending} holds labels that are not 0 to 9"
                )
            images = pixels.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
            for start in range(0, len(labels), _CHUNK_IMAGES):
                part = slice(start, start + _CHUNK_IMAGES)
                names = [f"{batch}[{start + i}]" for i in range(len(labels[part]))]
                yield Chunk(self._resize(images[part]), labels[part], names)

    def _resize(self, images: np.ndarray) -> np.ndarray:
        if self.image_size == _SIDE:
            return np.ascontiguousarray(images)
        resized = (resize_array(image, size=self.image_size, crop_to_aspect_ratio=False) for image in images)
        return np.stack(list(resized))

    def _read_file(self, name: str, parse: Callable):
        """Returns `parse(bytes of the file)`, whose mistakes become a line that names the file."""
        try:
            (member,) = self._container.members([self._paths[name]])
            return parse(member.read())
        except (UnreadableFile, ValueError) as error:
            raise UserError(f"--input={self._container.path}: {name} is damaged ({error})") from None


def _parse_binary(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Returns (`[n, 3072] uint8`, `[n] int64`)."""
    if not data or len(data) % (1 + _IMAGE_BYTES):
        raise ValueError(f"{len(data):,} bytes, not a multiple of {1 + _IMAGE_BYTES:,}: truncated?")
    records = np.frombuffer(data, np.uint8).reshape(-1, 1 + _IMAGE_BYTES)
    return records[:, 1:], records[:, 0].astype(np.int64)


def _parse_python(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Returns (`[n, 3072] uint8`, `[n] int64`)."""
    batch = _as_dictionary(data)
    pixels, labels = _entry(batch, "data"), _entry(batch, "labels")
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (_IMAGE_BYTES,):
        raise ValueError(f"its data is no uint8 array [n, {_IMAGE_BYTES}]")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise ValueError("its labels are no list of whole numbers")
    return pixels, np.array(labels, np.int64)


def _parse_names(data: bytes) -> tuple[str, ...]:
    return _check_names([line.strip() for line in data.decode("ascii").splitlines() if line.strip()])


def _parse_python_names(data: bytes) -> tuple[str, ...]:
    names = _entry(_as_dictionary(data), "label_names")
    if not isinstance(names, list) or not all(isinstance(name, (bytes, str)) for name in names):
        raise ValueError("its label_names are no list of names")
    return _check_names([name.decode("ascii") if isinstance(name, bytes) else name for name in names])


def _check_names(names: list[str]) -> tuple[str, ...]:
    if len(names) != 10:
        raise ValueError(f"{len(names)} class names instead of 10")
    return tuple(names)


def _as_dictionary(data: bytes) -> dict:
    value = safe_pickle.loads(data)
    if not isinstance(value, dict):
        raise ValueError("not a dictionary")
    return value


def _entry(batch: dict, key: str):
    """Looks up a key that Python 2 wrote as bytes."""
    for name in (key.encode(), key):
        if name in batch:
            return batch[name]
    raise ValueError(f"it has no entry {key!r}")
