"""Writes a small finished data set without the code that is under test in `data_prep`."""

import hashlib
import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tl_distributed.data.record_index import write_index
from tl_distributed.data.records import DatasetInfo, Shard, Split, canvas_size, encode_example, shard_name
from tl_distributed.data.storage import Storage

CLASS_NAMES = ("dark", "middle", "bright")


def write_toy_dataset(
    folder: pathlib.Path, *, counts: dict[str, int], size: int = 16, num_shards: int = 2, numbered: bool = False,
    schema_version: int = 2, storage: Storage = "pixels", aspect: float = 1.0,
    class_names: Sequence[str] = CLASS_NAMES,
) -> str:  # fmt: skip
    """Writes splits of noise whose mean brightness tells the class (of three); returns the folder as text.

    `numbered`: the first pixel of image n of a split is (n // 256, n % 256, 0). Ids are `<split>/<n>`.
    `storage`: "pixels", or "original" for PNG files of `aspect` times the width, turned upright for odd n.
    """
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    splits = {}
    for name, count in counts.items():
        labels = np.arange(count) % len(class_names)
        width = size if storage == "pixels" else round(size * aspect)
        images = generator.integers(0, 120, (count, size, width, 3)) + (labels % 3)[:, None, None, None] * 60
        if numbered:
            images[:, 0, 0] = np.stack([*np.divmod(np.arange(count), 256), np.zeros(count, int)], axis=1)
        shards = []
        for index in range(num_shards):
            rows = range(index, count, num_shards)
            pictures = [images[row].astype(np.uint8) for row in rows]
            records = [
                encode_version_1(picture.tobytes(), int(labels[row]))
                if schema_version == 1
                else _encode(picture, int(labels[row]), f"{name}/{row}", storage, is_turned=bool(row % 2))
                for picture, row in zip(pictures, rows, strict=True)
            ]
            shards.append(write_shard(folder / shard_name(name, index, num_shards), records, schema_version))
        per_class = {class_name: int((labels == label).sum()) for label, class_name in enumerate(class_names)}
        splits[name] = Split(count, per_class, tuple(shards))
    canvas = size if storage == "pixels" else canvas_size([(size, width)], size)
    info = DatasetInfo(
        tuple(class_names), (size, size, 3), 0, "toy", splits, {}, schema_version, storage=storage, canvas_size=canvas
    )
    (folder / "dataset.json").write_text(info.to_json())
    return str(folder)


def _encode(picture: np.ndarray, label: int, name: str, storage: Storage, *, is_turned: bool) -> bytes:
    if storage != "pixels" and is_turned:
        picture = picture.swapaxes(0, 1)
    height, width, _ = picture.shape
    image = picture.tobytes() if storage == "pixels" else tf.io.encode_png(picture).numpy()
    return encode_example(image, label, id=name.encode(), height=height, width=width)


def write_shard(path: pathlib.Path, records: list[bytes], schema_version: int = 2) -> Shard:
    """Writes a shard and, but for version 1, its index."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    if schema_version > 1:
        write_index(str(path), np.array([len(record) for record in records], np.int64))
    content = path.read_bytes()
    return Shard(path.name, len(records), len(content), hashlib.sha256(content).hexdigest())


def encode_version_1(pixels: bytes, label: int) -> bytes:
    """Returns a record of schema version 1."""
    example = tf.train.Example()
    example.features.feature["image"].bytes_list.value.append(pixels)
    example.features.feature["label"].int64_list.value.append(label)
    return example.SerializeToString(deterministic=True)


def parse_examples(serialized: list[bytes]) -> dict[str, tf.Tensor]:
    """Parses records of version 2 to `[n]` tensors by the feature's name."""
    spec = {name: tf.io.FixedLenFeature([], tf.string) for name in ("image", "id")}
    spec |= {name: tf.io.FixedLenFeature([], tf.int64) for name in ("label", "height", "width")}
    return tf.io.parse_example(serialized, spec)
