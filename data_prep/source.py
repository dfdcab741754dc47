"""What a source of labelled images offers to the build: its classes, its own splits, and chunks of pixels."""

import abc
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from data_prep.id_file import IdFile
from data_prep.index import Index
from tl_distributed.data.storing import StorageRule, Stored


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Some hundred images of one split, in the order of the source; the unit in which sources hand out pictures.

    Attributes:
      images: n pictures, each `[height, width, 1, 3 or 4]` uint8 or uint16 as the source has it, or stored already.
      labels: `[n]` integers, indices into the source's `class_names`, or `label_sets`.
      names: n names, e.g. `train/cat/0001.jpg`, unique within the source: the ids of the images.
      groups: n names of what belongs together (one patient, one video), "" for an image that is alone; or nothing.
        Images of one group never lie in two splits.
      unreadable: What of the source was left out here, `name: why`.
    """

    images: np.ndarray | Sequence[np.ndarray | Stored]
    labels: np.ndarray
    names: Sequence[str]
    groups: Sequence[str] | None = None
    unreadable: Sequence[str] = ()


class Source(abc.ABC):
    """Labelled images in up to three splits, read once and in order.

    A subclass finds out everything that is cheap (classes, splits, counts, broken layout) in its
    constructor, so that a mistake is reported before anything is written, and reads pictures in `chunks`.

    Attributes:
      name: As in `--source`.
      class_names: Labels index into it; at least two.
      splits: The source's own, a subset of `tl_distributed.data.records.SPLITS`; always holds "train".
      details: What `dataset.json` should say about the source (JSON values); complete after `tell`.
      notes: Lines for the user (files ignored, images skipped); complete after `tell`.
      label_sets: Where an image has any number of labels, each combination that there is, as ascending indices into
        `class_names`; the labels of chunks are then indices into it. `None` where an image has exactly one.
    """

    name: str
    class_names: tuple[str, ...]
    splits: tuple[str, ...]
    details: dict[str, Any]
    notes: list[str]
    label_sets: tuple[tuple[int, ...], ...] | None = None

    @property
    def num_labels(self) -> int:
        """How many different labels chunks may have."""
        return len(self.class_names if self.label_sets is None else self.label_sets)

    @property
    def label_names(self) -> tuple[str, ...]:
        """What each label of chunks is called."""
        if self.label_sets is None:
            return self.class_names
        return tuple("|".join(self.class_names[label] for label in labels) for labels in self.label_sets)

    @abc.abstractmethod
    def chunks(self, split: str, rule: StorageRule) -> Iterator[Chunk]:
        """Yields the whole split from its beginning, some hundred images at a time, deterministically.

        Only a few chunks are in memory at a time. A source that decodes files stores them by `rule` at once, in its
        threads.

        Raises:
          tl_distributed.errors.UserError: An image that cannot be read (named).
        """

    def count(self, split: str) -> int | None:
        """Number of images of the split, or None where it is not known before reading (progress only)."""
        del split
        return None

    def parts(self, split: str) -> list["Part"]:
        """Returns what may be read side by side, also on other machines; together the split, in its order."""
        return [WholeSplit(self, split)]

    def tell(self, index: Index, ids: IdFile) -> None:
        """Completes `details` and `notes` by what the reading of all splits has shown; nothing by default."""
        del index, ids


class Part(abc.ABC):
    """A part of a split of a source, which can be sent to another process."""

    @abc.abstractmethod
    def chunks(self, rule: StorageRule) -> Iterator[Chunk]:
        """Yields the part; see `Source.chunks`."""


@dataclasses.dataclass(frozen=True)
class WholeSplit(Part):
    """A split of a source that can be sent to another process as it is."""

    source: Source
    split: str

    def chunks(self, rule: StorageRule) -> Iterator[Chunk]:
        return self.source.chunks(self.split, rule)
