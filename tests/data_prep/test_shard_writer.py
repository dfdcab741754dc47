"""The second pass: shards and indices against TensorFlow's own reader, for any number of threads, on little disk."""

import hashlib
import os
import threading

import numpy as np
import pytest
from toy_dataset import parse_examples

from data_prep import reading, shard_writer
from data_prep.id_file import IdFile
from data_prep.shard_plan import plan_shards
from data_prep.source import Chunk, Source
from data_prep.spill import NUM_BUCKETS, Spill
from tl_distributed.data import records
from tl_distributed.data.record_index import read_index
from tl_distributed.data.storing import StorageRule

SIZE, COUNT = 8, 101
RULE = StorageRule(storage="pixels", image_size=SIZE, fit="crop", seed=0)


class _Images(Source):
    name, class_names, splits = "images", tuple(map(str, range(300))), ("train",)

    def __init__(self, images):
        self.details, self.notes, self._images = {}, [], images

    def chunks(self, split, rule):
        for start in range(0, len(self._images), 60):
            rows = range(start, min(start + 60, len(self._images)))
            yield Chunk(self._images[rows.start : rows.stop], np.array(rows) % 300, [f"{row}.png" for row in rows])


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (COUNT, SIZE, SIZE, 3), dtype=np.uint8)


def write(folder, images, *, num_threads=2, num_shards=4, cut=90, write_shards=shard_writer.write_shards):
    """Returns (shards by split, rows by split in their order)."""
    folder.mkdir()
    with Spill(str(folder / "spill")) as spill, IdFile(str(folder / "ids")) as ids:
        index = reading.read_source(_Images(images), RULE, spill, ids)
        order = np.argsort(index.keys)
        orders = {"train": order[order < cut], "test": order[order >= cut]}
        (folder / "out").mkdir()
        plans = {split: plan_shards(rows, index.lengths, num_shards) for split, rows in orders.items()}
        return write_shards(str(folder / "out"), plans, index, spill, ids, num_threads=num_threads), orders


def read_raw(folder):
    return {path.name: path.read_bytes() for path in (folder / "out").iterdir()}


def test_records_of_a_split_go_on_from_shard_to_shard(images, tmp_path):
    import tensorflow as tf

    shards, orders = write(tmp_path / "a", images)
    assert [shard.num_records for shard in shards["train"]] == [23, 23, 22, 22]
    assert [shard.num_records for shard in shards["test"]] == [3, 3, 3, 2]
    for split, rows in orders.items():
        assert [shard.file for shard in shards[split]] == [records.shard_name(split, n, 4) for n in range(4)]
        paths = [str(tmp_path / "a/out" / shard.file) for shard in shards[split]]
        found = parse_examples(list(tf.data.TFRecordDataset(paths).as_numpy_iterator()))
        assert [image.numpy() for image in found["image"]] == [images[row].tobytes() for row in rows]
        assert [name.numpy().decode() for name in found["id"]] == [f"{row}.png" for row in rows]
        np.testing.assert_array_equal(found["label"], rows % 300)
        assert set(found["height"].numpy()) == set(found["width"].numpy()) == {SIZE}


def test_the_index_finds_each_record(images, tmp_path):
    import tensorflow as tf

    shards, _ = write(tmp_path / "a", images)
    for shard in (*shards["train"], *shards["test"]):
        path = str(tmp_path / "a/out" / shard.file)
        offsets, lengths = read_index(path, num_records=shard.num_records, num_bytes=shard.num_bytes)
        content = (tmp_path / "a/out" / shard.file).read_bytes()
        expected = list(tf.data.TFRecordDataset(path).as_numpy_iterator())
        assert [content[at : at + size] for at, size in zip(offsets, lengths, strict=True)] == expected


def test_bytes_do_not_depend_on_the_number_of_threads_or_the_block(images, tmp_path, monkeypatch):
    write(tmp_path / "one", images, num_threads=1)
    monkeypatch.setattr(shard_writer, "BLOCK_BYTES", 300)
    write(tmp_path / "five", images, num_threads=5)
    assert read_raw(tmp_path / "one") == read_raw(tmp_path / "five")


def test_shards_are_described_as_they_lie_on_the_disk(images, tmp_path):
    shards, _ = write(tmp_path / "a", images)
    for shard in shards["train"]:
        data = (tmp_path / "a/out" / shard.file).read_bytes()
        assert (shard.num_bytes, shard.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_more_shards_than_records_gives_empty_shards(images, tmp_path):
    shards, _ = write(tmp_path / "a", images, cut=99)
    assert [shard.num_records for shard in shards["test"]] == [1, 1, 0, 0]
    assert os.path.getsize(tmp_path / "a/out" / shards["test"][3].file) == 0


def test_what_is_written_is_gone_from_the_spilled_files(images, tmp_path, monkeypatch):
    """The disk never holds more than the data set and one of the spilled files."""
    most = []
    delete = Spill.delete

    def measured(spill, bucket):
        folders = [tmp_path / "a/spill", tmp_path / "a/out"]
        most.append(sum(path.stat().st_size for folder in folders for path in folder.iterdir()))
        delete(spill, bucket)

    monkeypatch.setattr(Spill, "delete", measured)
    images = np.random.default_rng(0).integers(0, 256, (2000, SIZE, SIZE, 3), dtype=np.uint8)
    write(tmp_path / "a", images, num_shards=1, cut=1500)
    assert len(most) == NUM_BUCKETS and not list((tmp_path / "a/spill").iterdir())
    written = sum(len(data) for data in read_raw(tmp_path / "a").values())
    assert max(most) < 1.1 * written


def test_shards_of_a_chosen_size():
    lengths = np.full(10_000, 60_000, np.int32)  # 600 MB
    assert [len(shard) for shard in plan_shards(np.arange(10_000), lengths, 0)] == [2000] * 5
    assert len(plan_shards(np.arange(10), lengths, 0)) == 1
    assert len(plan_shards(np.arange(4_000_000) % 10_000, lengths, 0)) == 1024


def test_failed_writer_leaves_no_thread_running(images, tmp_path):
    import tensorflow as tf

    def write_elsewhere(folder, *arguments, **settings):
        return shard_writer.write_shards(f"{folder}/no/such", *arguments, **settings)

    with pytest.raises(tf.errors.NotFoundError):
        write(tmp_path / "a", images, write_shards=write_elsewhere)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("writer")]
