"""Pictures of a split by their places: the right ones, whole, and no more read than it takes."""

import numpy as np
from toy_dataset import write_toy_dataset

from tl_distributed.data.records import read_manifest
from tl_distributed.data.splits import EvalBatch
from tl_distributed.reporting.pictures import pictures_at, read_test_pictures


class Numbered:
    """600 pictures of 2 x 3 pixels, each of its place; counts the batches that were read."""

    batches = 0

    def eval_batches(self, batch_size):
        for first in range(0, 600, batch_size):
            self.batches += 1
            numbers = np.minimum(np.arange(first, first + batch_size), 599)
            images = np.broadcast_to(numbers[:, None, None, None] % 251, (batch_size, 2, 3, 3))
            yield EvalBatch(images.astype(np.uint8), numbers.astype(np.int32), min(batch_size, 600 - first))


def test_places_in_any_order_and_twice_are_read_once():
    split = Numbered()
    found = pictures_at(split, [300, 2, 2, 511])
    assert {place: int(picture[0, 0, 0]) for place, picture in found.items()} == {2: 2, 300: 49, 511: 9}
    assert found[300].shape == (2, 3, 3)
    assert split.batches == 2  # 256 each: what follows the last place is not read
    assert pictures_at(split, []) == {} and split.batches == 2


def test_last_picture_of_a_split_is_found():
    assert set(pictures_at(Numbered(), [599])) == {599}


def test_a_picture_on_a_canvas_is_shown_without_it():
    class Split:
        def eval_batches(self, _):
            sizes = np.array([[8, 4]] * 2, np.int32)
            yield EvalBatch(np.ones((2, 8, 8, 3), np.uint8), np.zeros(2, np.int32), 2, sizes)

    assert pictures_at(Split(), [1])[1].shape == (8, 4, 3)


def test_pictures_of_a_data_set_are_those_of_its_order(tmp_path):
    data_dir = write_toy_dataset(
        tmp_path / "toy", counts={"train": 3, "val": 3, "test": 30}, size=8, num_shards=1, numbered=True
    )
    found = read_test_pictures(data_dir, read_manifest(data_dir), [7, 29])
    assert {place: picture[0, 0].tolist() for place, picture in found.items()} == {7: [0, 7, 0], 29: [0, 29, 0]}
