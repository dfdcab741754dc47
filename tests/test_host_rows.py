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
def test_holds_the_rows_of_an_array(shape, dtype):
    array = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    rows = HostRows.of(array)
    assert len(rows) == len(array) and rows.row_shape == shape[1:]
    indices = np.random.default_rng(1).permutation(len(array))
    found = rows.gather(indices)
    assert "CPU" in found.device and found.dtype == tf.as_dtype(array.dtype)
    np.testing.assert_array_equal(found, array[indices])


def test_an_array_of_several_blocks():
    array = np.random.default_rng(0).integers(0, 255, (50, 2**20), np.uint8)
    np.testing.assert_array_equal(HostRows.of(array).gather(np.arange(50)), array)


def test_filling_and_gathering_take_no_second_copy():
    block = np.full((1000, 3072), 7, np.uint8)
    HostRows.of(block).gather([0])  # what TensorFlow itself takes the first time
    reset_peak()
    base = resident_bytes()
    if peak_bytes() > base + 2**25:
        pytest.skip("this kernel does not let a process measure its peak anew")
    rows = HostRows(60_000, (3072,), tf.uint8)
    for start in range(0, 60_000, 1000):
        rows.write(start, block)
    assert np.all(rows.gather(np.arange(0, 60_000, 600)) == 7)
    assert peak_bytes() - base < 1.3 * 60_000 * 3072
