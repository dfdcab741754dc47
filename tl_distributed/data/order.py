"""The order of training examples: a pure function of (seed, position), the same on any number of replicas.

Training reads one endless sequence of positions 0, 1, 2, ...: position p is of epoch p // n, and each epoch is a fresh
permutation of all n examples. A batch may hold the end of one epoch and the start of the next, so every batch is full,
no example is dropped, and BatchNorm never sees padding. Example i is record i of the split, its shards end to end.

A plain shuffle is uniform over all permutations, as far as tests can tell. With `shuffle_blocks` of W the records are
cut into blocks of `BLOCK_RECORDS`; an epoch shuffles the blocks, and then the records of W blocks at a time among
themselves. So nearby positions are nearby on disk, which network file systems and buckets reward, and every batch is
still of records from W random places.
"""

import dataclasses
import functools
import math

import numpy as np
import tensorflow as tf

from tl_distributed.data.host import HOST
from tl_distributed.data.settings import BLOCK_RECORDS

ORDER_VERSION = 2  # in config.json; 1 had the shards' records in turn, and the same order each 256 epochs

# `tf.random.experimental.index_shuffle` takes one seed for all positions, and a batch may lie in two epochs. Of each
# of a key's three words the kernel takes few bits: with the epoch as one of them, epochs 0 and 256 were one
# (tests/data/test_order.py). So the words are mixed. TensorFlow takes 4 rounds; more cost next to nothing.
_SHUFFLE_ROUNDS = 12
_KEY_BITS, _KEY_SHIFTS = 2**20 - 1, (0, 20, 40)
_KNOWN_EPOCHS = 1024
_GAMMA, _MIX = 0x9E3779B97F4A7C15, ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 0))  # of SplitMix64
_EXAMPLES, _BLOCKS, _SHORT_BLOCK, _FIRST_GROUP = range(4)  # what a permutation is of: the third word of its key


