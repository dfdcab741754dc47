"""First pass of a build: every picture of the source once, stored, to a file; and what decides about it."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from data_prep.id_file import IdFile
from data_prep.index import Index, rows_of
from data_prep.source import Chunk, Source
from data_prep.spill import Spill
from tl_distributed.data.records import encode_id
from tl_distributed.data.storing import StorageRule, Stored
from tl_distributed.progress import Progress

ORDER_KEY = "BLAKE2b-64 of the ids, keyed by the seed"


def order_keys(names: Sequence[str], *, seed: int) -> np.ndarray:
    """Returns `[n] uint64`, by which records are sorted: as good as a shuffle, and known of each one alone."""
    key = seed.to_bytes(8, "little")
    digests = (hashlib.blake2b(encode_id(name), digest_size=8, key=key).digest() for name in names)
    return np.frombuffer(b"".join(digests), "<u8")


def read_source(source: Source, rule: StorageRule, spill: Spill, id_file: IdFile) -> Index:
    """Reads every split of the source once into both files and returns the index, with progress.

    Raises:
      UserError: What the source refuses.
      ValueError: A source that breaks its own contract (shape, type, label, a name twice).
    """
    index = Index(source.label_sets)
    for split in source.splits:
        with Progress(total=source.count(split), unit="images", label=f"Read {split}") as progress:
            for chunk, rows in store_chunks(
                source.chunks(split, rule), split, rule, spill, num_classes=source.num_labels
            ):
                id_file.append(chunk.names)
                index.append(rows, split, chunk.groups, chunk.unreadable)
                progress.update(len(chunk.names))
    spill.finish()
    index.finish()
    id_file.finish()
    return index


def store_chunks(
    chunks: Iterable[Chunk], split: str, rule: StorageRule, spill: Spill, *, num_classes: int, part: int = 0
) -> Iterator[tuple[Chunk, dict[str, np.ndarray]]]:
    """Stores chunks of one split as they come; yields each with its rows of the index.

    Raises:
      UserError: What the source refuses.
      ValueError: A source that breaks its own contract.
    """
    for chunk in chunks:
        _check_chunk(chunk, num_classes)
        stored = [one if isinstance(one, Stored) else rule.store_array(one) for one in chunk.images]
        keys = order_keys(chunk.names, seed=rule.seed)
        offsets = spill.append(keys, [one.image for one in stored])
        yield chunk, rows_of(stored, keys=keys, labels=chunk.labels, split=split, part=part, offsets=offsets)


def _check_chunk(chunk: Chunk, num_classes: int) -> None:
    if not len(chunk.images) == len(chunk.labels) == len(chunk.names):
        raise ValueError(f"{len(chunk.images)} images, {len(chunk.labels)} labels and {len(chunk.names)} names")
    for name, image in zip(chunk.names, chunk.images, strict=True):
        if not isinstance(image, Stored) and (image.dtype not in (np.uint8, np.uint16) or image.ndim != 3):
            raise ValueError(f"{name}: {image.dtype} {image.shape} is no picture")
    if len(chunk.labels) and not 0 <= chunk.labels.min() <= chunk.labels.max() < num_classes:
        bad = int(np.argmax((chunk.labels < 0) | (chunk.labels >= num_classes)))
        raise ValueError(f"{chunk.names[bad]} has label {chunk.labels[bad]}")
