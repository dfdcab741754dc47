"""Rows held once on the host: what is written is what is read, whatever the type."""

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from tl_distributed.benchmarks.memory import peak_bytes, reset_peak, resident_bytes
from tl_distributed.data.host_rows import HostRows


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((1000, 7, 5, 3), np.uint8),
        ((33, 1), np.float32),
        ((40, 9), ml_dtypes.bfloat16),
        ((9, 2), np.float16),
        ((0, 4), np.uint8),
    ],
)
def test_holds_what_is_written(shape, dtype):
    array = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    rows = HostRows(len(array), shape[1:], tf.as_dtype(array.dtype))
    for start in range(0, len(array), 13):
        rows.write(start, array[start : start + 13])
    tensor = rows.tensor()
    del rows
    assert "CPU" in tensor.device and tensor.dtype == tf.as_dtype(array.dtype)
    np.testing.assert_array_equal(tensor, array)


def filled(num_rows: int, block: np.ndarray) -> tf.Tensor:
    rows = HostRows(num_rows, block.shape[1:], tf.as_dtype(block.dtype))
    for start in range(0, num_rows, len(block)):
        rows.write(start, block)
    return rows.tensor()


def test_there_is_no_second_copy():
    block = np.full((1000, 3072), 7, np.uint8)
    filled(1000, block)  # what TensorFlow itself takes the first time
    reset_peak()
    base = resident_bytes()
    if peak_bytes() > base + 2**25:
        pytest.skip("this kernel does not let a process measure its peak anew")
    tensor = filled(60_000, block)
    assert np.all(tf.gather(tensor, np.arange(0, 60_000, 600)) == 7)
    assert peak_bytes() - base < 1.3 * 60_000 * 3072
