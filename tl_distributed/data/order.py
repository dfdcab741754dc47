"""The order of training examples: a pure function of (seed, position), the same on any number of replicas.

Training reads one endless sequence of positions 0, 1, 2, ...: position p is example p mod n of epoch p // n.
Each epoch is a fresh permutation of all n examples. A batch may hold the end of one epoch and the start of
the next, so every batch is full, no example is dropped, and BatchNorm never sees padding.
"""

import math

import tensorflow as tf

# `tf.random.experimental.index_shuffle` takes one seed for all positions (a batch may lie in two epochs) and is
# fixed at 4 rounds, after which the key still shows: with the key below, over 200 epochs of 1,000 examples, the
# class counts of its batches vary 5 times as much as those of a fair shuffle, and epochs are correlated.
# From 8 rounds on neither can be told from a fair shuffle (tests/test_order.py).
_SHUFFLE_ROUNDS = 12


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
    seeds = tf.stack([tf.fill(tf.shape(epochs), tf.constant(seed, tf.int64)), epochs, tf.zeros_like(epochs)], axis=1)
    return tf.raw_ops.RandomIndexShuffle(
        index=positions % num_examples,
        seed=tf.cast(seeds, tf.int32),
        max_index=tf.constant(num_examples - 1, tf.int64),
        rounds=_SHUFFLE_ROUNDS,
    )


def steps_for_epochs(epochs: float, *, num_examples: int, global_batch_size: int) -> int:
    """Returns the number of steps after which `epochs` times the split has been seen (rounded up)."""
    return math.ceil(round(epochs * num_examples, 6) / global_batch_size)
