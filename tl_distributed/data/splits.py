"""What the engine asks of a split, whether it lies in memory or is streamed from shards.

Training: the uint8 images of one replica's slice of global batch number `step`. Evaluation: every example exactly
once, in fixed-size batches with the count of real rows. A split may hold rows of features in place of images
(`feature_bank`), and several versions of each example, of which epoch e shows version e modulo their number.
No `tf.distribute` dataset is used: its order would depend on the number of replicas, and its position is not a step's
number.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from tl_distributed.errors import UserError

HOST = "/cpu:0"  # where the order, whole batches and counters are: only a replica's own part goes to its device


@dataclasses.dataclass(frozen=True)
class EvalBatch:
    """`images [batch, h, w, 3] uint8` and `labels [batch] int32`, of which the first `num_valid` rows are real.

    From a bank the images are rows of features.
    """

    images: np.ndarray
    labels: np.ndarray
    num_valid: int


class TrainFeed(Protocol):
    """Training batches, read inside the engine's `tf.function` loop.

    Attributes:
      waits_for_input: Whether `host_inputs` may have to wait, for files and for what is made of them.
    """

    waits_for_input: bool

    def input_error(self, error: tf.errors.OpError | UnicodeDecodeError) -> UserError | None:
        """Returns what to tell the user where an error of the loop came from reading, else `None`."""

    def host_inputs(self) -> tuple[Any, ...]:
        """Called once a step, outside the replicas: what every replica's `replica_batch` is given."""

    def replica_batch(self, step: tf.Tensor, replica: Any, *host_inputs: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Called in each replica: its `[per_replica, h, w, 3] uint8` images and `[per_replica] int32` labels."""


class Split(Protocol):
    """One split of a data set."""

    num_examples: int
    mode: str

    def train_feed(self, *, global_batch_size: int, num_replicas: int, seed: int, first_step: int) -> TrainFeed: ...

    def eval_batches(self, batch_size: int) -> Iterator[EvalBatch]: ...


def padded_batch(images: np.ndarray, labels: np.ndarray, batch_size: int) -> EvalBatch:
    """Repeats the last row up to `batch_size`, so that one compiled program serves every batch."""
    missing = batch_size - len(images)
    if missing:
        images = np.concatenate([images, np.repeat(images[-1:], missing, axis=0)])
        labels = np.concatenate([labels, np.repeat(labels[-1:], missing, axis=0)])
    return EvalBatch(images, labels, batch_size - missing)
