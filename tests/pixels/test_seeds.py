"""Counter-based random numbers: known answers, statistics, and independence of device layout and compiler."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tl_distributed.pixels import seeds as seeds_lib


def words(*values):
    return tuple(tf.constant(value, tf.uint32) for value in values)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_known_answers_of_random123(key, counter, expected, jit_compile):
    function = tf.function(seeds_lib.threefry_2x32, jit_compile=jit_compile)
    assert tuple(int(word) for word in function(words(*key), words(*counter))) == expected


def test_seeds_are_distinct_over_steps_and_positions():
    positions = tf.range(512)
    found = [seeds_lib.per_image_seeds(7, step, positions).numpy() for step in range(40)]
    packed = np.concatenate(found).astype(np.uint64)
    assert len(np.unique(packed[:, 0] << np.uint64(32) | packed[:, 1])) == 40 * 512


def test_seeds_depend_on_run_seed_and_on_all_bits_of_the_step():
    positions = tf.range(4)
    base = seeds_lib.per_image_seeds(1, tf.constant(3, tf.int64), positions).numpy()
    np.testing.assert_array_equal(base, seeds_lib.per_image_seeds(1, tf.constant(3, tf.int32), positions))
    for other in (
        seeds_lib.per_image_seeds(2, 3, positions),
        seeds_lib.per_image_seeds(-1, 3, positions),
        seeds_lib.per_image_seeds(1, tf.constant(3 + 2**32, tf.int64), positions),
        seeds_lib.per_image_seeds(1, tf.constant(3 + 2**31, tf.int64), positions),
    ):
        assert not np.any(np.all(base == other.numpy(), axis=1))


def test_seeds_do_not_depend_on_the_replica_layout():
    whole = seeds_lib.per_image_seeds(5, 9, tf.range(8)).numpy()
    halves = [seeds_lib.per_image_seeds(5, 9, tf.range(start, start + 4)).numpy() for start in (0, 4)]
    np.testing.assert_array_equal(whole, np.concatenate(halves))


def test_same_numbers_with_and_without_xla():
    def draw(run_seed, step, positions):
        found = seeds_lib.per_image_seeds(run_seed, step, positions)
        return found, seeds_lib.uniforms(found, 30)

    arguments = (tf.constant(-11), tf.constant(2**33 + 5, tf.int64), tf.range(33))
    plain = tf.function(draw)(*arguments)
    compiled = tf.function(draw, jit_compile=True)(*arguments)
    for first, second in zip(plain, compiled, strict=True):
        np.testing.assert_array_equal(first, second)


def test_uniforms_are_the_upper_bits_of_the_generator_whatever_else_is_drawn():
    found = seeds_lib.per_image_seeds(0, 0, tf.range(16))
    table = seeds_lib.uniforms(found, 27).numpy()
    assert table.dtype == np.float32 and table.shape == (16, 27)
    for draw, column in enumerate(table.T):
        bits, _ = seeds_lib.threefry_2x32((found[:, 0], found[:, 1]), words(draw, 0))
        np.testing.assert_array_equal(column, (bits.numpy() >> 8) / 2**24)
    np.testing.assert_array_equal(seeds_lib.uniforms(found, 3), table[:, :3])


def test_numbers_are_uniform_and_draws_independent():
    table = seeds_lib.uniforms(seeds_lib.per_image_seeds(123, 4, tf.range(20_000)), 27).numpy()
    assert table.min() >= 0.0 and table.max() < 1.0
    p_values = [stats.kstest(column, "uniform").pvalue for column in table.T]
    assert min(p_values) > 1e-4, p_values  # 27 columns: chance alone gives less in 3 of 1,000 choices of the seed
    correlation = np.corrcoef(table.T) - np.eye(table.shape[1])
    assert np.abs(correlation).max() < 5 / np.sqrt(len(table))
    neighbours = [np.corrcoef(column[:-1], column[1:])[0, 1] for column in table.T]
    assert np.abs(neighbours).max() < 5 / np.sqrt(len(table))


def test_every_output_bit_is_fair_and_avalanches():
    counters = tf.bitcast(tf.range(8192), tf.uint32)
    base = tf.stack(seeds_lib.threefry_2x32(words(1, 2), (counters, words(0)[0])), -1).numpy()
    flipped = tf.stack(seeds_lib.threefry_2x32(words(1, 3), (counters, words(0)[0])), -1).numpy()
    bits = np.unpackbits(base.view(np.uint8), axis=1)
    changed = np.unpackbits((base ^ flipped).view(np.uint8), axis=1)
    for sample in (bits, changed):
        assert np.abs(sample.mean(axis=0) - 0.5).max() < 5 * 0.5 / np.sqrt(len(base))