def example_indices(positions: tf.Tensor, *, num_examples: int, seed: int, shuffle_blocks: int = 0) -> tf.Tensor:
    """Maps positions in the endless sequence to examples.

    Args:
      positions: `[batch] int64`, 0 or more.
      num_examples: Examples in the split.
      seed: The run's seed.
      shuffle_blocks: How many blocks are shuffled together; 0, or as many as there are, shuffles all examples.

    Returns:
      `[batch] int64` in [0, num_examples); within an epoch each example appears exactly once.
    """
    epochs, places = positions // num_examples, positions % num_examples
    num_blocks = -(-num_examples // BLOCK_RECORDS)
    if shuffle_blocks == 0 or shuffle_blocks >= num_blocks:
        return _shuffled(places, num_examples, seed, epochs, _EXAMPLES)
    return _shuffled_in_groups(places, epochs, num_examples=num_examples, seed=seed, group_blocks=shuffle_blocks)


def _shuffled_in_groups(
    places: tf.Tensor, epochs: tf.Tensor, *, num_examples: int, seed: int, group_blocks: int
) -> tf.Tensor:
    """Returns the examples at places of epochs, where groups of blocks are shuffled.

    An epoch is a row of slots with a block in each. Where the last block is short, a slot is drawn for it and the full
    blocks are shuffled over the others: so it is known where every slot begins.
    """
    num_full, num_short = divmod(num_examples, BLOCK_RECORDS)
    num_slots = num_full + bool(num_short)
    short_slot = tf.fill(tf.shape(epochs), tf.constant(num_slots, tf.int64))  # beyond all where no block is short
    if num_short:
        short_slot = _shuffled(tf.zeros_like(epochs), num_slots, seed, epochs, _SHORT_BLOCK)
    missing = BLOCK_RECORDS - num_short

    def first_place(slots: tf.Tensor) -> tf.Tensor:
        return slots * BLOCK_RECORDS - missing * tf.cast(slots > short_slot, tf.int64)

    def slot_of(places: tf.Tensor) -> tf.Tensor:
        is_later = places >= short_slot * BLOCK_RECORDS + num_short
        return tf.where(is_later, places + missing, places) // BLOCK_RECORDS

    groups = slot_of(places) // group_blocks
    first = first_place(groups * group_blocks)
    end = first_place(tf.minimum((groups + 1) * group_blocks, num_slots))
    places = first + _shuffled(places - first, end - first, seed, epochs, groups + _FIRST_GROUP)
    slots = slot_of(places)
    full = tf.minimum(slots - tf.cast(slots > short_slot, tf.int64), num_full - 1)  # of the short slot any will do
    last = tf.constant(num_full, tf.int64)
    blocks = tf.where(slots == short_slot, last, _shuffled(full, num_full, seed, epochs, _BLOCKS))
    return blocks * BLOCK_RECORDS + places - first_place(slots)


def _shuffled(
    index: tf.Tensor, count: int | tf.Tensor, seed: int, epochs: tf.Tensor, what: int | tf.Tensor
) -> tf.Tensor:
    """Returns where each index in [0, count) goes in the permutation that the seed, its epoch and `what` name."""
    # The epochs-th number of the SplitMix64 stream that seed and `what` name; what is known is mixed beforehand.
    start = _mixed_number(seed)
    if isinstance(what, int):
        stream = _mixed_number(start + what)
        known = _known_keys(stream)
        key = tf.cond(
            tf.reduce_max(epochs) < len(known), lambda: tf.gather(known, epochs), lambda: _keys(epochs, _uint64(stream))
        )
    else:
        key = _keys(epochs, _splitmix(_uint64(start) + tf.cast(what, tf.uint64)))
    return tf.raw_ops.RandomIndexShuffle(
        index=index,
        seed=key,
        max_index=tf.constant(count - 1, tf.int64) if isinstance(count, int) else count - 1,
        rounds=_SHUFFLE_ROUNDS,
    )


def _keys(epochs: tf.Tensor, stream: tf.Tensor) -> tf.Tensor:
    """Returns `[n, 3] int32`, the words of the key of each epoch in a stream."""
    mixed = _splitmix(stream + tf.cast(epochs, tf.uint64) * _uint64(_GAMMA))
    words = tf.bitwise.right_shift(mixed[:, tf.newaxis], tf.constant([_KEY_SHIFTS], tf.uint64))
    return tf.cast(tf.bitwise.bitwise_and(words, _uint64(_KEY_BITS)), tf.int32)


@functools.cache
def _known_keys(stream: int) -> np.ndarray:
    """Returns the keys of the first epochs `[n, 3] int32`: one gather in a step in place of a dozen operations."""
    mixed = [_mixed_number((stream + epoch * _GAMMA) % 2**64) for epoch in range(_KNOWN_EPOCHS)]
    return np.array([[word >> shift & _KEY_BITS for shift in _KEY_SHIFTS] for word in mixed], np.int32)


def _uint64(number: int) -> tf.Tensor:
    return tf.constant(number, tf.uint64)


def _splitmix(words: tf.Tensor) -> tf.Tensor:
    """Returns `[n] uint64` whose every bit depends on every bit of `words`, as SplitMix64 does.

    Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    words += _uint64(_GAMMA)
    for shift, factor in _MIX:
        words = tf.bitwise.bitwise_xor(words, tf.bitwise.right_shift(words, _uint64(shift)))
        if factor:
            words *= _uint64(factor)
    return words


def _mixed_number(word: int) -> int:
    """As `_splitmix`, of one number."""
    word = (word + _GAMMA) % 2**64
    for shift, factor in _MIX:
        word ^= word >> shift
        word = word * (factor or 1) % 2**64
    return word


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchOrder:
    """Which examples the training batches hold, and each replica's part of them.

    Attributes:
      global_batch_size: Examples in a batch, a multiple of the replicas.
      num_replicas: Of all workers; each takes its part of a batch, in their order.
      seed: The run's seed.
      shuffle_blocks: As of `example_indices`.
      local_replicas: Numbers of the replicas of this process, one after the other; `None` for all.
    """

    global_batch_size: int
    num_replicas: int
    seed: int
    shuffle_blocks: int = 0
    local_replicas: range | None = None

    @property
    def replica_batch_size(self) -> int:
        return self.global_batch_size // self.num_replicas

    @property
    def own_replicas(self) -> range:
        """The replicas of this process."""
        return range(self.num_replicas) if self.local_replicas is None else self.local_replicas

    def part(
        self, step: tf.Tensor, first_replica: tf.Tensor | int, *, replicas: int = 1, num_examples: int, num_rows: int
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns which rows, and which examples, some replicas' parts of a batch hold: `[replicas * size] int64` each.

        A split holds `num_rows / num_examples` versions of its examples, one version of all after the other: epoch e
        shows version e modulo their number.
        """
        with tf.device(HOST):
            first = tf.cast(step, tf.int64) * self.global_batch_size
            first += tf.cast(first_replica, tf.int64) * self.replica_batch_size
            positions = first + tf.range(replicas * self.replica_batch_size, dtype=tf.int64)
            indices = example_indices(
                positions, num_examples=num_examples, seed=self.seed, shuffle_blocks=self.shuffle_blocks
            )
            if num_rows == num_examples:
                return indices, indices
            version = positions // num_examples % (num_rows // num_examples)
            return version * num_examples + indices, indices


def steps_for_epochs(epochs: float, *, num_examples: int, global_batch_size: int) -> int:
    """Returns the number of steps after which `epochs` times the split has been seen (rounded up)."""
    return math.ceil(round(epochs * num_examples, 6) / global_batch_size)
