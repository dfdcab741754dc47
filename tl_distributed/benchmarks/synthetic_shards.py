"""A data set of random images of any size, built by `data_prep` as any other; and the images for its build.

`python -m tl_distributed.benchmarks.synthetic_shards FOLDER RECORDS SIZE SHARDS STORAGE` builds it in another process.
"""

import sys
from collections.abc import Iterator

import numpy as np

from data_prep.build import build
from data_prep.config import BuildConfig
from data_prep.source import Chunk, Source
from tl_distributed.benchmarks.random_images import NUM_CLASSES, random_images, random_pictures
from tl_distributed.data.storing import StorageRule

_CHUNK_IMAGES = 500


class NoiseSource(Source):
    """Random images in one split; `chunks` may be drawn beforehand and handed over, to time the build alone."""

    name = "noise"
    splits = ("train",)

    def __init__(self, records: int, size: int, drawn: list[Chunk] | None = None, *, storage: str = "pixels"):
        self.class_names = tuple(f"class_{label}" for label in range(NUM_CLASSES))
        self._size, self._records, self._drawn = size, records, drawn
        self._random = random_images if storage == "pixels" else random_pictures
        self.details, self.notes = {}, []

    def count(self, split: str) -> int:
        return self._records

    def chunks(self, split: str, rule: StorageRule) -> Iterator[Chunk]:
        """Yields the split; see `Source.chunks`."""
        del rule  # nothing is decoded here
        if self._drawn is not None:
            yield from self._drawn
            return
        for start in range(0, self._records, _CHUNK_IMAGES):
            count = min(_CHUNK_IMAGES, self._records - start)
            images, labels = self._random(count, self._size, seed=start)
            if start == 0:  # every class, in a small set too
                labels[:NUM_CLASSES] = np.arange(NUM_CLASSES)[:count]
            yield Chunk(images, labels.astype(np.int64), [f"{start + index}" for index in range(count)])


def build_config(folder: str, size: int, *, num_shards: int, num_writers: int, storage: str = "pixels") -> BuildConfig:
    return BuildConfig(
        source="synthetic",
        image_size=size,
        storage=storage,
        val_fraction=0.0,
        output_dir=folder,
        num_shards=num_shards,
        num_writers=num_writers,
    )


def main(folder: str, records: str, size: str, shards: str, storage: str) -> None:
    config = build_config(folder, int(size), num_shards=int(shards), num_writers=0, storage=storage)
    build(config, NoiseSource(int(records), int(size), storage=storage))


if __name__ == "__main__":
    main(*sys.argv[1:])
