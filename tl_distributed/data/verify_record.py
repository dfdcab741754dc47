"""Whether one record is what the schema and its data set say."""

import dataclasses

from tl_distributed.data.records import (
    HEIGHT_FEATURE,
    ID_FEATURE,
    IMAGE_FEATURE,
    LABEL_FEATURE,
    WIDTH_FEATURE,
    DatasetInfo,
)  # fmt: skip
from tl_distributed.errors import UserError, tensorflow_cause


@dataclasses.dataclass(frozen=True)
class Checked:
    """A sound record: its length in bytes, labels, and of version 2 id and (height, width)."""

    num_bytes: int
    labels: tuple[int, ...]
    id: bytes | None = None
    shape: tuple[int, int] = (0, 0)


def check_record(path: str, number: int, record: bytes, info: DatasetInfo) -> Checked:
    """Returns what a record holds.

    Args:
      path: Of its shard, for messages.
      number: Its number there.
      record: Serialised.
      info: Of the data set.

    Raises:
      UserError: No Example, a feature missing, a picture that is not of the size it says or does not decode, or a
        label out of range.
    """
    import tensorflow as tf

    id, height, width = None, *info.image_shape[:2]
    try:
        features = tf.train.Example.FromString(record).features.feature
        (image,) = features[IMAGE_FEATURE].bytes_list.value
        labels = tuple(features[LABEL_FEATURE].int64_list.value)
        if not info.is_multi_label:
            (_,) = labels
        if info.is_indexed:
            (id,) = features[ID_FEATURE].bytes_list.value
            (height,) = features[HEIGHT_FEATURE].int64_list.value
            (width,) = features[WIDTH_FEATURE].int64_list.value
    except Exception as error:  # protobuf's DecodeError has several homes; ValueError: none or several values
        what = "an image with a label, id, height and width" if info.is_indexed else "an image with a label"
        raise UserError(f"{path}: record {number} is not {what} ({type(error).__name__})") from None
    if wrong := _wrong_picture(image, height, width, info):
        raise UserError(f"{path}: record {number} {wrong}")
    for label in labels:
        if not 0 <= label < info.num_classes:
            raise UserError(
                f"{path}: record {number} has label {label}, the {info.num_classes} classes are 0 to "
                f"{info.num_classes - 1}"
            )
    if info.is_multi_label and (len(labels) > info.most_labels or list(labels) != sorted(set(labels))):
        raise UserError(
            f"{path}: record {number} has the labels {list(labels)}; takes at most {info.most_labels}, ascending"
        )
    return Checked(len(record), labels, id, (height, width))


def _wrong_picture(image: bytes, height: int, width: int, info: DatasetInfo) -> str:
    if info.storage == "pixels":
        expected = info.image_shape
        num_bytes = expected[0] * expected[1] * expected[2]
        if len(image) != num_bytes:
            return f"has {len(image):,} bytes of pixels, an image of {'x'.join(map(str, expected))} has {num_bytes:,}"
        return (
            ""
            if (height, width) == expected[:2]
            else f"says {height}x{width}, its data set {expected[0]}x{expected[1]}"
        )
    import tensorflow as tf

    try:
        with tf.device("/cpu:0"):
            shape = tuple(tf.io.decode_image(image, channels=3, expand_animations=False).shape)
    except tf.errors.OpError as error:
        return f"holds a picture that TensorFlow cannot decode ({tensorflow_cause(error.message)})"
    return "" if shape == (height, width, 3) else f"says {height}x{width}, its picture is {shape[0]}x{shape[1]}"
