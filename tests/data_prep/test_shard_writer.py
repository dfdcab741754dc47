"""Shards: the bytes against the library's own serialiser and reader, for any number of threads."""

import hashlib
import os
import threading

import numpy as np
import pytest

from data_prep import shard_writer
from data_prep.spill import PixelFile
from tl_distributed.data import records

IMAGE_BYTES = 8 * 8 * 3


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (101, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def pixel_file(images, tmp_path):
    with PixelFile(str(tmp_path / "pixels.raw"), IMAGE_BYTES) as file:
        file.append(images[:60])
        file.append(images[60:])
        yield file


def write(folder, pixel_file, *, num_writers, orders, num_shards=4):
    folder.mkdir()
    labels = np.arange(101) % 300
    return shard_writer.write_shards(
        str(folder),
        orders,
        labels,
        pixel_file,
        image_bytes=IMAGE_BYTES,
        num_shards=num_shards,
        num_writers=num_writers,
    )


def read_raw(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("label", [0, 1, 9, 127, 128, 999, 21840])
@pytest.mark.parametrize("fill", [None, 0, 255])
def test_encoder_equals_the_library_byte_for_byte(label, fill):
    pixels = np.random.default_rng(label).integers(0, 256, IMAGE_BYTES, dtype=np.uint8)
    if fill is not None:
        pixels[:] = fill
    encoder = shard_writer.RecordEncoder(IMAGE_BYTES)
    assert encoder.encode(pixels.tobytes(), label) == records.encode_record(pixels.tobytes(), label)


def test_pixel_file_gives_back_any_images_in_the_order_asked(images, pixel_file):
    indices = np.array([100, 3, 3, 59, 60, 0])
    assert pixel_file.read(indices) == [images[i].tobytes() for i in indices]


def test_records_go_round_robin_and_read_back(images, pixel_file, tmp_path):
    import tensorflow as tf

    order = np.random.default_rng(1).permutation(101)
    orders = {"train": order[:90], "test": order[90:]}
    shards = write(tmp_path / "out", pixel_file, num_writers=2, orders=orders)
    assert [shard.num_records for shard in shards["train"]] == [23, 23, 22, 22]
    assert [shard.num_records for shard in shards["test"]] == [3, 3, 3, 2]
    for split, members in orders.items():
        for index, shard in enumerate(shards[split]):
            assert shard.file == records.shard_name(split, index, 4)
            path = str(tmp_path / "out" / shard.file)
            serialized = list(tf.data.TFRecordDataset(path).as_numpy_iterator())
            read_images, read_labels = records.parse_records(serialized, (8, 8, 3))
            np.testing.assert_array_equal(read_images, images[members[index::4]])
            np.testing.assert_array_equal(read_labels, members[index::4] % 300)


def test_bytes_do_not_depend_on_the_number_of_writers_or_the_block(pixel_file, tmp_path, monkeypatch):
    orders = {"train": np.random.default_rng(1).permutation(101)}
    write(tmp_path / "one", pixel_file, num_writers=1, orders=orders)
    monkeypatch.setattr(shard_writer, "BLOCK_BYTES", 5 * IMAGE_BYTES)
    write(tmp_path / "five", pixel_file, num_writers=5, orders=orders)
    assert read_raw(tmp_path / "one") == read_raw(tmp_path / "five")


def test_shards_are_described_as_they_lie_on_the_disk(pixel_file, tmp_path):
    (shards,) = write(tmp_path / "out", pixel_file, num_writers=2, orders={"val": np.arange(7)}).values()
    for shard in shards:
        data = (tmp_path / "out" / shard.file).read_bytes()
        assert (shard.num_bytes, shard.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_more_shards_than_records_gives_empty_shards(pixel_file, tmp_path):
    (shards,) = write(tmp_path / "out", pixel_file, num_writers=2, orders={"val": np.arange(2)}).values()
    assert [shard.num_records for shard in shards] == [1, 1, 0, 0]
    assert os.path.getsize(tmp_path / "out" / shards[3].file) == 0


def test_failed_writer_leaves_no_thread_running(pixel_file, tmp_path):
    import tensorflow as tf

    with pytest.raises(tf.errors.NotFoundError):
        write(tmp_path / "out", pixel_file, num_writers=2, orders={"no/such/folder": np.arange(50)})
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("writer")]
