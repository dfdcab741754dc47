"""CIFAR-10 from the official binary or python archive, or the folder it unpacks to.

Format: https://www.cs.toronto.edu/~kriz/cifar.html (Krizhevsky 2009). Both hold 10,000 images a file, each 3,072
bytes: a red, a green and a blue plane of 32x32. The python archive, the one that Keras and torchvision leave on the
disk, is made of pickles, which may run anything when they are read: only the official files are, told by their MD5.
"""

import hashlib
import pickle
import posixpath
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from data_prep.config import BuildConfig
from data_prep.source import Chunk, Source
from data_prep.source_parts.archive_limits import ArchiveLimits
from data_prep.source_parts.containers import UnreadableFile, open_container
from tl_distributed.data.storing import StorageRule
from tl_distributed.errors import UserError

TAKES, NEEDS = ("input", "max_archive_members", "max_archive_gib"), ("input",)
_SIDE = 32
_IMAGE_BYTES = 3 * _SIDE * _SIDE
_CHUNK_IMAGES = 1000
_BATCHES = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)}
_CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_NAMES_FILE = "batches.meta.txt"
_PYTHON_MD5 = {  # of the files of cifar-10-python.tar.gz, as torchvision lists them
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}


class Cifar10ArchiveSource(Source):
    """The ten classes in the official order, 50,000 images of train and 10,000 of test."""

    name = "cifar10_archive"
    splits = ("train", "test")

    def __init__(self, *, path: str, limits: ArchiveLimits | None = None):
        """Finds the files and reads the class names.

        Args:
          path: `cifar-10-binary.tar.gz`, `cifar-10-python.tar.gz`, or a folder with the files of one of them.
          limits: Of an archive; None: the default ones.

        Raises:
          UserError: Files are missing (named) or damaged.
        """
        self._container = open_container(path, limits)
        self._paths = {posixpath.basename(name): name for name in self._container.files}
        self._is_binary = "data_batch_1.bin" in self._paths
        self._ending = ".bin" if self._is_binary else ""
        needed = [name + self._ending for names in _BATCHES.values() for name in names]
        needed += [_NAMES_FILE] if self._is_binary else []
        missing = [name for name in needed if name not in self._paths]
        if missing:
            raise UserError(
                f"--input={path}: no {missing[0]} there; expected the official CIFAR-10 binary or python archive, "
                "or the folder it unpacks to"
            )
        self.class_names = self._read(_NAMES_FILE, _parse_names) if self._is_binary else _CLASS_NAMES
        self.details = {"format": "binary" if self._is_binary else "python"}
        self.notes = []

    def chunks(self, split: str, rule: StorageRule) -> Iterator[Chunk]:
        del rule  # nothing is decoded here
        first = 0
        for batch in _BATCHES[split]:
            pixels, labels = self._read_batch(batch)
            if not len(labels) or labels.max() >= len(_CLASS_NAMES):
                raise UserError(
                    f"--input={self._container.path}: {batch}{self._ending} holds labels that are not 0 to 9"
                )
            images = pixels.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
            for start in range(0, len(labels), _CHUNK_IMAGES):
                part = slice(start, start + _CHUNK_IMAGES)
                names = [f"{split}/{first + start + row:05d}" for row in range(len(labels[part]))]
                yield Chunk(images[part], labels[part], names)
            first += len(labels)

    def _read_batch(self, batch: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns (`[n, 3072] uint8`, `[n] int64`)."""
        if self._is_binary:
            return self._read(f"{batch}.bin", _parse_binary)
        return self._read(batch, lambda data: _parse_python(data, _PYTHON_MD5[batch]))

    def _read(self, name: str, parse: Callable[[bytes], Any]) -> Any:
        """Returns `parse(bytes of the file)`, whose mistakes become a line that names the file."""
        try:
            (member,) = self._container.members([self._paths[name]])
            return parse(member.read())
        except (UnreadableFile, ValueError) as error:
            raise UserError(f"--input={self._container.path}: {name} {error}") from None


def _parse_names(data: bytes) -> tuple[str, ...]:
    try:
        names = tuple(line.strip() for line in data.decode("ascii").splitlines() if line.strip())
    except UnicodeDecodeError:
        names = ()
    if len(names) != len(_CLASS_NAMES):
        raise ValueError(f"is damaged ({len(names)} class names instead of {len(_CLASS_NAMES)})")
    return names


def _parse_binary(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Returns (`[n, 3072] uint8`, `[n] int64`)."""
    if not data or len(data) % (1 + _IMAGE_BYTES):
        raise ValueError(f"is damaged ({len(data):,} bytes, not a multiple of {1 + _IMAGE_BYTES:,}: truncated?)")
    records = np.frombuffer(data, np.uint8).reshape(-1, 1 + _IMAGE_BYTES)
    return records[:, 1:], records[:, 0].astype(np.int64)


def _parse_python(data: bytes, expected_md5: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns (`[n, 3072] uint8`, `[n] int64`) of an official file; no other pickle is read."""
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != expected_md5:
        raise ValueError(
            "is not the official file (its MD5 is another), and pickles of strangers are not read; use "
            "cifar-10-binary.tar.gz, or the images as --source=image_folder"
        )
    batch = pickle.loads(data, encoding="bytes")
    return batch[b"data"], np.array(batch[b"labels"], np.int64)


def open_source(config: BuildConfig) -> Source:
    """Raises `UserError` as the source's constructor does."""
    return Cifar10ArchiveSource(path=config.input, limits=config.archive_limits)
