"""A training split whose images lie on every device that trains: a step takes its batch from there."""

import dataclasses
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tl_distributed.data.host import HOST
from tl_distributed.data.memory_split import MemorySplit
from tl_distributed.data.order import BatchOrder
from tl_distributed.data.splits import Batch
from tl_distributed.errors import UserError

_WORD_BYTES = 4


class DeviceSplit(MemorySplit):
    """A split in host memory, and for training a copy of it in the memory of each local replica's device.

    The order is that of memory mode, and so is every batch. Of a step the host does nothing but name the examples:
    8 bytes an image travel.
    """

    mode = "device"

    def __init__(self, split: MemorySplit, strategy: tf.distribute.Strategy):
        """`strategy` names the devices; the copies are made with the first feed."""
        self.num_examples, self._held = split.num_examples, split._held
        self._strategy = strategy

    def train_feed(self, order: BatchOrder, *, first_step: int) -> "_DeviceFeed":
        """Copies the split to the devices.

        Raises:
          UserError: It does not fit.
        """
        del first_step  # the position of a batch is its step number
        with tf.device(HOST):
            words = tf.constant(_as_words(self._held))
        devices = iter(self._strategy.extended.worker_devices)

        def copy(_: tf.distribute.experimental.ValueContext) -> tf.Tensor:
            with tf.device(next(devices)):
                return tf.identity(words)

        try:
            copies = self._strategy.experimental_distribute_values_from_function(copy)
        except tf.errors.ResourceExhaustedError:
            raise UserError(
                f"--input_mode=device: the {words.shape.num_elements() * _WORD_BYTES / 1e6:.0f} MB of the training "
                "split do not fit on a device; try --input_mode=memory"
            ) from None
        shape, has_sizes = tuple(self._held.images.shape), self._held.sizes is not None
        return _DeviceFeed(copies, shape, tuple(self._held.labels.shape[1:]), self.num_examples, has_sizes, order)


@dataclasses.dataclass(frozen=True)
class _DeviceFeed:
    waits_for_input: ClassVar[bool] = False
    copies: Any
    images_shape: tuple[int, ...]
    label_shape: tuple[int, ...]
    num_examples: int
    has_sizes: bool
    order: BatchOrder

    def input_error(self, error: tf.errors.OpError) -> None:
        del error  # everything was read before training began

    def host_inputs(self) -> tuple[Any]:
        return (self.copies,)

    def replica_batch(self, step: tf.Tensor, replica: Any, copy: tf.Tensor) -> Batch:
        rows, _ = self.order.part(step, replica, num_examples=self.num_examples, num_rows=self.images_shape[0])
        words = tf.gather(copy, rows)  # where the copy is, since the replica's device is the default one
        count = int(np.prod(self.label_shape))
        labels = tf.reshape(tf.bitcast(words[:, :count], tf.int32), [self.order.replica_batch_size, *self.label_shape])
        sizes = tf.bitcast(words[:, count : count + 2], tf.int32) if self.has_sizes else None
        pixels = words[:, count + 2 :] if self.has_sizes else words[:, count:]
        pixels = tf.reshape(tf.bitcast(pixels, tf.uint8), [self.order.replica_batch_size, -1])
        shape = self.images_shape[1:]
        images = tf.reshape(pixels[:, : int(np.prod(shape))], [self.order.replica_batch_size, *shape])
        return Batch(images, labels, sizes)


def _as_words(held: Batch) -> np.ndarray:
    """Returns a row of 32-bit words an image, labels and sizes first: `[n, words] float32`, whose values mean nothing.

    TensorFlow gathers float32 on every device; bytes in some versions on the host alone, and the split would travel.
    """
    images, labels = held.images.numpy(), held.labels.numpy()
    pixels = images.reshape(len(images), -1)
    front = np.tile(labels.reshape(len(labels), -1), [len(images) // len(labels), 1])
    if held.sizes is not None:
        front = np.concatenate([front, held.sizes.numpy()], axis=1)
    front = np.ascontiguousarray(front, np.int32).view(np.uint8)
    words = -(-pixels.shape[1] // _WORD_BYTES)
    rows = np.zeros([len(images), front.shape[1] + _WORD_BYTES * words], np.uint8)
    rows[:, : front.shape[1]] = front
    rows[:, front.shape[1] : front.shape[1] + pixels.shape[1]] = pixels
    return rows.view(np.float32)
