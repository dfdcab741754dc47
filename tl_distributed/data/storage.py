"""How pictures are stored, by name, and how large shards are; imports nothing, for `--help`."""

from typing import Literal, get_args

Storage = Literal["pixels", "jpeg", "original"]
STORAGES: tuple[str, ...] = get_args(Storage)
LARGEST_PIXELS = 64  # the largest side in pixels at which raw pixels are the default
SHARD_BYTES = 150_000_000  # about; large enough to read in one go, small enough to move and to share out
MOST_SHARDS = 1024  # that are chosen; a folder of many more is slow to list
