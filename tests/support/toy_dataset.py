"""Writes a small finished data set without the code that is under test in `data_prep`."""

import hashlib
import pathlib

import numpy as np
import tensorflow as tf

from tl_distributed.data.records import DatasetInfo, Shard, Split, encode_record, shard_name

CLASS_NAMES = ("dark", "middle", "bright")


def write_toy_dataset(
    folder: pathlib.Path, *, counts: dict[str, int], size: int = 16, num_shards: int = 2, numbered: bool = False
) -> str:
    """Writes splits of noise whose mean brightness tells the class; returns the folder as text.

    `numbered`: the first pixel of image n of a split is (n // 256, n % 256, 0).
    """
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    splits = {}
    for name, count in counts.items():
        labels = np.arange(count) % len(CLASS_NAMES)
        images = generator.integers(0, 120, (count, size, size, 3)) + labels[:, None, None, None] * 60
        if numbered:
            images[:, 0, 0] = np.stack([*np.divmod(np.arange(count), 256), np.zeros(count, int)], axis=1)
        shards = []
        for index in range(num_shards):
            path = folder / shard_name(name, index, num_shards)
            with tf.io.TFRecordWriter(str(path)) as writer:
                rows = range(index, count, num_shards)
                for row in rows:
                    writer.write(encode_record(images[row].astype(np.uint8).tobytes(), int(labels[row])))
            content = path.read_bytes()
            shards.append(Shard(path.name, len(rows), len(content), hashlib.sha256(content).hexdigest()))
        per_class = {class_name: int((labels == label).sum()) for label, class_name in enumerate(CLASS_NAMES)}
        splits[name] = Split(count, per_class, tuple(shards))
    info = DatasetInfo(CLASS_NAMES, (size, size, 3), 0, "toy", splits, {})
    (folder / "dataset.json").write_text(info.to_json())
    return str(folder)
