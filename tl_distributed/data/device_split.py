"""A training split whose images lie on every device that trains: a step takes its batch from there."""

import dataclasses
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tl_distributed.data.memory_split import MemorySplit, batch_rows
from tl_distributed.data.splits import HOST
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
        self.num_examples = split.num_examples
        self._images, self._labels = split._images, split._labels
        self._strategy = strategy

    def train_feed(self, *, global_batch_size: int, num_replicas: int, seed: int, first_step: int) -> "_DeviceFeed":
        """Copies the split to the devices.

        Raises:
          UserError: It does not fit.
        """
        del first_step  # the position of a batch is its step number
        with tf.device(HOST):
            words = tf.constant(_as_words(self._images.numpy(), self._labels.numpy()))
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
        batch_size = global_batch_size // num_replicas
        return _DeviceFeed(copies, tuple(self._images.shape), self.num_examples, global_batch_size, batch_size, seed)


@dataclasses.dataclass(frozen=True)
class _DeviceFeed:
    waits_for_input: ClassVar[bool] = False
    copies: Any
    images_shape: tuple[int, ...]
    num_examples: int
    global_batch_size: int
    replica_batch_size: int
    seed: int

    def input_error(self, error: tf.errors.OpError | UnicodeDecodeError) -> None:
        del error  # everything was read before training began

    def host_inputs(self) -> tuple[Any]:
        return (self.copies,)

    def replica_batch(self, step: tf.Tensor, replica: Any, copy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        rows, _ = batch_rows(
            step, replica, num_examples=self.num_examples, num_rows=self.images_shape[0],
            global_batch_size=self.global_batch_size, replica_batch_size=self.replica_batch_size, seed=self.seed,
        )  # fmt: skip
        words = tf.gather(copy, rows)  # where the copy is, since the replica's device is the default one
        labels = tf.bitcast(words[:, 0], tf.int32)
        pixels = tf.reshape(tf.bitcast(words[:, 1:], tf.uint8), [self.replica_batch_size, -1])
        shape = self.images_shape[1:]
        return tf.reshape(pixels[:, : int(np.prod(shape))], [self.replica_batch_size, *shape]), labels


def _as_words(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns a row of 32-bit words an image, its label first: `[n, words] float32`, whose values mean nothing.

    TensorFlow gathers float32 on every device; bytes in some versions on the host alone, and the split would travel.
    """
    pixels = images.reshape(len(images), -1)
    words = -(-pixels.shape[1] // _WORD_BYTES)
    rows = np.zeros([len(images), _WORD_BYTES * (1 + words)], np.uint8)
    rows[:, :_WORD_BYTES] = np.tile(labels, len(images) // len(labels)).astype(np.int32).view(np.uint8).reshape(-1, 4)
    rows[:, _WORD_BYTES : _WORD_BYTES + pixels.shape[1]] = pixels
    return rows.view(np.float32)
