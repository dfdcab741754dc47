"""The sample of the data set that all candidates see: read once, kept in files that each candidate's process maps."""

import dataclasses
import os

import numpy as np

from tl_distributed.data.dataset import load_subset
from tl_distributed.data.records import SPLITS, DatasetInfo
from tl_distributed.data.splits import Batch
from tl_distributed.data.subset import subset_counts
from tl_distributed.ranking.settings import RankConfig

_BLOCK = 256  # images copied at once
_PARTS = ("images", "labels", "sizes")


def num_images(config: RankConfig, info: DatasetInfo, split: str) -> int:
    """Returns how many images of a split are taken."""
    return sum(subset_counts(info.splits[split].counts_per_class, config.sizes[split]).values())


def write_sample(folder: str, config: RankConfig, info: DatasetInfo) -> None:
    """Reads the chosen images of each split into `folder`, one split after the other; whole splits stay where they are.

    Args:
      folder: Local and empty, for as long as candidates are measured.
      config: Of the ranking.
      info: The data set's manifest.

    Raises:
      UserError: As `data.dataset.load_subset`.
    """
    for split in SPLITS:
        if split not in info.splits or num_images(config, info, split) == info.splits[split].num_examples:
            continue
        data = config.data_settings(split)
        chosen = load_subset(data.shard_dir, info, split, images_per_class=data.images_per_class, seed=config.seed)
        files: dict[str, np.ndarray] = {}
        for start in range(0, chosen.num_examples, _BLOCK):
            rows = np.arange(start, min(start + _BLOCK, chosen.num_examples))
            for name, part in zip(_PARTS, chosen.examples(rows), strict=True):
                if part is None:
                    continue
                if name not in files:
                    path, shape = _path(folder, split, name), (chosen.num_examples, *part.shape[1:])
                    files[name] = np.lib.format.open_memmap(path, "w+", part.dtype, shape)
                files[name][rows] = part
        for file in files.values():
            file.flush()


def _path(folder: str, split: str, part: str) -> str:
    return f"{folder}/{split}_{part}.npy"


@dataclasses.dataclass(frozen=True)
class SampledSplit:
    """The chosen images of a split, mapped from the files of `write_sample`; of a whole split, only their number."""

    num_examples: int
    parts: Batch | None = None

    def examples(self, indices: np.ndarray) -> Batch:
        """Returns the examples at `indices [k]`."""
        return Batch(*(None if part is None else part[indices] for part in self.parts))


def open_sample(folder: str, config: RankConfig, info: DatasetInfo, split: str) -> SampledSplit:
    """Opens what `write_sample` left of a split."""
    count = num_images(config, info, split)
    if count == info.splits[split].num_examples:
        return SampledSplit(count)
    paths = [_path(folder, split, part) for part in _PARTS]
    parts = (np.load(path, mmap_mode="r") if os.path.exists(path) else None for path in paths)
    return SampledSplit(count, Batch(*parts))
