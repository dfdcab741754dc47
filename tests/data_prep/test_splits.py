"""Who goes where: against plain Python sets and counts."""

import numpy as np
import pytest

from data_prep import splits
from data_prep.reading import order_keys
from data_prep.splits import TEST, TRAIN, VAL
from tl_distributed.data.storing import StorageRule
from tl_distributed.errors import UserError


def make_images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)


def content_hashes(images, *, seed=0):
    rule = StorageRule(storage="pixels", image_size=4, fit="crop", seed=seed)
    return np.frombuffer(b"".join(rule.store_array(image).content for image in images), "<u8").reshape(-1, 2)


def assign(images, labels, origins, *, seed=0, val_fraction=0.2, limit_per_class=0, test_fraction=0.0, names=None):
    names = range(len(images)) if names is None else names
    return splits.assign_splits(
        content_hashes(images, seed=seed),
        np.asarray(labels),
        np.asarray(origins),
        order_keys([str(name) for name in names], seed=seed),
        val_fraction=val_fraction,
        limit_per_class=limit_per_class,
        test_fraction=test_fraction,
    )


def test_validation_is_the_stated_share_of_each_class_and_nothing_is_lost():
    images, labels = make_images(300), np.repeat([0, 1, 2], [200, 90, 10])
    order = assign(images, labels, np.full(300, TRAIN)).order
    assert np.bincount(labels[order["val"]]).tolist() == [40, 18, 2]
    assert np.bincount(labels[order["train"]]).tolist() == [160, 72, 8]
    assert sorted(np.concatenate([order["train"], order["val"]])) == list(range(300))
    assert "test" not in order


def test_test_is_the_stated_share_of_each_class_and_validation_of_what_is_left():
    images, labels = make_images(300), np.repeat([0, 1, 2], [200, 90, 10])
    images[1] = images[0]  # equal ones go together
    order = assign(images, labels, np.full(300, TRAIN), test_fraction=0.1).order
    assert np.bincount(labels[order["test"]]).tolist() == [20, 9, 1]
    assert np.bincount(labels[order["val"]]).tolist() == [36, 16, 2]
    assert sorted(np.concatenate(list(order.values()))) == list(range(300))
    assert sum({0, 1} <= set(members.tolist()) for members in order.values()) == 1


def test_a_test_split_of_the_source_is_not_cut():
    images, origins = make_images(40), np.repeat([TRAIN, TEST], [30, 10])
    plain = assign(images, np.arange(40) % 2, origins).order
    asked = assign(images, np.arange(40) % 2, origins, test_fraction=0.5).order
    assert plain.keys() == asked.keys()
    assert all(np.array_equal(plain[name], asked[name]) for name in plain)


