"""Second pass of a build: shards of records, each written by one of several threads.

The bytes of a shard depend on its records alone, so the number of threads changes nothing but the time.
"""

import concurrent.futures
import os
from collections.abc import Iterator

import numpy as np

from data_prep.spill import PixelFile
from tl_distributed.data.records import Shard, bytes_around_pixels, shard_name
from tl_distributed.files import hash_file
from tl_distributed.progress import Progress

BLOCK_BYTES = 16 * 2**20  # pixels that one thread holds at a time


class RecordEncoder:
    """Encodes records of one image shape twenty times faster than building a message for each, byte for byte the same.

    All records of a label differ in their pixels only. The bytes around the pixels are taken once, from
    a record that `encode_record` made.
    """

    def __init__(self, image_bytes: int):
        self._image_bytes = image_bytes

    def encode(self, pixels: bytes, label: int) -> bytes:
        """Returns what `encode_record(pixels, label)` returns."""
        before, after = bytes_around_pixels(self._image_bytes, label)
        return b"".join((before, pixels, after))


def write_shards(
    folder: str,
    orders: dict[str, np.ndarray],
    labels: np.ndarray,
    pixel_file: PixelFile,
    *,
    image_bytes: int,
    num_shards: int,
    num_writers: int,
) -> dict[str, tuple[Shard, ...]]:
    """Writes the records of each split round-robin into its shards, several shards at a time, with progress.

    Record i of a split goes to shard `i % num_shards`, so the sizes differ by one at most.

    Args:
      folder: Where to write; local.
      orders: Of each split, the indices into `labels` and `pixel_file` in the order of writing.
      labels: `[n]` class indices.
      pixel_file: The pixels.
      image_bytes: Length of an image.
      num_shards: Files a split.
      num_writers: Threads.

    Raises:
      OSError, tf.errors.OpError: The disk is full, or the like. Nothing is left running.
    """
    jobs = [(split, index) for split in orders for index in range(num_shards)]
    encoder = RecordEncoder(image_bytes)
    total = sum(len(order) for order in orders.values())
    stop = False

    def write(job: tuple[str, int]) -> Shard:
        split, index = job
        members = orders[split][index::num_shards]
        path = os.path.join(folder, shard_name(split, index, num_shards))
        records = _records(members, labels, pixel_file, encoder, max(1, BLOCK_BYTES // image_bytes))
        return _write_shard(path, records, len(members), lambda: stop)

    shards: dict[tuple[str, int], Shard] = {}
    with (
        concurrent.futures.ThreadPoolExecutor(num_writers, "writer") as pool,
        Progress(total=total, unit="records", label="Write shards") as progress,
    ):
        running = {pool.submit(write, job): job for job in jobs}
        try:
            for future in concurrent.futures.as_completed(running):
                shards[running[future]] = future.result()
                progress.update(shards[running[future]].num_records)
        except BaseException:
            stop = True
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return {split: tuple(shards[split, index] for index in range(num_shards)) for split in orders}


def _records(
    members: np.ndarray, labels: np.ndarray, pixel_file: PixelFile, encoder: RecordEncoder, block: int
) -> Iterator[bytes]:
    for start in range(0, len(members), block):
        indices = members[start : start + block]
        for pixels, label in zip(pixel_file.read(indices), labels[indices].tolist(), strict=True):
            yield encoder.encode(pixels, label)


def _write_shard(path: str, records: Iterator[bytes], num_records: int, is_stopped) -> Shard:
    import tensorflow as tf

    with tf.io.TFRecordWriter(path) as writer:
        for record in records:
            if is_stopped():
                break
            writer.write(record)
    with open(path, "rb") as file:
        os.fsync(file.fileno())  # a power failure must not leave a data set that looks finished
    digest, num_bytes = hash_file(path)
    return Shard(os.path.basename(path), num_records, num_bytes, digest)
