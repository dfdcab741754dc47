"""Memory, device and disk give the same batches, bit for bit, on any number of replicas and of workers."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from toy_dataset import write_toy_dataset

from tl_distributed.data.dataset import load_splits
from tl_distributed.data.device_split import DeviceSplit
from tl_distributed.data.order import BatchOrder
from tl_distributed.data.records import read_manifest
from tl_distributed.runtime.strategies import mirrored_strategy

EXAMPLES, BATCH, STEPS = 203, 8, 50  # an epoch ends within the 26th batch
SIZE, CLASSES = 6, 3


@pytest.fixture(scope="module")
def data_dirs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    shared = {"counts": {"train": EXAMPLES}, "size": SIZE, "num_shards": 3}
    return {
        "pixels": write_toy_dataset(folder / "pixels", **shared),
        "original": write_toy_dataset(folder / "original", **shared, storage="original", aspect=1.5),
    }


def strategy_of(replicas: int) -> tf.distribute.Strategy:
    devices = [f"CPU:{1 + index}" for index in range(replicas)]
    return mirrored_strategy(devices) if replicas > 1 else tf.distribute.OneDeviceStrategy(devices[0])


def batches_of_worker(split, order: BatchOrder, strategy, *, first_step: int) -> list[list[np.ndarray]]:
    """Returns the parts of global batches that a process's replicas are given, in the graph and in their contexts."""
    feed = split.train_feed(order, first_step=first_step)

    @tf.function
    def read(step):
        def in_replica(*host_inputs):
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group + order.own_replicas.start
            return [part for part in feed.replica_batch(step, replica, *host_inputs) if part is not None]

        return strategy.run(in_replica, args=feed.host_inputs())

    found = []
    for step in range(first_step, STEPS):
        parts = read(tf.constant(step, tf.int64))
        found.append([np.concatenate(strategy.experimental_local_results(part)) for part in parts])
    return found


def global_batches(data_dir, mode, *, replicas=1, workers=1, first_step=0, **order) -> list[list[np.ndarray]]:
    """Puts the workers' parts together; a worker is a process in truth, here a turn."""
    parts = []
    for worker in range(workers):
        strategy = strategy_of(replicas)
        split = load_splits(
            data_dir, read_manifest(data_dir), ("train",), input_mode="memory" if mode == "device" else mode
        )["train"]
        if mode == "device":
            split = DeviceSplit(split, strategy)
        own = BatchOrder(
            global_batch_size=BATCH, num_replicas=replicas * workers, seed=1,
            local_replicas=range(worker * replicas, (worker + 1) * replicas), **order,
        )  # fmt: skip
        parts.append(batches_of_worker(split, own, strategy, first_step=first_step))
    return [[np.concatenate(pieces) for pieces in zip(*step, strict=True)] for step in zip(*parts, strict=True)]


@pytest.fixture(scope="module", params=["pixels", "original"])
def case(request, data_dirs):
    """A data set, and its batches in memory mode on one device."""
    data_dir = data_dirs[request.param]
    return data_dir, global_batches(data_dir, "memory")


def assert_same(found, expected):
    assert len(found) == len(expected)
    for step, (one, other) in enumerate(zip(found, expected, strict=True)):
        for part, wanted in zip(one, other, strict=True):
            assert part.dtype == wanted.dtype
            np.testing.assert_array_equal(part, wanted, err_msg=f"step {step}")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("replicas", [1, 2, 4])
@pytest.mark.parametrize("mode", ["memory", "device", "disk"])
def test_batches_are_those_of_memory_mode_on_one_device(case, mode, replicas, workers):
    data_dir, expected = case
    assert_same(global_batches(data_dir, mode, replicas=replicas, workers=workers), expected)


@pytest.mark.parametrize("mode", ["memory", "device", "disk"])
def test_blocks_and_resuming_change_nothing_of_that(case, mode, monkeypatch):
    data_dir, expected = case
    monkeypatch.setattr("tl_distributed.data.order.BLOCK_RECORDS", 10)
    inside = global_batches(data_dir, "memory", shuffle_blocks=3)
    assert any((one[0] != other[0]).any() for one, other in zip(inside, expected, strict=True))
    assert_same(global_batches(data_dir, mode, replicas=2, first_step=17, shuffle_blocks=3), inside[17:])


