"""The feature bank on disk: what a frozen part of a model makes of each example, once and for all.

A split's bank is a folder `<bank_dir>/<key>`, whose name is a hash of all that its content depends on. It holds one
shard for each shard of the split, of the same name and with the same examples in the same order; with `--bank_views`
one for each view of a training shard, e.g. `train-view00-00003-of-00016.tfrecord`. The bank of a part of a split
(`--images_per_class`) has shards of its own. A shard appears whole, by renaming: what a killed build had finished is
kept. A record is the label, 4 bytes little-endian (or as many labels as any picture of the data set has, -1 where it
has fewer), and the features' bytes.
"""

import contextlib
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

from tl_distributed.data.dataset import open_split
from tl_distributed.data.record_index import FRAME_BYTES
from tl_distributed.data.record_reader import RecordFile
from tl_distributed.data.records import DatasetInfo
from tl_distributed.data.shards import RecordFormat, shard_paths
from tl_distributed.data.splits import Split
from tl_distributed.errors import UserError
from tl_distributed.files import matching_files, read_json, replace_file, write_file

FORMAT_VERSION = 3
_LABEL_BYTES = 4
_TEMPORARY, _TIMES_NAME = ".tmp", "build_seconds"
_PART_SHARDS = 16  # of a part of a split; what is finished is kept where a build stops


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
        """Returns `[batch, row_length] stored_dtype`.

        Raises:
          UserError: A layer of somebody's own that says another shape of its output than it has.
        """
        for tensor, shape in zip(tensors, self.shapes, strict=True):
            if tuple(tensor.shape[1:]) != shape:
                raise UserError(
                    f"--feature_bank: a frozen layer returns {list(tensor.shape[1:])} of an image where it says "
                    f"{list(shape)} (its compute_output_shape); --feature_bank=off trains without"
                )
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
    """A shard of a bank and what it is made of.

    Attributes:
      path: Of the bank's shard.
      source: Path of the data set's shard; `None` where the examples are held in memory.
      view: Number of the view; `None` for the image as it is.
      examples: Indices, in the split or in the part of it that is held, of its examples.
    """

    path: str
    source: str | None
    view: int | None
    examples: range


def bank_shards(folder: str, data_dir: str, info: DatasetInfo, split: str, views: int) -> list[list[BankShard]]:
    """Returns the shards of each view of a whole split, in order, whether or not they have been built.

    Without views (0) there is one version, of the images as they are.
    """
    result = []
    for view in _views(views):
        shards, first = [], 0
        for source, shard in shard_paths(data_dir, info, split).items():
            examples = range(first, first + shard.num_records)
            shards.append(BankShard(_path(folder, shard.file, split, view), source, view, examples))
            first = examples.stop
        result.append(shards)
    return result


