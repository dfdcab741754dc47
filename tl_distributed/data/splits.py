"""What the engine asks of a split, whether it lies in memory, on the devices or on a disk.

Training: the uint8 images of one replica's slice of global batch number `step`. Evaluation: every example exactly
once, in fixed-size batches with the count of real rows. A split may hold rows of features in place of images
(`feature_bank`), and several versions of each example, of which epoch e shows version e modulo their number.
No `tf.distribute` dataset is used: its order would depend on the number of replicas, and its position is not a step's
number. Every kind of split gives the same batches, bit for bit.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from tl_distributed.data.order import BatchOrder
from tl_distributed.errors import UserError


class Batch(NamedTuple):
    """Examples as tensors, or as arrays.

    Attributes:
      images: `[batch, height, width, 3] uint8`: pictures of one size, or canvases; or rows of features.
      labels: `[batch] int32`; of pictures with any number of labels `[batch, most_labels]`, -1 where one has fewer.
      sizes: `[batch, 2] int32`, height and width of the picture at the top left of each canvas; `None` where an image
        is the picture.
    """

    images: Any
    labels: Any
    sizes: Any = None


@dataclasses.dataclass(frozen=True)
class EvalBatch:
    """As `Batch`, in arrays: some rows of a batch, or all. Of the whole batch the first `num_valid` rows are real."""

    images: np.ndarray
    labels: np.ndarray
    num_valid: int
    sizes: np.ndarray | None = None

    def valid(self) -> Batch:
        """Returns the real rows of a whole batch."""
        parts = (self.images, self.labels, self.sizes)
        return Batch(*(None if part is None else part[: self.num_valid] for part in parts))


class TrainFeed(Protocol):
    """Training batches, read inside the engine's `tf.function` loop.

    Attributes:
      waits_for_input: Whether `host_inputs` may have to wait, for files and for what is made of them.
    """

    waits_for_input: bool

    def input_error(self, error: tf.errors.OpError) -> UserError | None:
        """Returns what to tell the user where an error of the loop came from reading, else `None`."""

    def host_inputs(self) -> tuple[Any, ...]:
        """Called once a step, outside the replicas: what every replica's `replica_batch` is given."""

    def replica_batch(self, step: tf.Tensor, replica: Any, *host_inputs: Any) -> Batch:
        """Called in each replica, by its number among all: its part of the batch."""


class Split(Protocol):
    """One split of a data set."""

    num_examples: int
    mode: str

    def train_feed(self, order: BatchOrder, *, first_step: int) -> TrainFeed: ...

    def eval_batches(self, batch_size: int, *, rows: slice | None = None) -> Iterator[EvalBatch]:
        """Yields batches of `batch_size`, the last filled up by its last example; `rows` of each, or all."""


def eval_rows(num_examples: int, batch_size: int, rows: slice | None) -> Iterator[tuple[np.ndarray, int]]:
    """Yields for each batch which examples its `rows` hold, and how many rows of the whole are real.

    The last example is repeated up to `batch_size`, so that one compiled program serves every batch.
    """
    own = np.arange(batch_size)[rows or slice(None)]
    for start in range(0, num_examples, batch_size):
        yield np.minimum(start + own, num_examples - 1), min(batch_size, num_examples - start)
