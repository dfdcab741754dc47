"""What is known of each picture between the two passes of a build: 70 bytes in memory."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tl_distributed.data.records import SPLITS
from tl_distributed.data.storing import Stored

NO_BITS = -1  # of a picture that has not 16 bits a sample
COLUMNS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "hashes": ("<u8", (2,)),  # of the contents
    "keys": ("<u8", ()),  # that decide the order
    "labels": ("<i4", ()),
    "origins": ("i1", ()),  # the source's split, an index into `SPLITS`
    "parts": ("<i4", ()),  # of the source, and so of the spilled files
    "offsets": ("<i8", ()),  # in the spilled file
    "lengths": ("<i4", ()),  # of the stored image in bytes
    "sizes": ("<i4", (2,)),  # height and width of the stored picture in pixels
    "source_sizes": ("<i4", (2,)),  # width and height of the source's picture in pixels; 0 where it tells nothing
    "used_bits": ("i1", ()),
}


def rows_of(
    stored: Sequence[Stored], *, keys: np.ndarray, labels: np.ndarray, split: str, part: int, offsets: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns the columns of some pictures of one split and one part of the source."""
    count = len(stored)
    bits = [NO_BITS if one.used_bits is None else one.used_bits for one in stored]
    columns = {
        "hashes": np.frombuffer(b"".join(one.content for one in stored), "<u8").reshape(-1, 2),
        "keys": keys,
        "labels": labels,
        "origins": np.full(count, SPLITS.index(split)),
        "parts": np.full(count, part),
        "offsets": offsets,
        "lengths": [len(one.image) for one in stored],
        "sizes": np.array([(one.height, one.width) for one in stored]).reshape(-1, 2),
        "source_sizes": np.array([one.source_size for one in stored]).reshape(-1, 2),
        "used_bits": bits,
    }
    return {name: np.asarray(columns[name]).astype(kind) for name, (kind, _) in COLUMNS.items()}


class Index:
    """Columns of all pictures, in the order of the source.

    Attributes, once `finish` was called, `[n, ...]` each: those of `COLUMNS`, and
      groups: `[n] int64`, a number for each of the source's groups, -1 for a picture of none; or nothing.
      unreadable: What was left out, `name: why`, in the order of the source, by split.
      label_sets: Of the source; `labels` are indices into it where there are any.
    """

    hashes: np.ndarray
    keys: np.ndarray
    labels: np.ndarray
    origins: np.ndarray
    parts: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    sizes: np.ndarray
    source_sizes: np.ndarray
    used_bits: np.ndarray
    groups: np.ndarray | None

    def __init__(self, label_sets: Sequence[tuple[int, ...]] | None = None) -> None:
        self.label_sets = label_sets
        self._columns: dict[str, list[np.ndarray]] = {
            name: [np.zeros((0, *shape), kind)] for name, (kind, shape) in COLUMNS.items()
        }
        self._groups: list[np.ndarray] = [np.zeros(0, np.int64)]
        self._group_numbers: dict[str, int] = {}
        self.unreadable: dict[str, list[str]] = {}

    def append(
        self, rows: dict[str, np.ndarray], split: str, groups: Sequence[str] | None, unreadable: Sequence[str] = ()
    ) -> None:
        """Enters pictures of one split; `groups` are names, "" for a picture of none."""
        for name, column in rows.items():
            self._columns[name].append(column)
        known, count = self._group_numbers, len(rows["labels"])
        numbers = [known.setdefault(name, len(known)) if name else -1 for name in groups or [""] * count]
        self._groups.append(np.array(numbers, np.int64))
        self.unreadable.setdefault(split, []).extend(unreadable)

    def finish(self) -> None:
        """Ends the entries."""
        for name in COLUMNS:
            setattr(self, name, np.concatenate(self._columns.pop(name)))
        self.groups = np.concatenate(self._groups) if self._group_numbers else None
        self._groups = []

    def __len__(self) -> int:
        return len(self.labels)

    def labels_of(self, rows: np.ndarray) -> list[int] | list[tuple[int, ...]]:
        """Returns the class of each of some pictures, or where they have any number of them all of its classes."""
        labels = self.labels[rows].tolist()
        return labels if self.label_sets is None else [self.label_sets[label] for label in labels]

    def classes_of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the classes of some pictures, one after the other, and of each the picture: `[m]` both."""
        if self.label_sets is None:
            return self.labels[rows], rows
        sets = self.labels_of(rows)
        classes = np.array([label for labels in sets for label in labels], np.int64)
        return classes, np.repeat(rows, [len(labels) for labels in sets])

    def with_class(self, rows: np.ndarray, label: int) -> np.ndarray:
        """Returns those of some pictures that are of a class."""
        if self.label_sets is None:
            return rows[self.labels[rows] == label]
        return rows[np.array([label in labels for labels in self.label_sets])[self.labels[rows]]]

    def strata(self, num_classes: int) -> np.ndarray:
        """Returns by what pictures are dealt out to splits, `[n]`: their class, of several that of fewest pictures.

        Pictures without any are a stratum of their own.
        """
        if self.label_sets is None:
            return self.labels
        counts = np.bincount(self.classes_of(np.arange(len(self)))[0], minlength=num_classes)
        rarest = [
            min(labels, key=lambda label: (counts[label], label), default=num_classes) for labels in self.label_sets
        ]
        return np.array(rarest, np.int64)[self.labels]
