"""Damage of every kind is found and named."""

import dataclasses
import hashlib
import json
import os
import re

import numpy as np
import pytest
from image_files import class_files, write_folder

from data_prep import build, verify_tfrecords
from data_prep.config import BuildConfig, VerifyConfig
from tl_distributed.data import records
from tl_distributed.data.verify import verify
from tl_distributed.errors import UserError
from tl_distributed.settings.command import run_command

SHARD = "train-00001-of-00002.tfrecord"
RECORDS_IN_SHARD, NUM_PIXELS = 8, 8 * 8 * 3


@pytest.fixture
def data_dir(tmp_path):
    images = write_folder(tmp_path / "images", class_files({"train/cat": 10, "train/dog": 10, "test/cat": 3}))
    config = BuildConfig(
        source="image_folder", input=images, image_size=8, num_shards=2, output_dir=str(tmp_path / "set")
    )
    build.build(config)
    return tmp_path / "set"


def edit_manifest(data_dir, edit):
    manifest = json.loads((data_dir / "dataset.json").read_text())
    edit(manifest)
    (data_dir / "dataset.json").write_text(json.dumps(manifest))


def rewrite_shard(data_dir, serialized):
    """Replaces the records of SHARD by sound ones, and makes `dataset.json` agree with the file."""
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(data_dir / SHARD)) as writer:
        for record in serialized:
            writer.write(record)
    data = (data_dir / SHARD).read_bytes()

    def edit(manifest):
        (shard,) = [shard for shard in manifest["splits"]["train"]["shards"] if shard["file"] == SHARD]
        shard.update(num_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())

    edit_manifest(data_dir, edit)


def read_serialized(data_dir):
    import tensorflow as tf

    return list(tf.data.TFRecordDataset(str(data_dir / SHARD)).as_numpy_iterator())


def fails(data_dir, pattern):
    with pytest.raises(UserError, match=pattern) as error:
        verify(str(data_dir))
    assert "\n" not in str(error.value)


def test_sound_data_set_passes_and_the_command_prints_its_counts(data_dir, capsys):
    with pytest.raises(SystemExit) as exit_info:
        run_command(verify_tfrecords.main, VerifyConfig, "", [f"--data_dir={data_dir}"])
    out = capsys.readouterr().out
    assert exit_info.value.code == 0
    assert ["images", "16", "4", "3"] in [line.split() for line in out.splitlines()]
    assert verify(str(data_dir) + "/") == records.read_manifest(str(data_dir))


@pytest.mark.parametrize("record", [0, 3, 7])
@pytest.mark.parametrize("offset", [2, 9, 100, -1])
def test_flipped_bit_names_shard_and_record(data_dir, record, offset):
    """In the length, its CRC, the content, and the CRC of that."""
    data = bytearray((data_dir / SHARD).read_bytes())
    record_bytes = len(data) // RECORDS_IN_SHARD
    data[(record + (offset < 0)) * record_bytes + offset] ^= 0x10
    (data_dir / SHARD).write_bytes(data)
    fails(data_dir, rf"{SHARD}: record {record} is damaged")


def test_command_exits_with_one_line(data_dir, capsys):
    (data_dir / SHARD).write_bytes((data_dir / SHARD).read_bytes()[:-5])
    with pytest.raises(SystemExit) as exit_info:
        run_command(verify_tfrecords.main, VerifyConfig, "", [f"--data_dir={data_dir}"])
    assert exit_info.value.code == 2
    assert f"error: {data_dir}/{SHARD}: record 7 is damaged" in capsys.readouterr().err


def test_missing_and_additional_records_and_shards_are_named(data_dir):
    serialized = read_serialized(data_dir)
    rewrite_shard(data_dir, serialized[:-1])
    fails(data_dir, rf"{SHARD}: 7 records, dataset\.json says 8")
    rewrite_shard(data_dir, [*serialized, serialized[0]])
    fails(data_dir, rf"{SHARD}: 9 records, dataset\.json says 8")
    os.rename(data_dir / SHARD, data_dir / "val-00007-of-00009.tfrecord")
    fails(data_dir, f"{SHARD} is missing")


