"""Pictures of a split by their places in it, for whatever shows them."""

from collections.abc import Callable, Iterable

import numpy as np

from tl_distributed.data.dataset import load_splits
from tl_distributed.data.records import DatasetInfo
from tl_distributed.data.splits import Split

_READ_BATCH = 256


View = Callable[[np.ndarray, np.ndarray | None], np.ndarray]


def pictures_at(split: Split, places: Iterable[int], view: View | None = None) -> dict[int, np.ndarray]:
    """Returns the `[height, width, 3] uint8` pictures at these places of a split, by place; read once, in order.

    Args:
      split: To read.
      places: In it.
      view: Makes pictures of canvases `[n, size, size, 3] uint8` and sizes `[n, 2] int32` (`None` of pictures that
        fill them); by default they are shown whole.
    """
    wanted = sorted({int(place) for place in places})
    found: dict[int, np.ndarray] = {}
    if not wanted:
        return found
    for number, batch in enumerate(split.eval_batches(_READ_BATCH)):
        first = number * _READ_BATCH
        for place in wanted:
            if first <= place < first + batch.num_valid:
                own = slice(place - first, place - first + 1)
                sizes = None if batch.sizes is None else batch.sizes[own]
                found[place] = (view or _whole)(batch.images[own], sizes)[0].copy()
        if first + batch.num_valid > wanted[-1]:
            break
    return found


def _whole(images: np.ndarray, sizes: np.ndarray | None) -> np.ndarray:
    """Returns one picture without the rest of its canvas."""
    if sizes is None:
        return images
    height, width = sizes[0]
    return images[:, :height, :width]


def read_test_pictures(data_dir: str, info: DatasetInfo, places: Iterable[int]) -> dict[int, np.ndarray]:
    """As `pictures_at`, of the test split of a data set.

    Raises:
      UserError: Shards that are missing or cannot be read.
    """
    split = load_splits(data_dir, info, ("test",), input_mode="auto")["test"]
    return pictures_at(split, places)
