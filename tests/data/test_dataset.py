"""Splits in memory and on disk: every example once an epoch, exact resume, padding, and files gone wrong."""

import collections
import dataclasses
import hashlib
import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from toy_dataset import write_toy_dataset

from tl_distributed.data import dataset
from tl_distributed.data.order import BatchOrder
from tl_distributed.data.record_index import index_name, write_index
from tl_distributed.data.record_reader import RecordFile
from tl_distributed.data.records import encode_example, read_manifest
from tl_distributed.data.shards import image_format
from tl_distributed.errors import UserError

COUNTS = {"train": 37, "val": 10, "test": 5}
MODES = ("memory", "disk")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_toy_dataset(tmp_path_factory.mktemp("data") / "toy", counts=COUNTS, size=4, num_shards=3)


def load(data_dir: str, mode: str = "memory", names=("train", "val", "test")):
    return dataset.load_splits(data_dir, read_manifest(data_dir), names, input_mode=mode)


def order_of(*, batch: int = 8, replicas: int = 1, seed: int = 0, **more) -> BatchOrder:
    return BatchOrder(global_batch_size=batch, num_replicas=replicas, seed=seed, **more)


def everything(data_dir: str, split: str) -> tuple[list[bytes], dict[bytes, int]]:
    """Reads a split record by record: the images' bytes in order, and the label of each."""
    records = [
        tf.train.Example.FromString(record.numpy()).features.feature
        for shard in read_manifest(data_dir).splits[split].shards
        for record in tf.data.TFRecordDataset(f"{data_dir}/{shard.file}")
    ]
    images = [record["image"].bytes_list.value[0] for record in records]
    return images, {image: record["label"].int64_list.value[0] for image, record in zip(images, records, strict=True)}


def batches(split, steps, *, first_step: int = 0, **order):
    """Returns global batches as lists of (bytes of the image, label), read in a graph as the engine does."""
    order = order_of(**order)
    feed = split.train_feed(order, first_step=first_step)

    @tf.function
    def read(step):
        given = feed.host_inputs()
        return [feed.replica_batch(step, replica, *given)[:2] for replica in range(order.num_replicas)]

    found = []
    for step in range(first_step, first_step + steps):
        parts = read(tf.constant(step, tf.int64))
        assert all(images.dtype == tf.uint8 and labels.dtype == tf.int32 for images, labels in parts)
        assert all(images.shape == (order.replica_batch_size, 4, 4, 3) for images, _ in parts)
        rows = [row for images, labels in parts for row in zip(images.numpy(), labels.numpy(), strict=True)]
        found.append([(image.tobytes(), int(label)) for image, label in rows])
    return found


def flat(found) -> list[bytes]:
    return [image for rows in found for image, _ in rows]


@pytest.mark.parametrize("mode", MODES)
def test_each_epoch_gives_each_example_once_with_its_label(data_dir, mode):
    images, label_of = everything(data_dir, "train")
    found = batches(load(data_dir, mode)["train"], 14)  # 112 examples, three epochs and one over
    assert all(label == label_of[image] for rows in found for image, label in rows)
    epochs = [flat(found)[start : start + 37] for start in range(0, 111, 37)]
    for epoch in epochs:
        assert collections.Counter(epoch) == collections.Counter(images)
    assert len({tuple(epoch) for epoch in [images, *epochs]}) == 4  # each in an order of its own


@pytest.mark.parametrize("mode", MODES)
def test_replicas_share_out_the_global_batch(data_dir, mode):
    split = load(data_dir, mode)["train"]
    whole = batches(split, 6)
    for replicas in (2, 4):
        assert batches(split, 6, replicas=replicas) == whole


@pytest.mark.parametrize("mode", MODES)
def test_resuming_at_any_step_gives_the_same_continuation(data_dir, mode):
    split = load(data_dir, mode)["train"]
    whole = batches(split, 15)
    for first in (1, 4, 5, 9, 14):  # within an epoch, at its end, and epochs later
        assert batches(split, 15 - first, first_step=first) == whole[first:]


@pytest.mark.parametrize("mode", MODES)
def test_order_is_a_function_of_the_seed(data_dir, mode):
    split = load(data_dir, mode)["train"]
    orders = [flat(batches(split, 4, seed=seed)) for seed in (0, 1, 2, 0)]
    assert orders[0] == orders[3]
    assert orders[0] != orders[1] != orders[2] != orders[0]


