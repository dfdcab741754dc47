"""What a source of labelled images offers to the build: its classes, its own splits, and chunks of pixels."""

import abc
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tl_distributed.data.fit_rules import DEFAULT_FIT, Fit


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Some hundred images of one split, in the order of the source; the unit in which sources hand out pixels.

    Attributes:
      images: `[n, size, size, 3]` uint8, RGB.
      labels: `[n]` integers, indices into the source's `class_names`.
      names: n names, e.g. `train/cat/0001.jpg`, unique within the source: the ids of the images.
      groups: n names of what belongs together (one patient, one video), "" for an image that is alone; or nothing.
        Images of one group never lie in two splits.
    """

    images: np.ndarray
    labels: np.ndarray
    names: Sequence[str]
    groups: Sequence[str] | None = None


class Source(abc.ABC):
    """Labelled images in up to three splits, read once and in order.

    A subclass finds out everything that is cheap (classes, splits, counts, broken layout) in its
    constructor, so that a mistake is reported before anything is written, and reads pixels in `chunks`.

    Attributes:
      name: As in `--source`.
      class_names: Labels index into it; at least two.
      splits: The source's own, a subset of `tl_distributed.data.records.SPLITS`; always holds "train".
      image_size: Height and width of every image that `chunks` yields, in pixels.
      fit: How `chunks` made squares of images that are not.
      details: What `dataset.json` should say about the source (JSON values); complete after reading.
      notes: Lines for the user (files ignored, images skipped); complete after reading.
    """

    name: str
    class_names: tuple[str, ...]
    splits: tuple[str, ...]
    image_size: int
    fit: Fit = DEFAULT_FIT
    details: dict[str, Any]
    notes: list[str]

    @abc.abstractmethod
    def chunks(self, split: str) -> Iterator[Chunk]:
        """Yields the whole split from its beginning, some hundred images at a time, deterministically.

        Only a few chunks are in memory at a time.

        Raises:
          tl_distributed.errors.UserError: An image that cannot be read (named).
        """

    def count(self, split: str) -> int | None:
        """Number of images of the split, or None where it is not known before reading (progress only)."""
        del split
        return None
