"""Splits in memory and streamed: every example once an epoch, exact resume, padding, and files gone wrong."""

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
from tl_distributed.data.records import encode_record, read_manifest
from tl_distributed.data.shards import image_format
from tl_distributed.data.stream_split import StreamSplit
from tl_distributed.errors import UserError

COUNTS = {"train": 37, "val": 10, "test": 5}
BUFFER = 8  # several windows an epoch
MODES = ("memory", "stream")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_toy_dataset(tmp_path_factory.mktemp("data") / "toy", counts=COUNTS, size=4, num_shards=3)


def load(data_dir: str, mode: str = "memory", names=("train", "val", "test"), buffer: int = BUFFER):
    info = read_manifest(data_dir)
    return dataset.load_splits(data_dir, info, names, input_mode=mode, shuffle_buffer_examples=buffer)


def everything(data_dir: str, split: str) -> tuple[list[bytes], dict[bytes, int]]:
    """Reads a split record by record: the images' bytes in order, and the label of each."""
    records = [
        tf.train.Example.FromString(record.numpy()).features.feature
        for shard in read_manifest(data_dir).splits[split].shards
        for record in tf.data.TFRecordDataset(f"{data_dir}/{shard.file}")
    ]
    images = [record["image"].bytes_list.value[0] for record in records]
    return images, {image: record["label"].int64_list.value[0] for image, record in zip(images, records, strict=True)}