def test_the_batches_are_the_pictures(case):
    """Against the files: what lies at the top left of each canvas, of the size that is said, with its label."""
    data_dir, expected = case
    info = read_manifest(data_dir)
    pictures: dict[bytes, int] = {}
    for shard in info.splits["train"].shards:
        for record in tf.data.TFRecordDataset(f"{data_dir}/{shard.file}"):
            features = tf.train.Example.FromString(record.numpy()).features.feature
            (image,) = features["image"].bytes_list.value
            picture = image if info.storage == "pixels" else tf.io.decode_png(image).numpy().tobytes()
            pictures[picture] = features["label"].int64_list.value[0]
    seen = []
    for images, labels, *sizes in expected:
        for row, (image, label) in enumerate(zip(images, labels, strict=True)):
            height, width = sizes[0][row] if sizes else image.shape[:2]
            assert not image[height:].any() and not image[:, width:].any()
            picture = image[:height, :width].tobytes()
            assert pictures[picture] == label
            seen.append(picture)
    assert set(seen[:EXAMPLES]) == set(pictures) and len(pictures) == EXAMPLES
    if info.storage == "original":
        assert {tuple(size) for size in np.concatenate([batch[2] for batch in expected])} == {(6, 9), (9, 6)}


def test_a_worker_reads_its_own_records_and_no_others(data_dirs):
    whole = 0
    read = []
    data_dir = data_dirs["pixels"]
    for replicas in (range(4), *(range(worker, worker + 1) for worker in range(4))):
        split = load_splits(data_dir, read_manifest(data_dir), ("train",), input_mode="disk")["train"]
        order = BatchOrder(global_batch_size=BATCH, num_replicas=4, seed=1, local_replicas=replicas)
        feed = split.train_feed(order, first_step=0)
        for _ in range(400):
            feed.host_inputs()
        if len(replicas) == 4:
            whole = split.bytes_read
        else:
            read.append(split.bytes_read)
    assert all(abs(part - whole / 4) < 0.02 * whole / 4 for part in read), (whole, read)  # four batches may be ahead


@pytest.mark.parametrize("mode", ["memory", "disk"])
@pytest.mark.parametrize("storage", ["pixels", "original"])
def test_a_worker_evaluates_its_own_records_and_reads_no_others(data_dirs, mode, storage):
    def opened():
        data_dir = data_dirs[storage]
        return load_splits(data_dir, read_manifest(data_dir), ("train",), input_mode=mode)["train"]

    split = opened()
    expected = list(split.eval_batches(16))
    assert sum(batch.num_valid for batch in expected) == EXAMPLES
    workers, read = [], []
    for worker in range(4):
        own = opened()
        workers.append(list(own.eval_batches(16, rows=slice(4 * worker, 4 * worker + 4))))
        read.append(getattr(own, "bytes_read", 0))
    for whole, *parts in zip(expected, *workers, strict=True):
        assert {part.num_valid for part in parts} == {whole.num_valid}
        for name in ("images", "labels", *(["sizes"] if whole.sizes is not None else [])):
            pieces = [getattr(part, name) for part in parts]
            assert all(len(piece) == 4 for piece in pieces)
            np.testing.assert_array_equal(np.concatenate(pieces), getattr(whole, name))
    if mode == "disk":
        assert sum(read) == split.bytes_read
        if storage == "pixels":
            assert all(abs(part - split.bytes_read / 4) < 0.02 * split.bytes_read / 4 for part in read), read


def test_evaluation_of_encoded_pictures_is_the_same_in_both_modes(data_dirs):
    data_dir = data_dirs["original"]
    found = {}
    for mode in ("memory", "disk"):
        split = load_splits(data_dir, read_manifest(data_dir), ("train",), input_mode=mode)["train"]
        found[mode] = [dataclasses.astuple(batch) for batch in split.eval_batches(50)]
    for one, other in zip(found["memory"], found["disk"], strict=True):
        for part, wanted in zip(one, other, strict=True):
            np.testing.assert_array_equal(part, wanted)
