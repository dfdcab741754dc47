"""Indices of shards: what they say against the file itself, and what is no index."""

import numpy as np
import pytest
import tensorflow as tf

from tl_distributed.data.record_index import index_name, read_index, write_index
from tl_distributed.errors import UserError

RECORDS = [b"", b"a", bytes(1000), b"xyz" * 7]


@pytest.fixture
def shard(tmp_path):
    path = str(tmp_path / "train-00000-of-00001.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for record in RECORDS:
            writer.write(record)
    write_index(path, np.array([len(record) for record in RECORDS]))
    return path


def size_of(path: str) -> int:
    return tf.io.gfile.stat(path).length


def test_each_record_is_where_the_index_says(shard):
    offsets, lengths = read_index(shard, num_records=4, num_bytes=size_of(shard))
    with open(shard, "rb") as file:
        content = file.read()
    assert [content[at : at + length] for at, length in zip(offsets, lengths, strict=True)] == RECORDS
    starts = np.fromfile(index_name(shard), "<u8")
    for start, record in zip(starts, RECORDS, strict=True):  # the frame begins with the record's length
        assert int.from_bytes(content[start : start + 8], "little") == len(record)


def test_empty_shard(tmp_path):
    write_index(str(tmp_path / "s"), np.zeros(0, np.int64))
    offsets, lengths = read_index(str(tmp_path / "s"), num_records=0, num_bytes=0)
    assert offsets.tolist() == lengths.tolist() == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda starts: starts[:-1], "24 bytes, of 4 records it has 8 each"),
        (lambda starts: starts + np.uint64(1), "no index of a shard of"),
        (lambda starts: starts[[0, 2, 1, 3]], "no index of a shard of"),
        (lambda starts: np.concatenate([starts[:3], starts[3:] + np.uint64(10**6)]), "no index of a shard of"),
        (lambda starts: np.concatenate([starts[:3], np.full(1, 2**64 - 9, np.uint64)]), "no index of a shard of"),
    ],
)
def test_what_is_no_index_is_named(shard, change, words):
    change(np.fromfile(index_name(shard), "<u8")).astype("<u8").tofile(index_name(shard))
    with pytest.raises(UserError, match=rf"{index_name(shard)}: {words}.*--overwrite"):
        read_index(shard, num_records=4, num_bytes=size_of(shard))


def test_a_missing_index_is_named(tmp_path):
    with pytest.raises(UserError, match=r"s\.index: missing.*--overwrite"):
        read_index(str(tmp_path / "s"), num_records=1, num_bytes=20)
