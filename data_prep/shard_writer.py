"""Second pass of a build: shards of records, and the index of each.

The bytes of a shard depend on its records alone, so the number of threads changes nothing but the time.
"""

import collections
import concurrent.futures
import os
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from data_prep.id_file import IdFile
from data_prep.index import Index
from data_prep.spill import Spill, bucket_of
from tl_distributed.data.record_index import write_index
from tl_distributed.data.records import Shard, encode_example, encode_id, shard_name
from tl_distributed.files import hash_file, sync
from tl_distributed.progress import Progress

BLOCK_BYTES = 4 * 2**20  # of images that one thread holds at a time


class ShardWriter:
    """One shard and its index, record by record."""

    def __init__(self, path: str):
        """Begins the file; `path` may be remote."""
        import tensorflow as tf

        self.path, self._lengths = path, []
        self._writer = tf.io.TFRecordWriter(path)

    def write(self, records: Iterable[bytes]) -> None:
        """Appends records."""
        for record in records:
            self._writer.write(record)
            self._lengths.append(len(record))

    @property
    def num_records(self) -> int:
        return len(self._lengths)

    def close(self) -> None:
        """Ends the file."""
        self._writer.close()

    def finish(self) -> Shard:
        """Ends the file, if it is not ended yet, sees to it that it is on the disk, and describes it."""
        self.close()
        sync(self.path)  # a power failure must not leave a data set that looks finished
        write_index(self.path, np.array(self._lengths, np.int64))
        digest, num_bytes = hash_file(self.path)
        return Shard(os.path.basename(self.path), len(self._lengths), num_bytes, digest)


def encode_rows(
    images: Iterable[bytes], labels: Iterable[int | Sequence[int]], names: Iterable[str], sizes: np.ndarray
) -> list[bytes]:
    """Returns the records of pictures: images, the label or labels of each, ids, and `[n, 2]` heights and widths."""
    rows = zip(images, labels, names, sizes.tolist(), strict=True)
    return [
        encode_example(image, label, id=encode_id(name), height=height, width=width)
        for image, label, name, (height, width) in rows
    ]


def write_shards(
    folder: str,
    plans: dict[str, list[np.ndarray]],
    index: Index,
    spill: Spill,
    id_file: IdFile,
    *,
    num_threads: int,
) -> dict[str, tuple[Shard, ...]]:
    """Writes the shards of all splits side by side, in the order of the spilled files, which it deletes on the way.

    Args:
      folder: Where to write; local.
      plans: Of each split, the indices of each shard's pictures, as `shard_plan.plan_shards` cuts them.
      index: Of all pictures.
      spill: Their images.
      id_file: Their ids.
      num_threads: That read, encode and hash.

    Raises:
      OSError, tf.errors.OpError: The disk is full, or the like. Nothing is left running.
    """
    total = sum(len(rows) for plan in plans.values() for rows in plan)
    finished: dict[tuple[str, int], concurrent.futures.Future[Shard]] = {}
    writers: dict[tuple[str, int], ShardWriter] = {}

    def finish(job: tuple[str, int]) -> None:
        finished[job] = pool.submit(writers.pop(job).finish)

    def encode(rows: np.ndarray) -> list[bytes]:
        images = spill.read(bucket_of(index.keys[rows], spill.num_buckets), index.offsets[rows], index.lengths[rows])
        return encode_rows(images, index.labels_of(rows), id_file.read(rows), index.sizes[rows])

    with (
        concurrent.futures.ThreadPoolExecutor(num_threads, "writer") as pool,
        Progress(total=total, unit="records", label="Write shards") as progress,
    ):
        try:
            for job in [(split, number) for split, plan in plans.items() for number in range(len(plan))]:
                if not len(plans[job[0]][job[1]]):
                    writers[job] = ShardWriter(_path(folder, plans, job))
                    finish(job)
            for bucket in range(spill.num_buckets):
                blocks = list(_blocks(plans, index, bucket, spill.num_buckets))
                for (job, _), records in zip(
                    blocks, _in_order(pool, encode, [rows for _, rows in blocks], num_threads), strict=True
                ):
                    if job not in writers:
                        writers[job] = ShardWriter(_path(folder, plans, job))
                    writers[job].write(records)
                    progress.update(len(records))
                    if writers[job].num_records == len(plans[job[0]][job[1]]):
                        finish(job)
                spill.delete(bucket)
            shards = {job: future.result() for job, future in finished.items()}
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            for writer in writers.values():
                writer.close()
            raise
    return {split: tuple(shards[split, number] for number in range(len(plan))) for split, plan in plans.items()}


def _path(folder: str, plans: dict[str, list[np.ndarray]], job: tuple[str, int]) -> str:
    return os.path.join(folder, shard_name(*job, len(plans[job[0]])))


def _blocks(
    plans: dict[str, list[np.ndarray]], index: Index, bucket: int, num_buckets: int
) -> Iterator[tuple[tuple[str, int], np.ndarray]]:
    """Yields (shard, indices) of the pictures in a spilled file, in the order of the shards, some bytes at a time."""
    for split, plan in plans.items():
        for number, rows in enumerate(plan):
            buckets = bucket_of(index.keys[rows], num_buckets)  # sorted, as the rows are by their keys
            rows = rows[slice(*np.searchsorted(buckets, [bucket, bucket + 1]))]
            blocks = np.cumsum(index.lengths[rows], dtype=np.int64) // BLOCK_BYTES
            for block in np.split(rows, np.flatnonzero(np.diff(blocks)) + 1):
                if len(block):
                    yield (split, number), block


def _in_order(pool: concurrent.futures.Executor, work, tasks: list, num_threads: int) -> Iterator:
    """Yields `work(task)` of each task in order, while threads are at the next ones."""
    waiting: collections.deque[concurrent.futures.Future] = collections.deque()
    for task in tasks:
        waiting.append(pool.submit(work, task))
        if len(waiting) > num_threads:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
