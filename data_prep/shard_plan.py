"""Which records go to which shard: each shard holds the next of its split, in order."""

import numpy as np

from tl_distributed.data.storage import MOST_SHARDS, SHARD_BYTES

_AROUND_BYTES = 100  # of a record besides image and id: the names of its features, and its frame


def plan_shards(order: np.ndarray, lengths: np.ndarray, num_shards: int) -> list[np.ndarray]:
    """Cuts a split into shards of equally many records, but for one.

    Args:
      order: Indices of the split's pictures in the order of its records.
      lengths: `[n]` bytes of all stored images.
      num_shards: 0 for as many as make about `SHARD_BYTES` each, at most `MOST_SHARDS`.

    Returns:
      Of each shard, its part of `order`; empty where there are more shards than records.
    """
    num_bytes = int(lengths[order].sum(dtype=np.int64)) + _AROUND_BYTES * len(order)
    return np.array_split(order, num_shards or min(MOST_SHARDS, max(1, -(-num_bytes // SHARD_BYTES))))
