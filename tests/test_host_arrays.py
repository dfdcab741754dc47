import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from tl_distributed.data.host_arrays import aligned_array, tensor_of


@pytest.mark.parametrize(("shape", "dtype"), [((1000, 7, 5, 3), np.uint8), ((33, 1), np.float32), ((0, 4), np.uint8)])
def test_an_aligned_array_and_its_tensor_are_one(shape, dtype):
    array = aligned_array(shape, dtype)
    assert array.shape == shape and array.dtype == dtype and array.flags.c_contiguous
    array[...] = np.random.default_rng(0).integers(0, 200, shape)
    tensor = tensor_of(array)
    assert "CPU" in tensor.device
    np.testing.assert_array_equal(tensor, array)
    array[:1] += 1  # not allowed, and it shows whose memory it is
    np.testing.assert_array_equal(tensor, array)


def test_the_tensor_outlives_the_array():
    array = aligned_array((1_000_000,), np.float32)
    array[...] = 7
    tensor = tensor_of(array)
    del array
    np.empty(1_000_000, np.float32).fill(1)
    assert float(tf.reduce_sum(tensor)) == 7e6


def test_what_cannot_be_shared_is_copied():
    rounded = np.arange(6).astype(ml_dtypes.bfloat16)
    assert tensor_of(rounded).dtype == tf.bfloat16
    np.testing.assert_array_equal(tensor_of(rounded).numpy(), rounded)
    fixed = np.arange(6, dtype=np.uint8)
    fixed.flags.writeable = False
    np.testing.assert_array_equal(tensor_of(fixed), fixed)
    unaligned = np.arange(65, dtype=np.uint8)[1:]
    np.testing.assert_array_equal(tensor_of(unaligned), unaligned)
