"""Rows that become one tensor in host memory, and lie there once all the while."""

import numpy as np
import tensorflow as tf

from tl_distributed.data.host import HOST


class HostRows:
    """`[num_rows, *row_shape]` of one type, filled block by block; on the host also where there are GPUs.

    `tf.constant` holds an array three times while it is made: the array, a copy, and a copy of that at the alignment
    that TensorFlow wants. A variable is written where it lies. TensorFlow then lets it be read by copying alone, until
    it is told (https://www.tensorflow.org/api_docs/python/tf/raw_ops/DisableCopyOnRead) that it stays as it is.
    """

    def __init__(self, num_rows: int, row_shape: tuple[int, ...], dtype: tf.DType):
        with tf.device(HOST):
            self._variable = tf.Variable(lambda: tf.zeros([num_rows, *row_shape], dtype), trainable=False)

    def write(self, start: int, block: np.ndarray) -> None:
        """Puts `block [k, *row_shape]` at rows `start` to `start + k`."""
        with tf.device(HOST):
            places = tf.range(start, start + len(block))
            self._variable.scatter_update(tf.IndexedSlices(tf.convert_to_tensor(block), places))

    def tensor(self) -> tf.Tensor:
        """Returns the rows, which lie where they were written; nothing may be written any more."""
        with tf.device(HOST):
            tf.raw_ops.DisableCopyOnRead(resource=self._variable.handle)
            return self._variable.read_value()
