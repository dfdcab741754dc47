"""Parsing batches of records: whatever the bytes are, what comes out is what TensorFlow's own parser makes of them."""

import numpy as np
import pytest
import tensorflow as tf

from tl_distributed.data import records

SHAPE = (2, 3, 3)
REFUSALS = (tf.errors.InvalidArgumentError, UnicodeDecodeError)  # the text of an error may quote the record's bytes
LABELS = [0, 1, 127, 128, 129, 300, 16_383, 16_384, 1_000_000, 2**31 - 1]


def parse_by_tensorflow(serialized: list[bytes], shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    spec = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}
    parsed = tf.io.parse_example(serialized, spec)
    pixels = [np.frombuffer(image, np.uint8).reshape(shape) for image in parsed["image"].numpy()]
    return np.stack(pixels), parsed["label"].numpy()


def images_of(shape: tuple[int, int, int], count: int) -> list[bytes]:
    rng = np.random.default_rng(count)
    return [rng.integers(0, 256, shape, dtype=np.uint8).tobytes() for _ in range(count)]


def assert_same(serialized: list[bytes], shape: tuple[int, int, int] = SHAPE) -> None:
    images, labels = tf.function(lambda rows: records.parse_records(rows, shape))(tf.constant(serialized))
    expected_images, expected_labels = parse_by_tensorflow(serialized, shape)
    assert images.dtype == tf.uint8 and labels.dtype == tf.int32
    np.testing.assert_array_equal(images, expected_images)
    np.testing.assert_array_equal(labels, expected_labels)


# Lengths of fields are written in one byte below 128 and in two below 16,384: sizes of images around both.
@pytest.mark.parametrize("shape", [SHAPE, *((1, width, 3) for width in (*range(24, 44), *range(5440, 5464)))])
def test_records_of_any_label_and_size(shape):
    for labels in ([5, 0, 127], LABELS, [128, 200]):
        serialized = [records.encode_record(i, n) for i, n in zip(images_of(shape, len(labels)), labels, strict=True)]
        assert_same(serialized, shape)


def foreign_record(pixels: bytes, label: int) -> bytes:
    """Returns a record with one more feature: an `Example` that another writer might make."""
    record = tf.train.Example.FromString(records.encode_record(pixels, label))
    record.features.feature["width"].int64_list.value.append(3)
    return record.SerializeToString(deterministic=True)


def test_records_of_other_writers():
    pixels = images_of(SHAPE, 3)
    own = records.encode_record(pixels[0], 7)
    assert_same([foreign_record(pixels[1], 9), foreign_record(pixels[2], 300)])
    assert_same([own, foreign_record(pixels[1], 9)])


def test_own_records_take_the_short_way_and_others_do_not(monkeypatch):
    monkeypatch.setattr(records, "_parse_any", lambda rows, shape: (tf.zeros([2, *shape], tf.uint8), tf.fill([2], -1)))
    pixels = images_of(SHAPE, 2)
    own = [records.encode_record(pixels[0], 7), records.encode_record(pixels[1], 300)]
    assert records.parse_records(tf.constant(own), SHAPE)[1].numpy().tolist() == [7, 300]
    mixed = [own[0], foreign_record(pixels[1], 300)]
    assert records.parse_records(tf.constant(mixed), SHAPE)[1].numpy().tolist() == [-1, -1]


@pytest.mark.parametrize("label", [5, 300])
def test_a_changed_byte_anywhere_is_judged_as_tensorflow_judges_it(label):
    pixels = images_of(SHAPE, 2)
    record, other = records.encode_record(pixels[0], label), records.encode_record(pixels[1], 1)
    parse = tf.function(lambda rows: records.parse_records(rows, SHAPE))
    judged_bad = 0
    for position in range(len(record)):
        for change in (0x01, 0x80):
            changed = bytearray(record)
            changed[position] ^= change
            serialized = [other, bytes(changed)]
            try:
                expected = parse_by_tensorflow(serialized, SHAPE)
            except (*REFUSALS, ValueError):  # or not as many pixels
                judged_bad += 1
                with pytest.raises(REFUSALS):
                    parse(tf.constant(serialized))
            else:
                found = parse(tf.constant(serialized))
                np.testing.assert_array_equal(found[0], expected[0])
                np.testing.assert_array_equal(found[1], expected[1].astype(np.int32))
    assert judged_bad > 10  # the bytes around the pixels matter


@pytest.mark.parametrize("cut", [1, 2, 10])
def test_records_that_are_too_short_or_too_long(cut):
    own = records.encode_record(images_of(SHAPE, 1)[0], 5)
    for broken in (own[:-cut], own + b"\xff" * cut, b""):
        with pytest.raises(REFUSALS):
            records.parse_records(tf.constant([own, broken]), SHAPE)
