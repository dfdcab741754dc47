"""Randomness without state: every number is a function of (run seed, step, image, what it is for).

Threefry-2x32-20 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011), the counter-based
generator that passes BigCrush, written in plain uint32 additions, shifts and exclusive-ors. Those are exact
on every device, so a resumed run, another number of replicas and XLA on or off all draw the same numbers;
TensorFlow's own stateless generators differ between devices and compilers.
"""

import tensorflow as tf

_KEY_PARITY = 0x1BD11BDA
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_MANTISSA_BITS = 24  # a float32 in [0, 1) has this many bits that a shift alone makes uniform


Words = tuple[tf.Tensor, tf.Tensor]


def threefry_2x32(key: Words, counter: Words) -> Words:
    """Returns the two uint32 words that Threefry-2x32-20 makes of a key and a counter.

    All four words are uint32 tensors of shapes that broadcast together. For one key, the map from counters to
    results is a bijection.
    """
    keys = (*key, _xor(_xor(key[0], key[1]), _word(_KEY_PARITY)))
    first, second = counter[0] + keys[0], counter[1] + keys[1]
    for group in range(5):
        for distance in _ROTATIONS[group % 2]:
            first += second
            second = _xor(_rotate_left(second, distance), first)
        first += keys[(group + 1) % 3]
        second += keys[(group + 2) % 3] + _word(group + 1)
    return first, second


def per_image_seeds(run_seed: tf.Tensor, step: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
    """Returns the seed of each image of a batch.

    Two (step, position) pairs of one run never share a seed (up to 2**32 steps).

    Args:
      run_seed: int32 scalar.
      step: int32 or int64 scalar, the run's step number.
      positions: `[batch] int32`, index of each image in the *global* batch, so that the seeds do not depend
        on how replicas share it.

    Returns:
      `[batch, 2] uint32`.
    """
    step = tf.cast(step, tf.int64)
    step_low = tf.cast(tf.bitwise.bitwise_and(step, tf.constant(0xFFFFFFFF, tf.int64)), tf.uint32)
    step_high = tf.cast(tf.bitwise.right_shift(step, tf.constant(32, tf.int64)), tf.uint32)
    run_seed = tf.bitcast(tf.cast(run_seed, tf.int32), tf.uint32)
    positions = tf.bitcast(tf.cast(positions, tf.int32), tf.uint32)
    return tf.stack(threefry_2x32((run_seed, step_high), (step_low, positions)), axis=-1)


def uniforms(seeds: tf.Tensor, count: int, *, first: int = 0) -> tf.Tensor:
    """Returns uniform numbers of each image; a column is for the draw of its number, and independent of others.

    One evaluation for all draws, because without XLA the cost is in the number of operations.

    Args:
      seeds: `[batch, 2] uint32`, see `per_image_seeds`.
      count: Of draws.
      first: Number of the draw that the first column is for.

    Returns:
      `[batch, count] float32` in [0, 1), multiples of 2**-24, the same whatever the count.
    """
    counters = tf.bitcast(tf.range(first, first + count, dtype=tf.int32)[tf.newaxis], tf.uint32)
    words, _ = threefry_2x32((seeds[:, :1], seeds[:, 1:]), (counters, _word(0)))
    return _to_unit_interval(words)


def _to_unit_interval(words: tf.Tensor) -> tf.Tensor:
    bits = tf.bitwise.right_shift(words, _word(32 - _MANTISSA_BITS))
    numbers = tf.cast(tf.cast(bits, tf.int32), tf.float32) * 2.0**-_MANTISSA_BITS
    # Changes no value. XLA on CPUs takes a remainder for too costly to compute twice; without one it computes the
    # generator's hundred cheap operations again for each pixel that depends on them (CutMix: 30 times slower).
    return tf.math.floormod(numbers, 1.0)


def _word(value: int) -> tf.Tensor:
    return tf.constant(value, tf.uint32)


def _xor(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    return tf.bitwise.bitwise_xor(first, second)


def _rotate_left(words: tf.Tensor, distance: int) -> tf.Tensor:
    left, right = tf.bitwise.left_shift(words, _word(distance)), tf.bitwise.right_shift(words, _word(32 - distance))
    return tf.bitwise.bitwise_or(left, right)
