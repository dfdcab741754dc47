"""Groups go to one side of every cut."""

import hashlib

import numpy as np
import pytest

from data_prep import splits
from data_prep.group_cut import join_groups
from data_prep.splits import TEST, TRAIN, VAL


def joined_by_sets(equal, groups):
    """Joins by plain Python sets, as slow as it is clear."""
    units = [{i} for i in range(len(equal))]
    for i in range(len(equal)):
        for j in range(i):
            if (equal[i] == equal[j] or 0 <= groups[i] == groups[j]) and units[i] is not units[j]:
                units[i] |= units[j]
                for k in units[i]:
                    units[k] = units[i]
    return units


@pytest.mark.parametrize("seed", range(20))
def test_units_are_those_of_sets_and_in_the_order_of_the_contents(seed):
    random = np.random.default_rng(seed)
    equal = np.unique(random.integers(0, 20, 30), return_inverse=True)[1]
    groups = random.integers(-1, 12, 30)
    units, expected = join_groups(equal, groups), joined_by_sets(equal, groups)
    for i in range(30):
        assert {int(j) for j in np.flatnonzero(units == units[i])} == expected[i]
    smallest = [min(equal[list(expected[i])]) for i in range(30)]
    assert sorted(set(units)) == list(range(units.max() + 1))
    assert all((units[i] < units[j]) == (smallest[i] < smallest[j]) for i in range(30) for j in range(30))


def assign(images, labels, origins, groups, **settings):
    settings = {"val_fraction": 0.2, "limit_per_class": 0, **settings}
    hashes = np.array([list(hashlib.sha256(image).digest()) for image in images], np.uint8).view(np.uint64)[:, :2]
    return splits.assign_splits(hashes, labels, origins, hashes[:, 1], groups=groups, **settings)


def make(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 2, 2, 3), dtype=np.uint8)


def test_validation_takes_whole_groups_and_about_its_share_of_each_class():
    images, labels, groups = make(600), np.arange(600) % 2, np.arange(600) // 12  # 50 groups, each of both classes
    order = assign(images, labels, np.full(600, TRAIN), groups).order
    assert not set(groups[order["train"]]) & set(groups[order["val"]])
    assert len(order["train"]) + len(order["val"]) == 600
    assert np.bincount(labels[order["val"]]).tolist() == [60, 60]


def test_order_of_the_source_and_numbers_of_the_groups_change_nothing():
    images, labels, groups = make(200), np.arange(200) % 3, np.arange(200) // 7
    mixed = np.random.default_rng(1).permutation(200)
    renumbered = np.random.default_rng(2).permutation(groups.max() + 1)
    first = assign(images, labels, np.full(200, TRAIN), groups).order
    second = assign(images[mixed], labels[mixed], np.full(200, TRAIN), renumbered[groups[mixed]]).order
    for split in ("train", "val"):
        assert [images[i].tobytes() for i in first[split]] == [images[mixed][i].tobytes() for i in second[split]]


def test_group_of_two_splits_stays_in_test_then_val_and_is_counted():
    groups = np.array([0, 0, 1, 1, 2, 2, 3, 3, -1, -1])
    origins = np.array([TRAIN, TEST, TRAIN, VAL, VAL, TEST, TRAIN, TRAIN, TRAIN, TEST])
    found = assign(make(10), np.arange(10) % 2, origins, groups)
    assert found.dropped_of_groups == {"train/test": 1, "val/test": 1, "train/val": 1}
    assert {name: sorted(part) for name, part in found.order.items()} == {
        "train": [6, 7, 8], "val": [3], "test": [1, 5, 9]
    }  # fmt: skip


def test_group_that_a_duplicate_ties_to_test_leaves_train():
    images = make(6)
    images[0] = images[5]  # image 0 of train is in test too, and image 1 is of its group
    groups, origins = np.array([0, 0, -1, -1, -1, -1]), np.array([TRAIN] * 5 + [TEST])
    found = assign(images, np.arange(6) % 2, origins, groups, val_fraction=0)
    assert sorted(found.order["train"]) == [2, 3, 4]
    assert (found.dropped_duplicates, found.dropped_of_groups) == ({"train/test": 1}, {"train/test": 1})


def test_one_group_that_holds_all_leaves_no_validation():
    order = assign(make(20), np.arange(20) % 2, np.full(20, TRAIN), np.zeros(20, int)).order
    assert list(order) == ["train"]
