"""Damage of every kind is found and named."""

import dataclasses
import hashlib
import io
import json
import os
import re
import shlex

import numpy as np
import pytest
from image_files import class_files, write_folder
from PIL import Image
from toy_dataset import encode_version_1, parse_examples, write_shard

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
    """Replaces the records of SHARD by sound ones, and makes index and `dataset.json` agree with the file."""
    write_shard(data_dir / SHARD, serialized)
    data = (data_dir / SHARD).read_bytes()

    def edit(manifest):
        (shard,) = [shard for shard in manifest["splits"]["train"]["shards"] if shard["file"] == SHARD]
        shard.update(num_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())

    edit_manifest(data_dir, edit)


def record(image, label, *, name="train/x.png", height=8, width=8):
    return records.encode_example(image, label, id=name.encode(), height=height, width=width)


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
    ("changed", "words"),
    [
        (record(bytes(NUM_PIXELS - 1), 0), "has 191 bytes of pixels, an image of 8x8x3 has 192"),
        (record(bytes(NUM_PIXELS), 2), "has label 2, the 2 classes are 0 to 1"),
        (record(bytes(NUM_PIXELS), -1), "has label -1"),
        (record(bytes(NUM_PIXELS), 0, height=16, width=4), "says 16x4, its data set 8x8"),
        (encode_version_1(bytes(NUM_PIXELS), 0), "is not an image with a label, id, height and width"),
        (b"\xff\xff\xff", "is not an image with a label"),
        (b"", "is not an image with a label"),
    ],
)
def test_record_that_is_sound_but_wrong_is_named(data_dir, changed, words):
    serialized = read_serialized(data_dir)
    serialized[5] = changed
    rewrite_shard(data_dir, serialized)
    fails(data_dir, f"{SHARD}: record 5 {re.escape(words)}")


def test_id_that_is_there_twice_is_named(data_dir):
    serialized = read_serialized(data_dir)
    example = parse_examples(serialized[2:3])
    label = int(parse_examples(serialized[5:6])["label"][0])
    serialized[5] = record(example["image"][0].numpy(), label, name=example["id"][0].numpy().decode())
    rewrite_shard(data_dir, serialized)
    fails(data_dir, rf"{SHARD}: the id of record 5 is there twice, also in record 2 of .*{SHARD}")


def test_ids_in_another_order_than_their_records_are_named(data_dir):
    serialized = read_serialized(data_dir)
    parsed = parse_examples(serialized[5:6])
    serialized[5] = record(parsed["image"][0].numpy(), int(parsed["label"][0]), name="train/other.png")
    rewrite_shard(data_dir, serialized)
    fails(data_dir, r"ids-train\.jsonl: line 14 is not the id of that record")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: path.unlink(), r"train-00001-of-00002\.tfrecord\.index is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-8]), r"\.index: 56 bytes, of 8 records"),
        (lambda path: path.write_bytes(b"\x01" + path.read_bytes()[1:]), r"\.index: no index of a shard"),
        (
            lambda path: path.write_bytes(path.read_bytes()[:16] + b"\x01" + path.read_bytes()[17:]),
            r"\.index: record 2 does not begin where it says",
        ),
    ],
)
def test_damaged_index_is_named(data_dir, change, words):
    change(data_dir / f"{SHARD}.index")
    fails(data_dir, words)


@pytest.fixture
def jpegs(tmp_path):
    """A data set of whole pictures, 8 x 12 pixels; all of SHARD's."""
    files = {
        f"train/{kind}/{number}.png": png_of(100 * first + number, 8, 12)
        for first, kind in enumerate(("cat", "dog"))
        for number in range(8)
    }
    config = BuildConfig(
        source="image_folder", input=write_folder(tmp_path / "wide", files), image_size=8, storage="jpeg",
        num_shards=2, val_fraction=0, output_dir=str(tmp_path / "jpegs"),
    )  # fmt: skip
    build.build(config)
    return tmp_path / "jpegs"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image": lambda image: image[:-60]}, "record 3 holds a picture that TensorFlow cannot decode"),
        ({"image": lambda image: b"picture"}, "record 3 holds a picture that TensorFlow cannot decode"),
        ({"height": lambda _: 12, "width": lambda _: 8}, "record 3 says 12x8, its picture is 8x12"),
    ],
)
def test_picture_that_does_not_decode_is_named(jpegs, change, words):
    assert verify(str(jpegs)).canvas_size == 12
    serialized = read_serialized(jpegs)
    one = {name: value[0].numpy() for name, value in parse_examples(serialized[3:4]).items()}
    one |= {name: edit(one[name]) for name, edit in change.items()}
    serialized[3] = record(
        one["image"], int(one["label"]), name=one["id"].decode(), height=int(one["height"]), width=int(one["width"])
    )
    rewrite_shard(jpegs, serialized)
    fails(jpegs, words)


def test_canvas_that_does_not_hold_the_pictures_is_named(jpegs):
    edit_manifest(jpegs, lambda manifest: manifest.update(canvas_size=8))
    fails(jpegs, "canvas_size is 8, its pictures want 12")


def png_of(seed, height, width):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


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
    (tmp_path / "empty").mkdir()
    fails(tmp_path / "empty", "an unfinished build")


def test_folder_of_pictures_in_place_of_a_data_set_is_told_how_to_become_one(tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / "a folder" / name).mkdir(parents=True)
    flags = " ".join(
        f"--{flag}={shlex.quote(f'{tmp_path}/{name}')}"
        for flag, name in (("input", "a folder"), ("output_dir", "a folder_records"))
    )
    fails(tmp_path / "a folder", f"'ant' and 1 more.*--source=image_folder {flags}, ")


def test_folder_above_data_sets_names_them(data_dir):
    data_dir = data_dir.rename(data_dir.parent / "a set")
    fails(data_dir.parent, f"a folder of this one.*name --data_dir={shlex.quote(str(data_dir))}$")


def test_manifest_survives_writing_and_reading(data_dir):
    info = records.read_manifest(str(data_dir))
    assert records.parse_manifest(info.to_json(), "x") == info
    names = ("chat", "größer")
    splits = {
        name: dataclasses.replace(
            split, counts_per_class=dict(zip(names, split.counts_per_class.values(), strict=True))
        )
        for name, split in info.splits.items()
    }
    other = dataclasses.replace(info, class_names=names, splits=splits, image_shape=(4, 5, 3))
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
