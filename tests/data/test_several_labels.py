"""Batches of pictures with any number of labels: all modes alike, and what is not a record of them is told."""

import numpy as np
import pytest
import tensorflow as tf
from multi_label_data import NAMES, labels_of, multi_label_data

from tl_distributed.data.dataset import load_splits
from tl_distributed.data.device_split import DeviceSplit
from tl_distributed.data.example_fields import find_bytes_and_numbers
from tl_distributed.data.ids import read_ids
from tl_distributed.data.order import BatchOrder
from tl_distributed.data.records import encode_example, parse_files
from tl_distributed.data.shards import image_format


@pytest.fixture(scope="module", params=["pixels", "original"])
def built(request, tmp_path_factory):
    return multi_label_data(tmp_path_factory.mktemp("several") / request.param, storage=request.param)


def training_batches(split, steps: int = 12) -> list[list[np.ndarray]]:
    order = BatchOrder(global_batch_size=8, num_replicas=1, seed=1)
    feed = split.train_feed(order, first_step=0)

    @tf.function
    def read(step):
        return [part for part in feed.replica_batch(step, 0, *feed.host_inputs()) if part is not None]

    return [[part.numpy() for part in read(tf.constant(step, tf.int64))] for step in range(steps)]


def test_all_modes_give_the_same_batches(built):
    data_dir, info = built
    memory, disk = (load_splits(data_dir, info, ("train",), input_mode=mode)["train"] for mode in ("memory", "disk"))
    device = DeviceSplit(memory, tf.distribute.OneDeviceStrategy("CPU:1"))
    expected = training_batches(memory)
    assert expected[0][1].shape == (8, 3) and expected[0][1].min() == -1
    for split in (disk, device):
        for one, other in zip(expected, training_batches(split), strict=True):
            for left, right in zip(one, other, strict=True):
                np.testing.assert_array_equal(left, right)
    for one, other in zip(memory.eval_batches(10), disk.eval_batches(10), strict=True):
        np.testing.assert_array_equal(one.labels, other.labels)


def test_labels_are_those_of_the_table(built):
    data_dir, info = built
    split = load_splits(data_dir, info, ("test",), input_mode="disk")["test"]
    found = np.concatenate([batch.labels[: batch.num_valid] for batch in split.eval_batches(10)])
    for name, row in zip(read_ids(data_dir, info, "test"), found, strict=True):
        number = int(name.removeprefix("images/test").removesuffix(".png"))
        assert [NAMES[label] for label in row if label >= 0] == labels_of(number)


@pytest.mark.parametrize("labels", [[], [0], [2, 5], [127, 128, 300], list(range(40))])
def test_both_readers_find_any_number_of_labels(labels):
    record = encode_example(b"picture", labels, id=b"a", height=1, width=1)
    start, end, found = find_bytes_and_numbers(memoryview(record), b"image", b"label")
    assert record[start:end] == b"picture" and found == labels
    _, parsed = parse_files([record], most_labels=40)
    np.testing.assert_array_equal(parsed[0, : len(labels)], labels)
    assert (parsed[0, len(labels) :].numpy() == -1).all()


def test_more_labels_than_the_manifest_says_are_a_bad_record(built):
    record = encode_example(bytes(768), [0, 1, 2, 0], id=b"a", height=16, width=16)
    with pytest.raises(tf.errors.InvalidArgumentError):
        parse_files([record], most_labels=3)
    with pytest.raises(ValueError, match=r"4 labels, dataset\.json says 3 at most"):
        image_format(built[1]).locate(memoryview(record))
