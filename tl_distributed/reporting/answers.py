"""What a run answered on the test images, as `predictions_test.npz` holds it."""

import dataclasses
import io

import numpy as np

from tl_distributed.errors import printable
from tl_distributed.reporting.label_errors import Suspects, find_suspects

PREDICTIONS_FILE = "predictions_test.npz"


@dataclasses.dataclass(frozen=True)
class Answers:
    """A run's answers; no array has a side for the classes.

    Attributes:
      labels: `[n] int32`.
      predictions: `[n] int64`.
      confidences: `[n] float32`, the probability of each prediction.
      suspects: Of which the label is likely wrong.
      ids: Names of the images in their source; nothing where the data set has none.
    """

    labels: np.ndarray
    predictions: np.ndarray
    confidences: np.ndarray
    suspects: Suspects
    ids: np.ndarray | None = None

    @property
    def right(self) -> np.ndarray:
        """`[n] bool`; what was answered with NaN is wrong."""
        return (self.predictions == self.labels) & ~np.isnan(self.confidences)

    def id_of(self, place: int) -> str:
        """Returns the name of an image; its place in the test split where it has none."""
        return f"test {place}" if self.ids is None else str(self.ids[place])

    def in_order_of(self, other: "Answers") -> "Answers":
        """Returns the answers in the order in which another run gave its own on the same test images.

        Images are the same where their ids are; where either run has none, every image has to be in the place that it
        has in the other.

        Raises:
          ValueError: Other images, or another label of one; says which.
        """
        if self.ids is None or other.ids is None or np.array_equal(self.ids, other.ids):
            self._require_labels(other)
            return self
        mine, theirs = np.argsort(self.ids, kind="stable"), np.argsort(other.ids, kind="stable")
        if not np.array_equal(self.ids[mine], other.ids[theirs]):
            raise ValueError(_differing_ids(self.ids, other.ids))
        order = np.empty_like(mine)
        order[theirs] = mine
        found = dataclasses.replace(
            self, labels=self.labels[order], predictions=self.predictions[order],
            confidences=self.confidences[order], ids=self.ids[order], suspects=self.suspects.reordered(order),
        )  # fmt: skip
        found._require_labels(other)
        return found

    def _require_labels(self, other: "Answers") -> None:
        if len(self.labels) != len(other.labels):
            raise ValueError(f"{len(other.labels):,} images, and {len(self.labels):,}")
        differing = np.flatnonzero(self.labels != other.labels)
        if len(differing):
            place = differing[0]
            raise ValueError(
                f"{len(differing):,} images have another label, the first {printable(self.id_of(place))}: "
                f"{other.labels[place]}, and {self.labels[place]}"
            )


def _differing_ids(ids: np.ndarray, others: np.ndarray) -> str:
    lone = [np.setdiff1d(others, ids), np.setdiff1d(ids, others)]
    parts = [
        f"{len(names):,} are in the {which} alone, such as {printable(str(names[0]))}"
        for which, names in zip(("first", "second"), lone, strict=True)
        if len(names)
    ]
    return f"other images: {'; '.join(parts)}" if parts else "images that are there more than once"


def read_answers(path: str) -> Answers:
    """Reads a `predictions_test.npz`, on any file system."""
    import tensorflow as tf

    with tf.io.gfile.GFile(path, "rb") as file:
        saved = np.load(io.BytesIO(file.read()), allow_pickle=False)
        labels, probabilities = saved["labels"], saved["probabilities"]
        ids = saved.get("ids")
    return Answers(labels, probabilities.argmax(1), probabilities.max(1), find_suspects(labels, probabilities), ids)