def test_order_is_shuffled_and_follows_the_seed():
    images, labels = make_images(400), np.repeat([0, 1], 200)
    first, again, other = (assign(images, labels, np.full(400, TRAIN), seed=seed).order["train"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert set(first) != set(other)
    # A shuffled class sequence changes class about every second record; in the order of the source it does so once.
    assert 120 < np.count_nonzero(np.diff(labels[first])) < 200
    assert abs(np.corrcoef(np.arange(len(first)), first)[0, 1]) < 0.2


def test_result_does_not_depend_on_the_order_of_the_source():
    images, labels = make_images(200), np.arange(200) % 3
    images[7], images[11] = images[3], images[3]  # repeats, 3 with another label than 7 and 11
    origins = np.where(np.arange(200) < 150, TRAIN, TEST)
    mixed = np.random.default_rng(5).permutation(200)
    straight = assign(images, labels, origins, limit_per_class=30).order
    shuffled = assign(images[mixed], labels[mixed], origins[mixed], limit_per_class=30, names=mixed).order
    for split in ("train", "val", "test"):
        np.testing.assert_array_equal(straight[split], mixed[shuffled[split]])


def test_image_in_two_splits_stays_in_test_then_val_and_is_counted():
    images = make_images(40)
    origins = np.repeat([TRAIN, VAL, TEST], [20, 10, 10])
    images[0], images[1] = images[30], images[31]  # train and test
    images[2] = images[20]  # train and val
    images[21] = images[32]  # val and test
    result = assign(images, np.arange(40) % 2, origins)
    assert result.dropped_duplicates == {"train/test": 2, "val/test": 1, "train/val": 1}
    assert set(result.order["train"]) == set(range(3, 20))
    assert set(result.order["val"]) == set(range(20, 30)) - {21}
    assert set(result.order["test"]) == set(range(30, 40))


@pytest.mark.parametrize("seed", range(5))
def test_equal_images_of_train_fall_on_the_same_side(seed):
    images = np.repeat(make_images(60, seed), 3, axis=0)
    labels = np.repeat(np.arange(60) % 2, 3)
    labels[::30] ^= 1  # some repeats carry another label
    result = assign(images, labels, np.full(180, TRAIN), seed=seed)
    held = {split: {image.tobytes() for image in images[order]} for split, order in result.order.items()}
    assert not held["train"] & held["val"]
    assert 30 <= len(result.order["val"]) <= 36
    assert result.repeats_within["train"] == len(result.order["train"]) - len(held["train"])


def test_repeats_are_spread_over_the_split():
    images = np.repeat(make_images(50), 4, axis=0)
    order = assign(images, np.zeros(200, int), np.full(200, TRAIN), val_fraction=0).order["train"]
    assert np.count_nonzero(np.diff(order // 4) == 0) < 20  # side by side there would be 150


def test_limit_is_applied_before_the_cut_and_leaves_test_whole():
    images, labels = make_images(120), np.arange(120) % 2
    origins = np.where(np.arange(120) < 80, TRAIN, TEST)
    order = assign(images, labels, origins, limit_per_class=10).order
    assert {split: np.bincount(labels[part]).tolist() for split, part in order.items()} == {
        "train": [8, 8],
        "val": [2, 2],
        "test": [20, 20],
    }
    assert set(order["train"]) | set(order["val"]) < set(np.flatnonzero(origins == TRAIN))


def test_own_validation_is_kept_whole_and_no_share_is_taken():
    origins = np.repeat([TRAIN, VAL], [30, 10])
    order = assign(make_images(40), np.arange(40) % 2, origins).order
    assert (len(order["train"]), len(order["val"])) == (30, 10)


@pytest.mark.parametrize(("in_class", "in_val"), [(1, 0), (2, 1), (3, 1), (9, 2)])
def test_small_classes_keep_at_least_one_image_and_give_one_where_they_can(in_class, in_val):
    labels = np.array([0] * in_class + [1] * 20)
    order = assign(make_images(len(labels)), labels, np.full(len(labels), TRAIN)).order
    assert np.count_nonzero(labels[order["val"]] == 0) == in_val
    assert np.count_nonzero(labels[order["train"]] == 0) == in_class - in_val


def test_no_share_no_validation_split():
    order = assign(make_images(10), np.arange(10) % 2, np.full(10, TRAIN), val_fraction=0).order
    assert list(order) == ["train"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), "no class"),
        (("cat",), "only one class (cat)"),
        (("Cat", "cat"), "'Cat' and 'cat'"),
        (("cat", "cat "), "same name"),
        (("red fox", "red  fox"), "same name"),
        (("cat", "cat\u200b"), r"'cat\u200b'"),  # a zero-width space, as text from web pages has
        (("cat", "\u200e"), "nothing but spaces"),
    ],
)
def test_class_names_that_cannot_be_told_apart_are_refused(names, words):
    with pytest.raises(UserError) as error:
        splits.check_class_names(names)
    assert words in str(error.value)


def test_class_that_test_repeats_whole_stays_in_train():
    """Class 0: train holds a and b, test both; class 1: train holds c and d, test c and e."""
    hashes = np.array([[name, 0] for name in (1, 2, 1, 2, 3, 4, 3, 5)], np.uint64)
    labels, origins = np.array([0, 0, 0, 0, 1, 1, 1, 1]), np.array([TRAIN, TRAIN, TEST, TEST] * 2)
    found = splits.assign_splits(hashes, labels, origins, hashes[:, 0], val_fraction=0, limit_per_class=0)
    assert sorted(found.order["train"]) == [0, 1, 5]
    assert sorted(found.order["test"]) == [6, 7]
    assert found.dropped_duplicates == {"test/train": 2, "train/test": 1}


def test_class_that_only_test_has_is_named():
    with pytest.raises(UserError, match="class 'dog' of test has no image in train"):
        splits.check_classes_present(("cat", "dog"), np.array([0, 0, 1]), np.array([TRAIN, TEST, TEST]))
    with pytest.raises(UserError, match="class 'dog' is empty"):
        splits.check_classes_present(("cat", "dog"), np.array([0, 0]), np.array([TRAIN, TEST]))


def test_counts_by_name():
    assert splits.count_per_class(("a", "b", "c"), np.array([2, 0, 2])) == {"a": 1, "b": 0, "c": 2}
