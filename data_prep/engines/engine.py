"""What a build asks of an engine: read the source once, then write the shards that were planned."""

import abc
import contextlib

import numpy as np

from data_prep.id_file import IdFile
from data_prep.index import Index
from data_prep.source import Source
from data_prep.staging import Staging
from tl_distributed.data.records import Shard
from tl_distributed.data.storing import StorageRule


class Held(abc.ABC):
    """The pictures of a source, read and stored somewhere.

    Attributes:
      index: Of all, in the order of the source.
    """

    index: Index

    @abc.abstractmethod
    def images(self, rows: np.ndarray) -> list[bytes]:
        """Returns the stored images of some rows of the index; before `write` alone."""

    @abc.abstractmethod
    def write(self, plans: dict[str, list[np.ndarray]]) -> dict[str, tuple[Shard, ...]]:
        """Writes the shards whose rows `shard_plan.plan_shards` has cut for each split, and describes them.

        Raises:
          UserError, OSError, tf.errors.OpError: A worker failed, or the disk.
        """


class Engine(abc.ABC):
    """Reads pictures and writes shards."""

    @abc.abstractmethod
    def read(
        self, source: Source, rule: StorageRule, place: Staging, id_file: IdFile
    ) -> contextlib.AbstractContextManager[Held]:
        """Reads every picture of the source and appends the names to `id_file`, which it finishes.

        Args:
          source: Opened.
          rule: By which pictures are stored.
          place: Where the build grows.
          id_file: Empty.

        Raises:
          UserError: What the source refuses.
        """
