"""Any image classification set of TensorFlow Datasets (TFDS)."""

import contextlib
import difflib
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np

from data_prep.config import BuildConfig
from data_prep.source import Chunk, Source
from tl_distributed.data.storing import StorageRule
from tl_distributed.errors import UserError

TAKES, NEEDS = ("input", "tfds_name", "fit", "crop_to_aspect_ratio"), ("tfds_name",)
_CHUNK_IMAGES = 256
_CHUNK_BYTES = 16 * 2**20  # of pictures of any size
_DOWNLOAD_RETRIES = 5
_TFDS_SPLITS = {"train": "train", "val": "validation", "test": "test"}
_OFFLINE = (
    "without the network: --source=cifar10_archive or --source=image_folder with --input=PATH, --source=synthetic, "
    "or --input=FOLDER with a copy of another machine's tensorflow_datasets folder"
)


class TfdsSource(Source):
    """A TFDS set whose supervised pair is (one image, one class label); downloads and prepares it on first use."""

    def __init__(self, *, name: str, tfds_name: str, data_dir: str):
        """Loads the set, downloading it if it is not in `data_dir`.

        Args:
          name: As in `--source`.
          tfds_name: As in the TFDS catalogue, with `/config` and `:version` where wanted.
          data_dir: TFDS folder; empty takes TFDS's own (`TFDS_DATA_DIR` or `~/tensorflow_datasets`).

        Raises:
          UserError: Unknown name, not image classification, no train split, or the download failed.
        """
        self.name = name
        self.notes: list[str] = []
        self._builder = _make_builder(tfds_name, data_dir)
        self._image_key, self._label_key = _supervised_keys(self._builder)
        _prepare(self._builder)
        self.class_names = tuple(self._builder.info.features[self._label_key].names)
        self.splits = self._find_splits()
        self.details = {
            "tfds": str(self._builder.info.full_name),
            **_about(self._builder.info),
        }

    def count(self, split: str) -> int:
        return self._builder.info.splits[_TFDS_SPLITS[split]].num_examples

    def chunks(self, split: str, rule: StorageRule) -> Iterator[Chunk]:
        import tensorflow_datasets as tfds

        dataset = self._dataset(split)
        del rule  # TFDS hands out pixels
        is_fixed = None not in (self._builder.info.features[self._image_key].shape or (None,))
        if is_fixed:  # a batch costs as much as an image
            dataset = dataset.batch(_CHUNK_IMAGES)
        start = 0
        for images, labels in self._read(tfds.as_numpy(dataset), split) if is_fixed else self._gathered(dataset, split):
            names = [f"{split}/{start + row:05d}" for row in range(len(labels))]
            start += len(labels)
            yield Chunk(images, labels, names)

    def _dataset(self, split: str) -> Any:
        """Returns a `tf.data` set of (image, label), in the order of TFDS's files."""
        import tensorflow_datasets as tfds

        # Metadata only, no pixels of other features: some sets carry masks or boxes that are slow to decode.
        decoders = tfds.decode.PartialDecoding({self._image_key: True, self._label_key: True})
        dataset = self._builder.as_dataset(split=_TFDS_SPLITS[split], shuffle_files=False, decoders=decoders)
        return dataset.map(lambda example: (example[self._image_key], example[self._label_key]))

    def _gathered(self, dataset: Any, split: str) -> Iterator[tuple[list[np.ndarray], np.ndarray]]:
        import tensorflow as tf
        import tensorflow_datasets as tfds

        images, labels, num_bytes = [], [], 0
        for image, label in self._read(tfds.as_numpy(dataset.prefetch(tf.data.AUTOTUNE)), split):
            images.append(image)
            labels.append(label)
            num_bytes += image.nbytes
            if len(labels) == _CHUNK_IMAGES or num_bytes >= _CHUNK_BYTES:
                yield images, np.array(labels)
                images, labels, num_bytes = [], [], 0
        if labels:
            yield images, np.array(labels)

    def _read(self, dataset: Any, split: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        import tensorflow as tf

        try:
            yield from dataset
        except tf.errors.OpError as error:
            raise UserError(f"{self._builder.info.full_name}: cannot read {split} ({error.message})") from None

    def _find_splits(self) -> tuple[str, ...]:
        """Returns the splits that exist and are labelled; TFDS marks a set without public labels by label -1."""
        found = []
        for split, tfds_split in _TFDS_SPLITS.items():
            if tfds_split not in self._builder.info.splits:
                continue
            _, label = next(iter(self._dataset(split).take(1).as_numpy_iterator()), (None, -1))
            if label < 0:
                self.notes.append(f"{self._builder.info.full_name}: left out {tfds_split}, it has no labels")
            else:
                found.append(split)
        if "train" not in found:
            raise UserError(f"--tfds_name={self._builder.info.full_name}: no labelled train split")
        return tuple(found)


def _about(info: Any) -> dict[str, str]:
    """Returns what the set says of itself: its description, home page, citation and licence, where it does."""
    said = {
        "description": info.description,
        "homepage": info.homepage,
        "citation": info.citation,
        "license": getattr(info.redistribution_info, "license", None),
    }
    return {key: str(value).strip() for key, value in said.items() if value}


def _make_builder(tfds_name: str, data_dir: str) -> Any:
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(tfds_name, data_dir=data_dir or None)
    except tfds.core.DatasetNotFoundError:
        near = difflib.get_close_matches(tfds_name, tfds.list_builders(), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"--tfds_name={tfds_name}: TFDS knows no such set{hint}") from None
    except Exception as error:  # a wrong version or config, a missing package, a damaged folder: each its own type
        raise UserError(f"--tfds_name={tfds_name}: {_cause(error)}") from None


def _supervised_keys(builder: Any) -> tuple[str, str]:
    import tensorflow_datasets as tfds

    keys, features = builder.info.supervised_keys, builder.info.features
    is_pair = isinstance(keys, tuple) and len(keys) == 2 and all(isinstance(key, str) for key in keys)
    if (
        not is_pair
        or not isinstance(features[keys[0]], tfds.features.Image)
        or not isinstance(features[keys[1]], tfds.features.ClassLabel)
    ):
        raise UserError(
            f"--tfds_name={builder.info.full_name}: not images with one class label each (supervised keys: {keys})"
        )
    return keys


def _prepare(builder: Any) -> None:
    """Downloads and prepares the set where it is not there yet.

    Raises:
      UserError: That failed; says why, and what works without the network.
    """
    try:
        with _few_retries():
            builder.download_and_prepare()
    except Exception as error:  # TFDS, requests, urllib and the file system fail with types of their own
        raise UserError(f"{builder.info.full_name}: download failed: {_cause(error)}; {_OFFLINE}") from None


@contextlib.contextmanager
def _few_retries() -> Iterator[None]:
    """Has TFDS give up on a dead network after seconds: its ten tries, each waiting twice as long, take 3.5 minutes."""
    from tensorflow_datasets.core.download import downloader

    retry_log = logging.getLogger("urllib3.connectionpool")  # a paragraph for each try
    before = getattr(downloader, "MAX_RETRIES", None), retry_log.level
    downloader.MAX_RETRIES = _DOWNLOAD_RETRIES
    retry_log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        downloader.MAX_RETRIES = before[0]
        retry_log.setLevel(before[1])


def _cause(error: BaseException) -> str:
    """Returns the innermost cause, shortened to its first line."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def open_source(config: BuildConfig) -> Source:
    """Raises `UserError` as the source's constructor does."""
    return TfdsSource(
        name="tfds",
        tfds_name=config.tfds_name,
        data_dir=config.input,
    )
