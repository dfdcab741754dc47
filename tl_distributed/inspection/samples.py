"""The images that are looked at: some of a split by their place in it, and image files."""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tl_distributed.data.dataset import load_splits
from tl_distributed.data.decode import UnreadableImage
from tl_distributed.data.decode_settings import DecodeSettings
from tl_distributed.data.ids import read_ids
from tl_distributed.data.records import DatasetInfo
from tl_distributed.errors import UserError
from tl_distributed.inference.pictures import PictureRule, fitted_squares, prepare_picture
from tl_distributed.inspection.settings import MOST_SHOWN

_MOST_BY_DEFAULT = 8
_READ_BATCH = 512


@dataclasses.dataclass(frozen=True)
class Samples:
    """Images of a split.

    Attributes:
      images: `[n, height, width, 3] uint8`.
      labels: `[n] int32`.
      places: `[n]`, of each in the split.
      ids: Of each, its name in the data set's source; or nothing where the data set has none.
    """

    images: np.ndarray
    labels: np.ndarray
    places: np.ndarray
    ids: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Shown:
    """Images that are drawn: `[n, height, width, 3] uint8`, and a caption each."""

    images: np.ndarray
    captions: tuple[str, ...]


def check_images(names: Sequence[str], info: DatasetInfo, split: str) -> None:
    """Raises `UserError` for places that the split does not have, files that are not there, or too many of them."""
    if len(names) > MOST_SHOWN:
        raise UserError(f"--images: {len(names)} images; at most {MOST_SHOWN} are legible in a figure")
    count = info.splits[split].num_examples
    for name in names:
        if name.isdecimal() and int(name) >= count:
            raise UserError(f"--images={name}: {split} has {count} images, so the last place is {count - 1}")
        if not name.isdecimal() and not tf.io.gfile.exists(name):
            raise UserError(f"--images={name}: no such file, nor a place in the split (0 to {count - 1})")


def read_samples(
    data_dir: str, info: DatasetInfo, split: str, *, num_images: int, shown: Sequence[str], rule: PictureRule,
    max_megapixels: float = DecodeSettings.max_megapixels,
) -> tuple[Samples, Shown]:  # fmt: skip
    """Reads the images that the numbers are of, and those that are drawn, in one pass over the split.

    Args:
      data_dir: Finished data set.
      info: Its manifest.
      split: Which the data set has.
      num_images: How many, spread evenly over the split; of fewer, all.
      shown: Places and files, checked; if empty, the first image of each class, 8 at most.
      rule: By which files, and pictures that the split holds whole, become what the network takes.
      max_megapixels: Million pixels that a file may hold once decoded.

    Raises:
      UserError: Shards or image files that cannot be read.
    """
    source = load_splits(data_dir, info, (split,), input_mode="auto")[split]
    count = source.num_examples
    places = np.unique(np.linspace(0, count - 1, min(num_images, count)).round().astype(np.int64))
    wanted = {int(name) for name in shown if name.isdecimal()}
    kept_images, kept_labels, drawn, first = [], [], {}, {}
    done = 0
    for batch in source.eval_batches(_READ_BATCH):
        rows = places[(places >= done) & (places < done + batch.num_valid)] - done
        images = fitted_squares(batch.images, batch.sizes, size=rule.size, fit=rule.fit)
        kept_images.append(images[rows])
        kept_labels.append(batch.labels[rows])
        for row, label in enumerate(batch.labels[: batch.num_valid].tolist()):
            if not shown and label not in first and len(first) < _MOST_BY_DEFAULT:
                first[label] = done + row
            if done + row in wanted or first.get(label) == done + row:
                drawn[done + row] = (images[row], label)
        done += batch.num_valid
    ids = read_ids(data_dir, info, split)
    ids = None if ids is None else tuple(ids[place] for place in places)
    samples = Samples(np.concatenate(kept_images), np.concatenate(kept_labels), places, ids)
    names = shown or [str(first[label]) for label in sorted(first)]
    pairs = [
        (drawn[int(name)][0], f"{info.class_names[drawn[int(name)][1]]}\n{split} {name}")
        if name.isdecimal() else (_decode(name, info, rule, max_megapixels), os.path.basename(name))
        for name in names
    ]  # fmt: skip
    return samples, Shown(np.stack([image for image, _ in pairs]), tuple(caption for _, caption in pairs))


def _decode(path: str, info: DatasetInfo, rule: PictureRule, max_megapixels: float) -> np.ndarray:
    height, width, _ = info.image_shape
    if height != width:
        raise UserError(f"--images={path}: the run takes {height} x {width} images; only square ones are prepared here")
    try:
        return prepare_picture(path, rule, max_megapixels=max_megapixels)
    except UnreadableImage as error:
        raise UserError(f"--images={path}: {error}") from None
