"""What sources of `data_prep` hand out, as arrays."""

from collections.abc import Iterator

import numpy as np

from data_prep.id_file import IdFile
from data_prep.index import Index
from data_prep.reading import read_source
from data_prep.source import Source
from data_prep.spill import Spill
from tl_distributed.data.storing import StorageRule, Stored


def pixel_rule(size: int = 8, *, fit: str = "squash", **settings) -> StorageRule:
    """The rule that stores raw pixels of this size."""
    return StorageRule(storage="pixels", image_size=size, fit=fit, seed=0, **settings)


def read_split(source: Source, split: str, rule: StorageRule) -> Iterator[tuple[str, np.ndarray, int]]:
    """Yields name, `[size, size, 3] uint8` and label of each picture."""
    for chunk in source.chunks(split, rule):
        for image, label, name in zip(chunk.images, chunk.labels, chunk.names, strict=True):
            stored = image if isinstance(image, Stored) else rule.store_array(image)
            yield name, np.frombuffer(stored.image, np.uint8).reshape(stored.height, stored.width, 3), int(label)


def read_arrays(source: Source, split: str, rule: StorageRule) -> tuple[np.ndarray, np.ndarray]:
    """Returns `[n, size, size, 3] uint8` and `[n]` labels."""
    _, images, labels = zip(*read_split(source, split, rule), strict=True)
    return np.stack(images), np.array(labels)


def read_whole(source: Source, folder, rule: StorageRule) -> Index:
    """Reads all splits as a build does, and has the source tell what was seen."""
    with Spill(str(folder / "spill")) as spill, IdFile(str(folder / "ids")) as ids:
        index = read_source(source, rule, spill, ids)
        source.tell(index, ids)
        return index
