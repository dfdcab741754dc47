"""The reader of a record's few bytes, against protobuf's own parser."""

import numpy as np
import pytest
import tensorflow as tf

from tl_distributed.data.example_fields import find_bytes_and_number
from tl_distributed.data.records import encode_example


def find(record: bytes):
    return find_bytes_and_number(memoryview(record), b"image", b"label")


@pytest.mark.parametrize("length", [0, 1, 127, 128, 16_383, 16_384, 150_528, 3_000_000])
@pytest.mark.parametrize("label", [0, 1, 127, 128, 16_384, 2**31 - 1])
def test_finds_what_protobuf_finds(length, label):
    image = np.random.default_rng(length).bytes(length)
    for name in (b"", b"a" * 200, "ä/b".encode()):
        record = encode_example(image, label, id=name, height=300, width=2)
        start, end, number = find(record)
        assert record[start:end] == image and number == label


def test_features_may_lie_in_any_order_and_beside_others():
    example = tf.train.Example()
    example.features.feature["zzz"].float_list.value.extend([1.0, 2.0])
    example.features.feature["label"].int64_list.value.append(3)
    example.features.feature["labels"].int64_list.value.extend([3, 4])
    example.features.feature["image"].bytes_list.value.append(b"pixels")
    for deterministic in (True, False):
        record = example.SerializeToString(deterministic=deterministic)
        start, end, number = find(record)
        assert record[start:end] == b"pixels" and number == 3


@pytest.mark.parametrize(
    ("images", "labels"),
    [([], [1]), ([b"a", b"b"], [1]), ([b"a"], []), ([b"a"], [1, 2]), (None, [1]), ([b"a"], None)],
)
def test_anything_else_than_one_value_is_refused(images, labels):
    example = tf.train.Example()
    if images is not None:
        example.features.feature["image"].bytes_list.value.extend(images)
    if labels is not None:
        example.features.feature["label"].int64_list.value.extend(labels)
    with pytest.raises(ValueError, match=r"value|no feature (image|label)|expected|beyond"):
        find(example.SerializeToString(deterministic=True))


def test_damaged_bytes_are_refused_or_give_a_span_within():
    record = encode_example(bytes(range(200)), 7, id=b"name", height=10, width=20)
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(2000):
        damaged = bytearray(record)
        for place in generator.integers(0, len(record), 3):
            damaged[place] = generator.integers(0, 256)
        damaged = bytes(damaged[: generator.integers(0, len(record) + 1)])
        try:
            start, end, number = find(damaged)
        except ValueError:
            refused += 1
        else:
            assert 0 <= start <= end <= len(damaged) and number >= 0
    assert refused > 1000