def test_undeclared_shard_is_named(data_dir):
    (data_dir / "train-00002-of-00003.tfrecord").write_bytes(b"")
    fails(data_dir, r"train-00002-of-00003\.tfrecord is there but not in dataset\.json")


def test_sound_records_in_another_order_are_not_the_declared_ones(data_dir):
    import tensorflow as tf

    serialized = read_serialized(data_dir)
    with tf.io.TFRecordWriter(str(data_dir / SHARD)) as writer:
        for record in reversed(serialized):
            writer.write(record)
    fails(data_dir, f"{SHARD}: its SHA-256 is not that of dataset.json")


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (records.encode_record(bytes(NUM_PIXELS - 1), 0), "has 191 bytes of pixels, an image of 8x8x3 has 192"),
        (records.encode_record(bytes(NUM_PIXELS), 2), "has label 2, the 2 classes are 0 to 1"),
        (records.encode_record(bytes(NUM_PIXELS), -1), "has label -1"),
        (b"\xff\xff\xff", "is not an image with a label"),
        (b"", "is not an image with a label"),
    ],
)
def test_record_that_is_sound_but_wrong_is_named(data_dir, record, words):
    serialized = read_serialized(data_dir)
    serialized[5] = record
    rewrite_shard(data_dir, serialized)
    fails(data_dir, f"{SHARD}: record 5 {re.escape(words)}")


def test_counts_that_do_not_add_up_are_named(data_dir):
    def swap(manifest):
        manifest["splits"]["train"]["counts_per_class"] = {"cat": 7, "dog": 9}

    edit_manifest(data_dir, swap)
    fails(data_dir, r"split train holds 8 of class 'cat', counts_per_class says 7")

    def add(manifest):
        manifest["splits"]["train"]["counts_per_class"] = {"cat": 8, "dog": 8}
        manifest["splits"]["val"]["num_examples"] = 5

    edit_manifest(data_dir, add)
    fails(data_dir, r"split val holds 4 records, num_examples says 5")


def test_a_folder_that_cannot_be_reached_is_no_unfinished_build(data_dir, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    fails(tmp_path / "file" / "ds", r"ds/dataset.json cannot be reached \(not a directory\)")
    fails(tmp_path / "loop", r"loop/dataset.json cannot be reached \(too many levels of symbolic links\)")


def test_unfinished_build_and_wrong_folder_are_told_apart(data_dir, tmp_path):
    os.remove(data_dir / "dataset.json")
    fails(data_dir, "an unfinished build")
    fails(tmp_path / "nowhere", "no such folder")
    (tmp_path / "begun.partial").mkdir()
    fails(tmp_path / "begun", "an unfinished build")


def test_manifest_survives_writing_and_reading(data_dir):
    info = records.read_manifest(str(data_dir))
    assert records.parse_manifest(info.to_json(), "x") == info
    other = dataclasses.replace(info, class_names=("chat", "größer"), image_shape=(4, 5, 3))
    assert records.parse_manifest(other.to_json(), "x") == other


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda manifest: manifest.update(schema_version=99), "schema version 99"),
        (lambda manifest: manifest.pop("class_names"), "class_names"),
        (lambda manifest: manifest.update(image_shape=[8, 8]), "not a data set description"),
        (lambda manifest: manifest["splits"].update(train=None), "not a data set description"),
    ],
)
def test_damaged_manifest_is_named(data_dir, edit, words):
    edit_manifest(data_dir, edit)
    fails(data_dir, words)


def test_manifest_that_is_no_json_is_named(data_dir):
    (data_dir / "dataset.json").write_text("{")
    fails(data_dir, "not a data set description")


def test_reader_returns_what_was_encoded():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    serialized = [records.encode_record(image.tobytes(), label) for label, image in enumerate(pixels)]
    images, labels = records.parse_records(serialized, (4, 5, 3))
    np.testing.assert_array_equal(images, pixels)
    np.testing.assert_array_equal(labels, [0, 1, 2])
