"""The feature bank on disk: what a frozen part of a model makes of each example, once and for all.

A bank is a folder `<bank_dir>/<key>`, whose name is a hash of all that its content depends on. It holds one shard for
each shard of the data set, of the same name and with the same examples in the same order; with `--bank_views` one
for each view of a training shard, e.g. `train-view00-00003-of-00016.tfrecord`. A shard appears whole, by renaming:
what a killed build had finished is kept. A record is the label, 4 bytes little-endian, and the features' bytes.
"""

import dataclasses
import hashlib
import json
import math
import os
import socket
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np
import psutil
import tensorflow as tf

from tl_distributed.data.dataset import Split, open_split
from tl_distributed.data.records import DatasetInfo
from tl_distributed.data.shards import RecordFormat, shard_paths

FORMAT_VERSION = 1
_LABEL_BYTES = 4
_TEMPORARY = ".tmp"
_WINDOW_BYTES = 2**28  # the most that a window of stream mode may hold: features can be larger than images


@dataclasses.dataclass(frozen=True)
class FeatureLayout:
    """How the tensors at the boundary lie in a row.

    Attributes:
      shapes: Of each tensor, without the batch.
      dtypes: Type in which the model takes each, e.g. "float32".
      stored_dtype: Type of the row: float32, bfloat16 or float16.
    """

    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    stored_dtype: str

    @property
    def row_length(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def row_bytes(self) -> int:
        return self.row_length * tf.as_dtype(self.stored_dtype).size

    def join(self, tensors: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns `[batch, row_length] stored_dtype`."""
        rows = [tf.cast(tf.reshape(tensor, [tensor.shape[0], -1]), self.stored_dtype) for tensor in tensors]
        return tf.concat(rows, axis=1)

    def split(self, rows: tf.Tensor) -> list[tf.Tensor]:
        """Returns the tensors that were joined."""
        parts = tf.split(rows, [math.prod(shape) for shape in self.shapes], axis=1)
        return [
            tf.cast(tf.reshape(part, [rows.shape[0], *shape]), dtype)
            for part, shape, dtype in zip(parts, self.shapes, self.dtypes, strict=True)
        ]


def bank_key(content: dict[str, Any]) -> str:
    """Returns the name of the folder of the bank that depends on `content` (JSON values), and on nothing else."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


@dataclasses.dataclass(frozen=True)
class BankShard:
    """A shard of a bank and the shard that it is made of.

    Attributes:
      path: Of the bank's shard.
      source: Path of the data set's shard.
      view: Number of the view; `None` for the image as it is.
      first_example: Index, in the split, of its first example.
      num_examples: Examples in it.
    """

    path: str
    source: str
    view: int | None
    first_example: int
    num_examples: int


def bank_shards(folder: str, data_dir: str, info: DatasetInfo, split: str, views: int) -> list[list[BankShard]]:
    """Returns the shards of each view of a split, in order, whether or not they have been built.

    Without views (0) there is one version, of the images as they are.
    """
    result = []
    for view in range(views) if views else (None,):
        shards, first = [], 0
        for source, shard in shard_paths(data_dir, info, split).items():
            name = shard.file if view is None else shard.file.replace(f"{split}-", f"{split}-view{view:02d}-", 1)
            shards.append(BankShard(f"{folder}/{name}", source, view, first, shard.num_records))
            first += shard.num_records
        result.append(shards)
    return result


def open_bank_split(
    shards: Sequence[Sequence[BankShard]],
    folder: str,
    layout: FeatureLayout,
    *,
    mode: str,
    shuffle_buffer_examples: int,
) -> Split:
    """Opens a built split, whose `images` are rows `[batch, row_length] stored_dtype`.

    Args:
      shards: Of each view.
      folder: Of the bank, for messages.
      layout: Of the rows.
      mode: memory or stream.
      shuffle_buffer_examples: Window of stream mode; less is taken where the rows are long.

    Raises:
      UserError: In memory mode a bad record, or a wrong number of them.
    """
    window = min(shuffle_buffer_examples, max(1, _WINDOW_BYTES // layout.row_bytes))
    return open_split(
        [[shard.path for shard in view] for view in shards],
        sum(shard.num_examples for shard in shards[0]),
        feature_format(layout, folder),
        mode=mode,
        shuffle_buffer_examples=window,
    )


def feature_format(layout: FeatureLayout, folder: str) -> RecordFormat:
    """Returns the format of the bank's records."""
    dtype = tf.as_dtype(layout.stored_dtype)

    def parse(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        raw = tf.io.decode_raw(serialized, tf.uint8)
        raw = tf.ensure_shape(raw, [None, _LABEL_BYTES + layout.row_bytes])
        labels = tf.bitcast(raw[:, :_LABEL_BYTES], tf.int32)
        rows = tf.reshape(raw[:, _LABEL_BYTES:], [-1, layout.row_length, dtype.size])
        return tf.bitcast(rows, dtype), labels

    return RecordFormat((layout.row_length,), dtype, parse, f"delete {folder}, so that the bank is built again")


class BankShardWriter:
    """Writes one shard under a temporary name; on success it takes its own. A context manager."""

    def __init__(self, path: str):
        self._path = path
        self._temporary = f"{path}.{socket.gethostname()}.{os.getpid()}{_TEMPORARY}"

    def __enter__(self) -> "BankShardWriter":
        self._writer = tf.io.TFRecordWriter(self._temporary)
        return self

    def write(self, rows: np.ndarray, labels: np.ndarray) -> None:
        """Writes `rows [n, row_length]` and `labels [n] int32`."""
        for row, label in zip(rows, labels.astype("<i4"), strict=True):
            self._writer.write(label.tobytes() + row.tobytes())

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._writer.close()
        if kind is None:
            tf.io.gfile.rename(self._temporary, self._path, overwrite=True)
        else:
            tf.io.gfile.remove(self._temporary)


def remove_leftovers(folder: str) -> None:
    """Removes the unfinished shards of builds that died on this machine; those of a running build stay."""
    for path in tf.io.gfile.glob(f"{folder}/*{_TEMPORARY}"):
        host, process = path.removesuffix(_TEMPORARY).rsplit(".tfrecord.", 1)[1].rsplit(".", 1)
        if host == socket.gethostname() and not psutil.pid_exists(int(process)):
            tf.io.gfile.remove(path)
