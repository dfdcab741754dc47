"""A split held in host memory."""

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tl_distributed.data.order import example_indices
from tl_distributed.data.splits import HOST, EvalBatch, TrainFeed, padded_batch


class MemorySplit:
    """A split held once in host memory as uint8; a batch is one gather by a stateless shuffle of indices."""

    mode = "memory"

    def __init__(self, images: np.ndarray | tf.Tensor, labels: np.ndarray):
        """Takes `images [versions * n, h, w, 3] uint8`, one version of all after the other, and `labels [n] int32`."""
        self.num_examples = len(labels)
        with tf.device(HOST):  # on the host also where there are GPUs: only batches travel
            self._images, self._labels = tf.convert_to_tensor(images), tf.constant(labels, tf.int32)

    def train_feed(self, *, global_batch_size: int, num_replicas: int, seed: int, first_step: int) -> TrainFeed:
        del first_step  # the position of a batch is its step number
        return _MemoryFeed(self._images, self._labels, global_batch_size, global_batch_size // num_replicas, seed)

    def eval_batches(self, batch_size: int) -> Iterator[EvalBatch]:
        for start in range(0, self.num_examples, batch_size):
            end = min(start + batch_size, self.num_examples)
            with tf.device(HOST):
                images, labels = self._images[start:end].numpy(), self._labels[start:end].numpy()
            yield padded_batch(images, labels, batch_size)

    def examples(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the images `[k, h, w, 3] uint8` and labels `[k] int32` at `indices [k]`."""
        with tf.device(HOST):
            return tf.gather(self._images, indices).numpy(), tf.gather(self._labels, indices).numpy()


@dataclasses.dataclass(frozen=True)
class _MemoryFeed:
    waits_for_input: ClassVar[bool] = False
    images: tf.Tensor
    labels: tf.Tensor
    global_batch_size: int
    replica_batch_size: int
    seed: int

    def input_error(self, error: tf.errors.OpError | UnicodeDecodeError) -> None:
        del error  # everything was read before training began

    def host_inputs(self) -> tuple[()]:
        return ()

    def replica_batch(self, step: tf.Tensor, replica: Any) -> tuple[tf.Tensor, tf.Tensor]:
        rows, indices = batch_rows(
            step, replica, num_examples=self.labels.shape[0], num_rows=self.images.shape[0],
            global_batch_size=self.global_batch_size, replica_batch_size=self.replica_batch_size, seed=self.seed,
        )  # fmt: skip
        with tf.device(HOST):
            return tf.gather(self.images, rows), tf.gather(self.labels, indices)


def batch_rows(
    step: tf.Tensor,
    replica: Any,
    *,
    num_examples: int,
    num_rows: int,
    global_batch_size: int,
    replica_batch_size: int,
    seed: int,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns which rows, and which examples, a replica's part of a global batch holds: `[per_replica] int64` each.

    A split holds `num_rows / num_examples` versions of its examples, one version of all after the other.
    """
    with tf.device(HOST):
        first = tf.cast(step, tf.int64) * global_batch_size + tf.cast(replica, tf.int64) * replica_batch_size
        positions = first + tf.range(replica_batch_size, dtype=tf.int64)
        indices = example_indices(positions, num_examples=num_examples, seed=seed)
        version = positions // num_examples % (num_rows // num_examples)
        return version * num_examples + indices, indices
