"""Decodes files in threads, in their order, with bounded memory."""

import collections
import concurrent.futures
import dataclasses
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from data_prep.source import Chunk
from data_prep.source_parts.containers import Member, UnreadableFile
from tl_distributed.data.decode import UnreadableImage
from tl_distributed.data.storing import StorageRule, Stored
from tl_distributed.errors import UserError, printable

_CHUNK_IMAGES = 256
_AHEAD_BYTES = 2**26  # of files that are read, and pictures that are stored, and wait


@dataclasses.dataclass(frozen=True)
class PictureReader:
    """How the pictures of a container are read.

    Attributes:
      path: Of the container, for messages.
      skip_unreadable: Leave out what cannot be decoded; otherwise the first one is an error.
      num_threads: That decode.
    """

    path: str
    skip_unreadable: bool
    num_threads: int

    def chunks(
        self, members: Iterable[Member], labels: Mapping[str, int], ids: Mapping[str, str], groups: Mapping[str, str],
        rule: StorageRule,
    ) -> Iterator[Chunk]:  # fmt: skip
        """Yields the pictures in the order of `members`; the mappings are by a member's name.

        Raises:
          UserError: A picture that cannot be read, unless those are skipped.
        """
        most_waiting = 2 * self.num_threads
        most_bytes = _AHEAD_BYTES // (most_waiting + 1)
        with concurrent.futures.ThreadPoolExecutor(self.num_threads, "decoder") as pool:
            waiting: collections.deque[concurrent.futures.Future] = collections.deque()
            try:
                for batch in _batches(members, most_bytes, max(1, min(_CHUNK_IMAGES, most_bytes // rule.most_bytes))):
                    waiting.append(pool.submit(_store, batch, rule))
                    if len(waiting) > most_waiting:
                        yield self._collect(waiting.popleft(), labels, ids, groups)
                while waiting:
                    yield self._collect(waiting.popleft(), labels, ids, groups)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _collect(
        self, future: concurrent.futures.Future, labels: Mapping[str, int], ids: Mapping[str, str],
        groups: Mapping[str, str],
    ) -> Chunk:  # fmt: skip
        images, names, unreadable = [], [], []
        for name, result in future.result():
            if isinstance(result, Stored):
                images.append(result)
                names.append(name)
            elif self.skip_unreadable:
                unreadable.append(f"{name}: {result}")
            else:
                raise UserError(
                    f"--input={self.path}: cannot read {printable(name)} ({result}); "
                    "mend or remove it, or add --skip_unreadable"
                )
        return Chunk(
            images, np.array([labels[name] for name in names], np.int64), [ids[name] for name in names],
            [groups.get(name, "") for name in names] if groups else None, unreadable,
        )  # fmt: skip


def _store(batch: list[Member], rule: StorageRule) -> list[tuple[str, Stored | str]]:
    """Returns (name, picture, or what is wrong with the file) of each member; runs in a thread."""
    stored: list[tuple[str, Stored | str]] = []
    for member in batch:
        try:
            stored.append((member.name, rule.store_file(member.read())))
        except (UnreadableFile, UnreadableImage) as error:
            stored.append((member.name, str(error)))
    return stored


def _batches(members: Iterable[Member], most_bytes: int, most_images: int) -> Iterator[list[Member]]:
    batch: list[Member] = []
    num_bytes = 0
    for member in members:
        batch.append(member)
        num_bytes += member.num_bytes
        if len(batch) >= most_images or num_bytes >= most_bytes:
            yield batch
            batch, num_bytes = [], 0
    if batch:
        yield batch
