"""The order of training examples: a pure function of (seed, position), the same on any number of replicas.

Training reads one endless sequence of positions 0, 1, 2, ...: position p is example p mod n of epoch p // n.
Each epoch is a fresh permutation of all n examples. A batch may hold the end of one epoch and the start of
the next, so every batch is full, no example is dropped, and BatchNorm never sees padding.
"""

import math

import tensorflow as tf


def example_indices(positions: tf.Tensor, *, num_examples: int, seed: int) -> tf.Tensor:
    """Maps positions in the endless sequence to examples.

    Args:
      positions: `[batch] int64`, 0 or more.
      num_examples: Examples in the split.
      seed: The run's seed.

    Returns:
      `[batch] int64` in [0, num_examples); within an epoch each example appears exactly once.
    """
    epochs = positions // num_examples
    seeds = tf.stack([tf.fill(tf.shape(epochs), tf.constant(seed, tf.int64)), epochs], axis=1)
    return tf.random.experimental.index_shuffle(
        positions % num_examples, seed=tf.cast(seeds, tf.int32), max_index=tf.constant(num_examples - 1, tf.int64)
    )


def steps_for_epochs(epochs: float, *, num_examples: int, global_batch_size: int) -> int:
    """Returns the number of steps after which `epochs` times the split has been seen (rounded up)."""
    return math.ceil(round(epochs * num_examples, 6) / global_batch_size)
