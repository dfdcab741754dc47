"""Large arrays in host memory that TensorFlow reads where they are: a copy would double what a split takes."""

import math

import numpy as np
import tensorflow as tf

_ALIGNMENT_BYTES = 64  # of what TensorFlow's kernels read; memory of another alignment it copies


def aligned_array(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Returns an array of undefined content, which `tensor_of` need not copy."""
    num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(num_bytes + _ALIGNMENT_BYTES, np.uint8)
    first = -memory.ctypes.data % _ALIGNMENT_BYTES
    return memory[first : first + num_bytes].view(dtype).reshape(shape)


def tensor_of(array: np.ndarray) -> tf.Tensor:
    """Returns a tensor of the array's memory, or a copy where that cannot be; do not change the array any more."""
    try:
        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    except (BufferError, TypeError):  # read-only memory; a type that DLPack does not know, such as bfloat16 of numpy
        return tf.constant(array)
