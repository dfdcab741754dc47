"""A build in threads of this process; between its two passes the pictures lie in files beside the output."""

import contextlib
from collections.abc import Iterator

import numpy as np

from data_prep import reading, shard_writer
from data_prep.config import BuildConfig
from data_prep.engines.engine import Engine, Held
from data_prep.id_file import IdFile
from data_prep.index import Index
from data_prep.source import Source
from data_prep.spill import Spill, bucket_of
from data_prep.staging import Staging
from tl_distributed.data.records import Shard
from tl_distributed.data.storing import StorageRule


class LocalEngine(Engine):
    """See `Engine`."""

    def __init__(self, config: BuildConfig):
        self._num_threads = config.num_threads

    @contextlib.contextmanager
    def read(self, source: Source, rule: StorageRule, place: Staging, id_file: IdFile) -> Iterator[Held]:
        with Spill(place.spill_dir) as spill:
            index = reading.read_source(source, rule, spill, id_file)
            yield _Spilled(index, id_file, spill, place.build_dir, self._num_threads)


class _Spilled(Held):
    def __init__(self, index: Index, id_file: IdFile, spill: Spill, folder: str, num_threads: int):
        self.index, self._ids, self._spill = index, id_file, spill
        self._folder, self._num_threads = folder, num_threads

    def images(self, rows: np.ndarray) -> list[bytes]:
        index = self.index
        buckets = bucket_of(index.keys[rows], self._spill.num_buckets)
        return self._spill.read(buckets, index.offsets[rows], index.lengths[rows])

    def write(self, plans: dict[str, list[np.ndarray]]) -> dict[str, tuple[Shard, ...]]:
        return shard_writer.write_shards(
            self._folder, plans, self.index, self._spill, self._ids, num_threads=self._num_threads
        )