@pytest.mark.parametrize("mode", MODES)
def test_batch_larger_than_the_split(data_dir, mode):
    images, _ = everything(data_dir, "val")
    found = batches(load(data_dir, mode)["val"], 2, batch=25)
    assert collections.Counter(flat(found)) == collections.Counter(images * 5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("batch", [1, 4, 5, 10, 16])
def test_evaluation_gives_each_example_once_in_full_batches(data_dir, mode, batch):
    images, label_of = everything(data_dir, "val")
    found = []
    for rows in load(data_dir, mode)["val"].eval_batches(batch):
        assert rows.images.shape == (batch, 4, 4, 3) and rows.labels.shape == (batch,) and rows.sizes is None
        assert rows.images.dtype == np.uint8 and rows.labels.dtype == np.int32
        assert 1 <= rows.num_valid <= batch
        pairs = zip(rows.images[: rows.num_valid], rows.labels, strict=False)
        found += [(image.tobytes(), int(label)) for image, label in pairs]
        padding = rows.images[rows.num_valid - 1 : rows.num_valid].repeat(batch - rows.num_valid, 0)
        np.testing.assert_array_equal(rows.images[rows.num_valid :], padding)
    assert found == [(image, label_of[image]) for image in images]  # in the order of the shards, end to end


def test_splits_that_the_data_set_lacks_are_left_out(tmp_path):
    folder = write_toy_dataset(tmp_path / "toy", counts={"train": 6}, size=4)
    assert list(load(folder)) == ["train"]


@pytest.mark.parametrize(("free_bytes", "mode"), [(4 * 52 * 48, "memory"), (4 * 52 * 48 - 4, "disk")])
def test_auto_takes_memory_where_all_splits_fit_into_a_quarter(data_dir, monkeypatch, caplog, free_bytes, mode):
    monkeypatch.setattr(dataset, "free_memory_bytes", lambda: free_bytes)
    with caplog.at_level("INFO", logger="tl_distributed"):
        assert {split.mode for split in load(data_dir, "auto").values()} == {mode}
    assert f"Input: {mode} mode" in caplog.text


def test_the_former_name_of_disk_mode_is_taken(data_dir):
    assert load(data_dir, "stream")["train"].mode == "disk"


def test_version_1_is_read_in_memory_mode_alone_and_says_so(data_dir, tmp_path, monkeypatch, caplog):
    before = write_toy_dataset(tmp_path / "toy", counts=COUNTS, size=4, num_shards=3, schema_version=1)
    monkeypatch.setattr(dataset, "free_memory_bytes", lambda: 1)
    with caplog.at_level("INFO", logger="tl_distributed"):
        split = load(before, "auto")["train"]
    assert split.mode == "memory" and "schema version 1" in caplog.text
    assert batches(split, 10) == batches(load(data_dir)["train"], 10)
    with pytest.raises(UserError, match=f"--data_dir={before}: .* version 1 .*--input_mode=memory"):
        load(before, "disk")


# What is wrong with the files, by what is done to the data set's folder.


def _rewrite(path: pathlib.Path, records: list[bytes]) -> None:
    """Writes a shard and its index anew, with the manifest's size of it adapted: what only reading can find."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    write_index(str(path), np.array([len(record) for record in records]))
    _adapt_manifest(path)


def _adapt_manifest(path: pathlib.Path) -> None:
    manifest = path.parent / "dataset.json"
    content = json.loads(manifest.read_text())
    for split in content["splits"].values():
        for shard in split["shards"]:
            if shard["file"] == path.name:
                shard["num_bytes"], shard["sha256"] = path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(content))


def _records(path: pathlib.Path) -> list[bytes]:
    return [record.numpy() for record in tf.data.TFRecordDataset(str(path))]


def _flip_a_bit(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _cut(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])
    _adapt_manifest(path)


def _of_another_shard(path: pathlib.Path) -> None:
    """Leaves an index of as many records of other lengths, as if a shard and its index were of two builds."""
    lengths = [len(record) for record in _records(path)]
    write_index(str(path), np.array([lengths[0] - 1, lengths[1] + 1, *lengths[2:]]))


def _without_label(path: pathlib.Path) -> None:
    image = tf.train.Feature(bytes_list=tf.train.BytesList(value=[bytes(48)]))
    broken = tf.train.Example(features=tf.train.Features(feature={"image": image})).SerializeToString()
    _rewrite(path, [*_records(path)[:-1], broken])


def _replace_last(path: pathlib.Path, record: bytes) -> None:
    _rewrite(path, [*_records(path)[:-1], record])


SMALL = encode_example(bytes(27), 0, id=b"small", height=3, width=3)
FAULTS = {
    "cut short": (_cut, "bad record"),
    "no label": (_without_label, "bad record .*label"),
    "no Example": (lambda path: _replace_last(path, b"\xff\xfe" * 40), "bad record"),
    "small image": (lambda path: _replace_last(path, SMALL), "bad record"),
}
FOUND_IN_ORDER = {
    "bit flipped": (_flip_a_bit, "bad record"),
    "record lost": (lambda path: _rewrite(path, _records(path)[:-1]), "not hold as many records as dataset.json says"),
    "record twice": (
        lambda path: _rewrite(path, [*_records(path), _records(path)[0]]),
        "do not hold as many records as dataset.json says",
    ),
}
FOUND_BY_INDEX = {
    "bit flipped": (_flip_a_bit, "bad record"),
    "index of another": (_of_another_shard, r"record \d+ is a bad record \(it is not where the index says\)"),
    "record lost": (FOUND_IN_ORDER["record lost"][0], r"\.index: 11 offsets, the shard has 12 records"),
    "index missing": (lambda path: pathlib.Path(index_name(str(path))).unlink(), r"\.index: cannot be read"),
}


@pytest.fixture
def break_shard(tmp_path):
    """Returns a function that writes a data set whose second train shard has a fault."""

    def write(fault) -> str:
        folder = pathlib.Path(write_toy_dataset(tmp_path / "toy", counts=COUNTS, size=4, num_shards=3))
        fault(folder / "train-00001-of-00003.tfrecord")
        return str(folder)

    return write


def assert_one_line(raised, data_dir: str) -> None:
    assert "\n" not in str(raised.value)
    assert f"{data_dir}/train-" in str(raised.value)


@pytest.mark.parametrize("fault", [*FAULTS, *FOUND_IN_ORDER])
def test_faults_are_found_when_a_split_is_loaded(break_shard, fault):
    break_it, message = {**FAULTS, **FOUND_IN_ORDER}[fault]
    data_dir = break_shard(break_it)
    with pytest.raises(UserError, match=f"{message}.*verify_tfrecords names the shard") as raised:
        load(data_dir, "memory")
    assert_one_line(raised, data_dir)


@pytest.mark.parametrize("fault", [*FAULTS, *FOUND_BY_INDEX])
def test_faults_are_found_when_a_split_on_disk_is_evaluated(break_shard, fault):
    break_it, message = {**FAULTS, **FOUND_BY_INDEX}[fault]
    data_dir = break_shard(break_it)
    with pytest.raises(UserError, match=message) as raised:
        for _ in load(data_dir, "disk")["train"].eval_batches(4):
            pass
    assert_one_line(raised, data_dir)
    assert "train-00001-of-00003" in str(raised.value)  # the very shard


@pytest.mark.parametrize("fault", [*FAULTS, *FOUND_BY_INDEX])
def test_faults_are_found_when_a_split_on_disk_trains(break_shard, fault):
    break_it, message = {**FAULTS, **FOUND_BY_INDEX}[fault]
    data_dir = break_shard(break_it)
    feed = load(data_dir, "disk")["train"].train_feed(order_of(batch=4), first_step=0)

    @tf.function
    def read(step):
        return feed.replica_batch(step, 0, *feed.host_inputs())[:2]

    with pytest.raises(tf.errors.OpError) as caught:
        for step in range(25):  # to the end of the second epoch and a little beyond
            read(tf.constant(step, tf.int64))
    error = feed.input_error(caught.value)
    assert error is not None
    with pytest.raises(UserError, match=message) as raised:
        raise error
    assert_one_line(raised, data_dir)


def test_other_errors_of_the_loop_are_not_the_inputs(data_dir):
    error = tf.errors.InvalidArgumentError(None, None, "Received a label value of 7 outside the valid range of [0, 3)")
    for mode in MODES:
        feed = load(data_dir, mode)["train"].train_feed(order_of(batch=4), first_step=0)
        assert feed.input_error(error) is None


@pytest.mark.parametrize("mode", MODES)
def test_shards_that_are_missing_or_of_another_size_are_named_at_the_start(tmp_path, mode):
    folder = pathlib.Path(write_toy_dataset(tmp_path / "toy", counts=COUNTS, size=4, num_shards=3))
    shard = folder / "val-00002-of-00003.tfrecord"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    with pytest.raises(UserError, match=rf"{shard}: {len(whole) - 1} bytes, dataset.json says {len(whole)}"):
        load(str(folder), mode)
    shard.unlink()
    with pytest.raises(UserError, match=rf"{shard}: missing; build the data set again with --overwrite"):
        load(str(folder), mode)
    load(str(folder), mode, names=("train", "test"))


def test_split_without_examples_is_named(data_dir):
    info = read_manifest(data_dir)
    empty = dataclasses.replace(info.splits["val"], num_examples=0, shards=())
    info = dataclasses.replace(info, splits={**info.splits, "val": empty})
    with pytest.raises(UserError, match="split val has no examples"):
        dataset.load_splits(data_dir, info, ("val",), input_mode="memory")


def test_split_that_does_not_fit_into_memory_is_named(data_dir):  # ten seconds, for which TensorFlow hopes for memory
    huge = image_format(dataclasses.replace(read_manifest(data_dir), image_shape=(2**20, 2**20, 3)))
    with pytest.raises(UserError, match=r"train-0 and the shards.*\(3,298,534,883 MB\) do not fit.*--input_mode=disk"):
        dataset.open_split([[RecordFile("train-0", 1000, 1, is_indexed=True)]], huge, mode="memory")
