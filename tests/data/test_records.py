"""The schema: what TensorFlow's own parser makes of a record, and what ours makes of any."""

import json

import numpy as np
import pytest
import tensorflow as tf
from toy_dataset import encode_version_1, write_toy_dataset

from tl_distributed.data import records
from tl_distributed.errors import UserError

SHAPE = (2, 3, 3)
REFUSALS = (tf.errors.InvalidArgumentError, UnicodeDecodeError)  # the text of an error may quote the record's bytes
LABELS = [0, 1, 127, 128, 16_384, 2**31 - 1]


def encode(pixels: bytes, label: int, name: bytes = b"train/a/1.png") -> bytes:
    return records.encode_example(pixels, label, id=name, height=SHAPE[0], width=SHAPE[1])


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (len(LABELS), *SHAPE), dtype=np.uint8)


def test_tensorflow_reads_each_feature():
    spec = {"image": tf.io.FixedLenFeature([], tf.string), "id": tf.io.FixedLenFeature([], tf.string)}
    spec |= {name: tf.io.FixedLenFeature([], tf.int64) for name in ("label", "height", "width")}
    record = records.encode_example(b"\xff\xd8picture", 300, id="train/é/1.jpg".encode(), height=4, width=70_000)
    found = tf.io.parse_single_example(record, spec)
    assert (found["image"].numpy(), found["id"].numpy().decode()) == (b"\xff\xd8picture", "train/é/1.jpg")
    assert [int(found[name]) for name in ("label", "height", "width")] == [300, 4, 70_000]


def test_the_same_record_is_always_the_same_bytes(pixels):
    assert encode(pixels[0].tobytes(), 7) == encode(pixels[0].tobytes(), 7)


@pytest.mark.parametrize("encoder", [encode, encode_version_1])
def test_pixels_of_both_versions_come_back(pixels, encoder):
    serialized = [encoder(image.tobytes(), label) for image, label in zip(pixels, LABELS, strict=True)]
    images, labels = tf.function(lambda rows: records.parse_pixels(rows, SHAPE))(tf.constant(serialized))
    assert images.dtype == tf.uint8 and labels.dtype == tf.int32
    np.testing.assert_array_equal(images, pixels)
    np.testing.assert_array_equal(labels, LABELS)


@pytest.mark.parametrize("cut", [1, 2, 10])
def test_records_that_are_too_short_or_too_long(pixels, cut):
    own = encode(pixels[0].tobytes(), 5)
    for broken in (own[:-cut], own + b"\xff" * cut, b"", encode(pixels[0].tobytes()[:-cut], 5)):
        with pytest.raises(REFUSALS):
            records.parse_pixels(tf.constant([own, broken]), SHAPE)


@pytest.mark.parametrize("name", ["train/cat/1.jpg", "caf\udce9.png", "漢"])
def test_ids_of_any_name_come_back(name):
    assert records.decode_id(records.encode_id(name)) == name


@pytest.mark.parametrize("schema_version", [1, 2])
def test_manifests_of_both_versions_are_read(tmp_path, schema_version):
    folder = write_toy_dataset(tmp_path / "toy", counts={"train": 4}, size=4, schema_version=schema_version)
    info = records.read_manifest(folder)
    assert (info.schema_version, info.storage, info.canvas_size, info.image_size) == (schema_version, "pixels", 4, 4)
    assert records.parse_manifest(info.to_json(), "x") == info
    assert ("storage" in json.loads(info.to_json())) == (schema_version == 2)


def test_description_that_an_editor_saved_in_another_encoding(tmp_path):
    info = records.read_manifest(write_toy_dataset(tmp_path / "toy", counts={"train": 4}, size=4))
    path = tmp_path / "toy/dataset.json"
    path.write_text(info.to_json(), encoding="utf-8-sig")  # with a byte order mark
    assert records.read_manifest(str(tmp_path / "toy")) == info
    path.write_text(info.to_json(), encoding="utf-16")
    with pytest.raises(UserError, match=r"dataset\.json: is not UTF-8"):
        records.read_manifest(str(tmp_path / "toy"))


@pytest.mark.parametrize("names", ["cat", ["a"], [1, 2], ["class_0", "class_0"], ["class_0", "renamed"]])
def test_class_names_that_do_not_fit_their_counts(tmp_path, names):
    info = records.read_manifest(write_toy_dataset(tmp_path / "toy", counts={"train": 4}, size=4))
    counted = list(info.splits["train"].counts_per_class)
    told = json.loads(info.to_json())
    told["class_names"] = [counted[0] if name == "class_0" else name for name in names] if names != "cat" else names
    with pytest.raises(UserError, match=r"x: not a data set description \(ValueError: (class_names|counts_per_class)"):
        records.parse_manifest(json.dumps(told), "x")


@pytest.mark.parametrize(("name", "value"), [("storage", "tiff"), ("fit", "stretch"), ("decoder", None)])
def test_what_version_2_must_say_is_checked(tmp_path, name, value):
    folder = write_toy_dataset(tmp_path / "toy", counts={"train": 4}, size=4)
    told = json.loads((tmp_path / "toy/dataset.json").read_text())
    with pytest.raises(UserError, match="not a data set description"):
        records.parse_manifest(json.dumps({**told, name: value}), folder)


@pytest.mark.parametrize(
    ("shapes", "expected"), [([(200, 300)], 336), ([(10, 10)], 224), ([(500, 375), (100, 1000)], 448), ([], 224)]
)
def test_the_canvas_holds_every_picture_up_to_two_to_one(shapes, expected):
    assert records.canvas_size(shapes, 224) == expected
