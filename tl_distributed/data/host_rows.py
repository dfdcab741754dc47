"""Rows in host memory that are filled block by block and gathered from, and never copied as a whole."""

import numpy as np
import tensorflow as tf

_BLOCK_BYTES = 2**24


class HostRows:
    """`[num_rows, *row_shape]` of one type, in the memory of the host also where there are GPUs.

    A variable, since that is filled in place and gathered from without being read. `tf.constant` holds an array three
    times while it is made: the array, a copy, and a copy of that at the alignment that TensorFlow wants.
    """

    def __init__(self, num_rows: int, row_shape: tuple[int, ...], dtype: tf.DType):
        with tf.device("/cpu:0"):
            self._variable = tf.Variable(lambda: tf.zeros([num_rows, *row_shape], dtype), trainable=False)

    @classmethod
    def of(cls, array: np.ndarray) -> "HostRows":
        """Returns a copy of an array of rows."""
        rows = cls(len(array), array.shape[1:], tf.as_dtype(array.dtype))
        block = max(1, _BLOCK_BYTES // max(1, array[:1].nbytes))
        for start in range(0, len(array), block):
            rows.write(start, array[start : start + block])
        return rows

    def __len__(self) -> int:
        return self._variable.shape[0]

    @property
    def row_shape(self) -> tuple[int, ...]:
        return tuple(self._variable.shape[1:])

    def write(self, start: int, block: np.ndarray) -> None:
        """Puts `block [k, *row_shape]` at rows `start` to `start + k`."""
        with tf.device("/cpu:0"):
            places = tf.range(start, start + len(block))
            self._variable.scatter_update(tf.IndexedSlices(tf.convert_to_tensor(block), places))

    def gather(self, indices: tf.Tensor | np.ndarray) -> tf.Tensor:
        """Returns `[k, *row_shape]`, the rows at `indices [k] int`."""
        with tf.device("/cpu:0"):
            return tf.gather(self._variable, indices)