def batches(split, steps, *, first_step: int = 0, batch: int = 8, replicas: int = 1, seed: int = 0):
    """Returns global batches as lists of (bytes of the image, label), read in a graph as the engine does."""
    feed = split.train_feed(global_batch_size=batch, num_replicas=replicas, seed=seed, first_step=first_step)

    @tf.function
    def read(step):
        given = feed.host_inputs()
        return [feed.replica_batch(step, replica, *given) for replica in range(replicas)]

    found = []
    for step in range(first_step, first_step + steps):
        parts = read(tf.constant(step, tf.int64))
        assert all(images.dtype == tf.uint8 and labels.dtype == tf.int32 for images, labels in parts)
        assert all(images.shape == (batch // replicas, 4, 4, 3) for images, _ in parts)
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


@pytest.mark.parametrize(("mode", "buffer"), [("memory", BUFFER), ("stream", BUFFER), ("stream", 37)])
def test_resuming_at_any_step_gives_the_same_continuation(data_dir, mode, buffer):
    split = load(data_dir, mode, buffer=buffer)["train"]
    whole = batches(split, 15)
    for first in (1, 4, 5, 9, 14):  # within an epoch, at its end, and epochs later
        assert batches(split, 15 - first, first_step=first) == whole[first:]


@pytest.mark.parametrize("mode", MODES)
def test_order_is_a_function_of_the_seed(data_dir, mode):
    split = load(data_dir, mode)["train"]
    orders = [flat(batches(split, 4, seed=seed)) for seed in (0, 1, 2, 0)]
    assert orders[0] == orders[3]
    assert orders[0] != orders[1] != orders[2] != orders[0]


@pytest.mark.parametrize("buffer", [1, 5, 37, 1000])
def test_stream_with_any_window(data_dir, buffer):
    images, _ = everything(data_dir, "train")
    found = flat(batches(load(data_dir, "stream", buffer=buffer)["train"], 10))
    for start in (0, 37):
        assert sorted(found[start : start + 37]) == sorted(images)


@pytest.mark.parametrize(("buffer", "reads_on"), [(37, True), (36, False)])
def test_a_split_that_the_window_holds_is_read_once(tmp_path, buffer, reads_on):
    folder = pathlib.Path(write_toy_dataset(tmp_path / "toy", counts=COUNTS, size=4, num_shards=3))
    split = load(str(folder), "stream", buffer=buffer)["train"]
    feed = split.train_feed(global_batch_size=8, num_replicas=1, seed=0, first_step=0)
    feed.host_inputs()
    for shard in folder.glob("train-*"):
        shard.unlink()
    try:
        for _ in range(50):  # ten epochs, more than were read ahead
            feed.host_inputs()
    except tf.errors.NotFoundError as error:
        assert not reads_on
        assert "No such file" in str(feed.input_error(error))
    else:
        assert reads_on


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
        assert rows.images.shape == (batch, 4, 4, 3) and rows.labels.shape == (batch,)
        assert rows.images.dtype == np.uint8 and rows.labels.dtype == np.int32
        assert 1 <= rows.num_valid <= batch
        pairs = zip(rows.images[: rows.num_valid], rows.labels, strict=False)
        found += [(image.tobytes(), int(label)) for image, label in pairs]
        np.testing.assert_array_equal(rows.images[rows.num_valid :], rows.images[-1:].repeat(batch - rows.num_valid, 0))
    assert sorted(found) == sorted((image, label_of[image]) for image in images)


def test_both_modes_evaluate_in_the_same_order(data_dir):
    orders = [
        np.concatenate([rows.images[: rows.num_valid] for rows in load(data_dir, mode)["test"].eval_batches(2)])
        for mode in MODES
    ]
    np.testing.assert_array_equal(*orders)


def test_splits_that_the_data_set_lacks_are_left_out(tmp_path):
    folder = write_toy_dataset(tmp_path / "toy", counts={"train": 6}, size=4)
    assert list(load(folder)) == ["train"]


@pytest.mark.parametrize(("free_bytes", "mode"), [(4 * 52 * 48, "memory"), (4 * 52 * 48 - 4, "stream")])
def test_auto_takes_memory_where_all_splits_fit_into_a_quarter(data_dir, monkeypatch, caplog, free_bytes, mode):
    monkeypatch.setattr(dataset, "free_memory_bytes", lambda: free_bytes)
    with caplog.at_level("INFO", logger="tl_distributed"):
        assert {split.mode for split in load(data_dir, "auto").values()} == {mode}
    assert f"Input: {mode} mode" in caplog.text


# What is wrong with the files, by what is done to the data set's folder.


def _rewrite(path: pathlib.Path, records: list[bytes], *, fix_size: bool = True) -> None:
    """Writes a shard anew, with the manifest's size of it adapted: what only reading can find."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    if fix_size:
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


def _without_label(path: pathlib.Path) -> None:
    image = tf.train.Feature(bytes_list=tf.train.BytesList(value=[bytes(48)]))
    broken = tf.train.Example(features=tf.train.Features(feature={"image": image})).SerializeToString()
    _rewrite(path, [*_records(path)[:-1], broken])


FAULTS = {
    "bit flipped": (_flip_a_bit, "bad record .*verify_tfrecords names the shard"),
    "cut short": (_cut, "bad record .*verify_tfrecords names the shard"),
    "no label": (_without_label, "bad record .*label.*verify_tfrecords names the shard"),
    "no Example": (
        lambda path: _rewrite(path, [*_records(path)[:-1], b"\xff\xfe" * 40]),
        "bad record .*no tf.train.Example.*verify_tfrecords names the shard",
    ),
    "small image": (
        lambda path: _rewrite(path, [*_records(path)[:-1], encode_record(bytes(27), 0)]),
        "bad record .*verify_tfrecords names the shard",
    ),
    "record lost": (
        lambda path: _rewrite(path, _records(path)[:-1]),
        "do not hold as many records as dataset.json says; .*verify_tfrecords names the shard",
    ),
    "record twice": (
        lambda path: _rewrite(path, [*_records(path), _records(path)[0]]),
        "do not hold as many records as dataset.json says",
    ),
}


@pytest.fixture
def broken(tmp_path, request):
    """A data set whose second train shard has the fault that the test names."""
    folder = pathlib.Path(write_toy_dataset(tmp_path / "toy", counts=COUNTS, size=4, num_shards=3))
    FAULTS[request.param][0](folder / "train-00001-of-00003.tfrecord")
    return str(folder), FAULTS[request.param][1]


def assert_one_line(raised, data_dir: str) -> None:
    assert "\n" not in str(raised.value)
    assert f"{data_dir}/train-" in str(raised.value)


@pytest.mark.parametrize("broken", FAULTS, indirect=True)
def test_faults_are_found_when_a_split_is_loaded(broken):
    data_dir, message = broken
    with pytest.raises(UserError, match=message) as raised:
        load(data_dir, "memory")
    assert_one_line(raised, data_dir)


@pytest.mark.parametrize("broken", FAULTS, indirect=True)
def test_faults_are_found_when_a_stream_is_evaluated(broken):
    data_dir, message = broken
    split = load(data_dir, "stream")["train"]
    with pytest.raises(UserError, match=message) as raised:
        for _ in split.eval_batches(4):
            pass
    assert_one_line(raised, data_dir)


@pytest.mark.parametrize("buffer", [BUFFER, 12, 37])  # 12: a lost record leaves whole windows; 37: holds the split
@pytest.mark.parametrize("broken", FAULTS, indirect=True)
def test_faults_are_found_when_a_stream_trains(broken, buffer):
    data_dir, message = broken
    split = load(data_dir, "stream", buffer=buffer)["train"]
    feed = split.train_feed(global_batch_size=4, num_replicas=1, seed=0, first_step=0)

    @tf.function
    def read(step):
        return feed.replica_batch(step, 0, *feed.host_inputs())

    with pytest.raises((tf.errors.OpError, UnicodeDecodeError)) as caught:
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
        feed = load(data_dir, mode)["train"].train_feed(global_batch_size=4, num_replicas=1, seed=0, first_step=0)
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
        dataset.load_splits(data_dir, info, ("val",), input_mode="memory", shuffle_buffer_examples=1)


def test_split_that_does_not_fit_into_memory_is_named():  # ten seconds, for which TensorFlow hopes for memory
    huge = image_format((2**20, 2**20, 3))
    with pytest.raises(UserError, match=r"train-0 and the shards.*\(3,298,534,883 MB\) do not fit.*--input_mode"):
        dataset.open_split([["train-0"]], 1000, huge, mode="memory", shuffle_buffer_examples=1)


@pytest.mark.parametrize(("side", "expected"), [(32, 16384), (224, 2**29 // (224 * 224 * 3)), (20_000, 1)])
def test_a_window_of_large_images_holds_fewer_of_them(side, expected):
    """The flag counts examples, memory is bytes: 16,384 images of 512 px would be 52 GB with what surrounds them."""
    assert StreamSplit([["file"]], 10**6, image_format((side, side, 3)), 16384)._buffer_examples == expected