def part_shards(folder: str, split: str, num_examples: int, views: int) -> list[list[BankShard]]:
    """Returns the shards of each view of a part of a split, which is held in memory."""
    count = min(_PART_SHARDS, num_examples)
    names = [f"{split}-{index:05d}-of-{count:05d}.tfrecord" for index in range(count)]
    bounds = [index * num_examples // count for index in range(count + 1)]
    return [
        [
            BankShard(_path(folder, name, split, view), None, view, range(*bounds[index : index + 2]))
            for index, name in enumerate(names)
        ]
        for view in _views(views)
    ]


def _views(count: int) -> Sequence[int | None]:
    return range(count) if count else (None,)


def _path(folder: str, file: str, split: str, view: int | None) -> str:
    return f"{folder}/{file if view is None else file.replace(f'{split}-', f'{split}-view{view:02d}-', 1)}"


def open_bank_split(
    shards: Sequence[Sequence[BankShard]],
    folder: str,
    layout: FeatureLayout,
    *,
    mode: str,
    label_shape: tuple[int, ...] = (),
) -> Split:
    """Opens a built split, whose `images` are rows `[batch, row_length] stored_dtype`.

    Args:
      shards: Of each view.
      folder: Of the bank, for messages.
      layout: Of the rows.
      mode: memory or disk.
      label_shape: Of `DatasetInfo`.

    Raises:
      UserError: In memory mode a bad record, or a wrong number of them.
    """
    frame_bytes = FRAME_BYTES + _LABEL_BYTES * math.prod(label_shape) + layout.row_bytes
    versions = [
        [
            RecordFile(shard.path, len(shard.examples), len(shard.examples) * frame_bytes, is_indexed=False)
            for shard in view
        ]
        for view in shards
    ]
    return open_split(versions, feature_format(layout, folder, label_shape), mode=mode)


def feature_format(layout: FeatureLayout, folder: str, label_shape: tuple[int, ...] = ()) -> RecordFormat:
    """Returns the format of the bank's records."""
    dtype, label_bytes = tf.as_dtype(layout.stored_dtype), _LABEL_BYTES * math.prod(label_shape)

    def parse(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        raw = tf.io.decode_raw(serialized, tf.uint8)
        raw = tf.ensure_shape(raw, [None, label_bytes + layout.row_bytes])
        labels = tf.bitcast(tf.reshape(raw[:, :label_bytes], [-1, *label_shape, _LABEL_BYTES]), tf.int32)
        rows = tf.reshape(raw[:, label_bytes:], [-1, layout.row_length, dtype.size])
        return tf.bitcast(rows, dtype), labels

    def locate(record: memoryview) -> tuple[int, int, int | list[int]]:
        labels = np.frombuffer(record, "<i4", math.prod(label_shape)).reshape(label_shape)
        return label_bytes, len(record), labels.tolist()

    remedy = f"delete {folder}, so that the bank is built again"
    return RecordFormat((layout.row_length,), dtype, parse, locate, remedy, label_shape=label_shape)


class BankShardWriter:
    """Writes one shard under a temporary name; on success it takes its own. A context manager."""

    def __init__(self, path: str):
        self._path = path
        self._temporary = f"{path}.{socket.gethostname()}.{os.getpid()}{_TEMPORARY}"

    def __enter__(self) -> "BankShardWriter":
        self._writer = tf.io.TFRecordWriter(self._temporary)
        return self

    def write(self, rows: np.ndarray, labels: np.ndarray) -> None:
        """Writes `rows [n, row_length]` and `labels [n] int32`, or `[n, most_labels]`."""
        for row, label in zip(rows, labels.astype("<i4"), strict=True):
            self._writer.write(label.tobytes() + row.tobytes())

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._writer.close()
        if kind is None:
            replace_file(self._temporary, self._path)
        else:
            tf.io.gfile.remove(self._temporary)


def note_build_seconds(folder: str, shard: BankShard, seconds: float, *, worker: int) -> None:
    """Keeps how long a shard took to build, which its users count as time of their own; a file for each worker."""
    path = f"{folder}/{_TIMES_NAME}.{worker}.json"
    times = {**_build_times(path), os.path.basename(shard.path): round(seconds, 3)}
    write_file(path, json.dumps(times).encode())


def build_seconds(folder: str) -> float:
    """Returns how long the shards of a bank took to build, in whatever runs."""
    times: dict[str, float] = {}
    for path in matching_files(folder, f"{_TIMES_NAME}.*.json"):
        times |= _build_times(path)
    return sum(times.values())


def _build_times(path: str) -> dict[str, float]:
    try:
        return read_json(path) or {}
    except tf.errors.NotFoundError:  # removed meanwhile
        return {}


def remove_leftovers(folder: str) -> None:
    """Removes the unfinished files of builds that died on this machine; those of a running build stay."""
    for path in matching_files(folder, f"*{_TEMPORARY}"):
        name, _, process = path.removesuffix(_TEMPORARY).rpartition(".")
        if name.endswith(f".{socket.gethostname()}") and process.isdigit() and not psutil.pid_exists(int(process)):
            with contextlib.suppress(tf.errors.NotFoundError):  # another worker of this machine was faster
                tf.io.gfile.remove(path)
