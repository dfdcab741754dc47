"""The reader of a record's few bytes, against protobuf's own parser."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tl_distributed.data.example_fields import AlikeExamples, find_bytes_and_numbers
from tl_distributed.data.records import DatasetInfo, encode_example
from tl_distributed.data.shards import image_format


def find(record: bytes):
    locate = image_format(DatasetInfo(("a", "b"), (2, 2, 3), 0, "toy", {}, {}, storage="jpeg")).locate
    return locate(memoryview(record))


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


def test_alike_examples_are_found_as_any_other():
    """In turns, so that each is met by what another of its length left: other ids, labels, layouts, damaged bytes."""
    generator = np.random.default_rng(0)
    examples = [
        encode_example(bytes(40), label, id=name, height=5, width=width)
        for label, name, width in itertools.product((0, 1, 200), (b"a", b"b", b"image", b"longer"), (3, 300))
    ]
    other = tf.train.Example()
    other.features.feature["label"].int64_list.value.append(3)
    other.features.feature["image"].bytes_list.value.append(bytes(40))
    other.features.feature["id"].bytes_list.value.append(b"x")
    examples += [other.SerializeToString(deterministic=True), other.SerializeToString()]
    for _ in range(2000):
        damaged = bytearray(examples[generator.integers(0, len(examples))])
        damaged[generator.integers(0, len(damaged))] = generator.integers(0, 256)
        examples += [bytes(damaged), examples[generator.integers(0, 24)]]
    alike, found = AlikeExamples(b"image", b"label", list), set()
    for example in examples:
        expected = _found_or_refused(find_bytes_and_numbers, example, b"image", b"label")
        assert _found_or_refused(alike.find, example) == expected
        found.add(str(expected))
    assert len(found) > 100


def _found_or_refused(find, example: bytes, *keys: bytes):
    try:
        return find(memoryview(example), *keys)
    except ValueError as error:
        return str(error)
