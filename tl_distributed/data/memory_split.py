"""A split held in host memory."""

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tl_distributed.data.host import HOST
from tl_distributed.data.order import BatchOrder
from tl_distributed.data.splits import Batch, EvalBatch, TrainFeed, eval_rows


class MemorySplit:
    """A split held once in host memory as uint8; a batch is one gather by a stateless shuffle of indices."""

    mode = "memory"

    def __init__(self, images: np.ndarray | tf.Tensor, labels: np.ndarray, sizes: np.ndarray | None = None):
        """Takes what the split holds.

        Args:
          images: `[versions * n, h, w, 3] uint8`, one version of all after the other.
          labels: `[n] int32`, or `[n, most_labels]`.
          sizes: `[n, 2] int32` of canvases, of which there is one version.
        """
        self.num_examples = len(labels)
        with tf.device(HOST):  # on the host also where there are GPUs: only batches travel
            self._held = Batch(
                tf.convert_to_tensor(images), tf.constant(labels, tf.int32),
                None if sizes is None else tf.constant(sizes, tf.int32),
            )  # fmt: skip

    def train_feed(self, order: BatchOrder, *, first_step: int) -> TrainFeed:
        del first_step  # the position of a batch is its step number
        return _MemoryFeed(self._held, order)

    def eval_batches(self, batch_size: int, *, rows: slice | None = None) -> Iterator[EvalBatch]:
        for examples, num_valid in eval_rows(self.num_examples, batch_size, rows):
            images, labels, sizes = self.examples(examples)
            yield EvalBatch(images, labels, num_valid, sizes)

    def examples(self, indices: np.ndarray) -> Batch:
        """Returns the examples at `indices [k]` as arrays."""
        with tf.device(HOST):
            return Batch(*(None if part is None else tf.gather(part, indices).numpy() for part in self._held))


@dataclasses.dataclass(frozen=True)
class _MemoryFeed:
    waits_for_input: ClassVar[bool] = False
    held: Batch
    order: BatchOrder

    def input_error(self, error: tf.errors.OpError) -> None:
        del error  # everything was read before training began

    def host_inputs(self) -> tuple[()]:
        return ()

    def replica_batch(self, step: tf.Tensor, replica: Any) -> Batch:
        images, labels, sizes = self.held
        rows, indices = self.order.part(step, replica, num_examples=labels.shape[0], num_rows=images.shape[0])
        with tf.device(HOST):
            sizes = None if sizes is None else tf.gather(sizes, indices)
            return Batch(tf.gather(images, rows), tf.gather(labels, indices), sizes)
