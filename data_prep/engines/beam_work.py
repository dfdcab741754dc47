"""What Beam's workers do, each with nothing but its task and a folder that all of them reach.

A task leaves its result as files there, under a name of its own until it is whole: a runner may try a task again, or
twice at once. What goes wrong by the user's input is a result too, so that it is told in one line.
"""

import dataclasses
import io
import itertools
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from data_prep.engines.part_files import PartWriter, read_images
from data_prep.index import COLUMNS, Index
from data_prep.reading import store_chunks
from data_prep.shard_writer import BLOCK_BYTES, ShardWriter, encode_rows
from data_prep.source import Part
from tl_distributed.data.record_index import index_name
from tl_distributed.data.records import Shard, decode_id, encode_id
from tl_distributed.data.storing import StorageRule
from tl_distributed.errors import UserError, one_line
from tl_distributed.files import write_file

_NAMES, _NAME_ENDS = "names", "name_ends"
_LABELS, _LABEL_ENDS = "picture_labels", "label_ends"


@dataclasses.dataclass(frozen=True)
class ReadTask:
    """Part `number` of the source, of one split, to be read to files in `folder`."""

    number: int
    split: str
    part: Part
    rule: StorageRule
    num_classes: int
    folder: str


@dataclasses.dataclass(frozen=True)
class WriteTask:
    """A shard at `path` to be written from files in `folder`; task `number` lies there as an archive of rows."""

    number: int
    path: str
    folder: str


def read_part(task: ReadTask) -> None:
    """Reads and stores a part; leaves `read-<number>.npz` and the images."""
    with _told(f"{task.folder}/read-{task.number:05d}") as result:
        rows: list[dict[str, np.ndarray]] = []
        names: list[str] = []
        groups: list[str] = []
        unreadable: list[str] = []
        with PartWriter(task.folder, task.number) as images:
            chunks = store_chunks(
                task.part.chunks(task.rule), task.split, task.rule, images, num_classes=task.num_classes,
                part=task.number,
            )  # fmt: skip
            for chunk, columns in chunks:
                rows.append(columns)
                names += chunk.names
                groups += chunk.groups or [""] * len(chunk.names)
                unreadable += chunk.unreadable
        columns = {name: np.concatenate([one[name] for one in rows]) for name in COLUMNS} if rows else _no_rows()
        result.arrays = columns | pack_names(names)
        result.said = {"groups": groups if any(groups) else None, "unreadable": unreadable}


def write_shard(task: WriteTask) -> None:
    """Writes a shard and its index; leaves `write-<number>` with what `dataset.json` says of it."""
    with _told(f"{task.folder}/write-{task.number:05d}") as result:
        rows = load_arrays(f"{task.folder}/rows-{task.number:05d}.npz")
        temporary = f"{task.path}.{uuid.uuid4().hex}.tmp"
        writer = ShardWriter(temporary)
        try:
            names, labels = unpack_names(rows), unpack_labels(rows)
            for block in _blocks(rows["lengths"]):
                images = read_images(task.folder, rows["parts"][block], rows["offsets"][block], rows["lengths"][block])
                writer.write(encode_rows(images, labels[block], names[block], rows["sizes"][block]))
        except BaseException:
            writer.close()
            raise
        shard = writer.finish()
        _rename(index_name(temporary), index_name(task.path))
        _rename(temporary, task.path)
        result.said = dataclasses.asdict(dataclasses.replace(shard, file=os.path.basename(task.path)))


def append_part(index: Index, folder: str, number: int, split: str) -> list[str]:
    """Enters what `read_part` left of part `number`; returns the names.

    Raises:
      UserError: What went wrong there.
    """
    said = _said(f"{folder}/read-{number:05d}")
    arrays = load_arrays(f"{folder}/read-{number:05d}.npz")
    index.append({name: arrays[name] for name in COLUMNS}, split, said["groups"], said["unreadable"])
    return unpack_names(arrays)


def written_shard(folder: str, number: int) -> Shard:
    """Returns what `write_shard` left; raises `UserError` as `append_part`."""
    return Shard(**_said(f"{folder}/write-{number:05d}"))


def pack_names(names: list[str]) -> dict[str, np.ndarray]:
    """Returns names as arrays."""
    encoded = [encode_id(name) for name in names]
    ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
    return {_NAMES: np.frombuffer(b"".join(encoded), np.uint8), _NAME_ENDS: ends}


def pack_labels(sets: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
    """Returns the labels of pictures that have any number of them as arrays."""
    ends = np.cumsum([len(labels) for labels in sets], dtype=np.int64)
    return {_LABELS: np.array([label for labels in sets for label in labels], np.int64), _LABEL_ENDS: ends}


def unpack_labels(rows: dict[str, np.ndarray]) -> list[int] | list[list[int]]:
    """Returns the label of each picture, or its labels where they were packed."""
    if _LABELS not in rows:
        return rows["labels"].tolist()
    return [part.tolist() for part in np.split(rows[_LABELS], rows[_LABEL_ENDS])[:-1]]


def unpack_names(arrays: dict[str, np.ndarray]) -> list[str]:
    """Returns the names of `pack_names`."""
    content, ends = arrays[_NAMES].tobytes(), arrays[_NAME_ENDS].tolist()
    return [decode_id(content[start:end]) for start, end in zip([0, *ends], ends, strict=False)]


def save_arrays(path: str, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays of numbers; the file appears whole or not at all."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_file(path, buffer.getvalue())


def load_arrays(path: str) -> dict[str, np.ndarray]:
    """Reads what `save_arrays` wrote; runs no code, whatever the file holds."""
    import tensorflow as tf

    with tf.io.gfile.GFile(path, "rb") as file, np.load(io.BytesIO(file.read()), allow_pickle=False) as arrays:
        return dict(arrays)


class _told:
    """Leaves what a task says: its result, or why it failed by its input or its disk."""

    arrays: dict[str, np.ndarray] | None = None
    said: Any = None

    def __init__(self, path: str):
        self._path = path

    def __enter__(self) -> "_told":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> bool:
        import tensorflow as tf

        is_told = isinstance(error, (UserError, OSError, tf.errors.OpError))
        if error is None or is_told:
            if error is None and self.arrays is not None:
                save_arrays(f"{self._path}.npz", self.arrays)
            said = {"error": one_line(error)} if error else {"result": self.said}
            write_file(f"{self._path}.json", json.dumps(said).encode())
        return is_told


def _said(path: str) -> Any:
    import tensorflow as tf

    with tf.io.gfile.GFile(f"{path}.json") as file:
        said = json.loads(file.read())
    if "error" in said:
        raise UserError(said["error"])
    return said["result"]


def _no_rows() -> dict[str, np.ndarray]:
    return {name: np.zeros((0, *shape), kind) for name, (kind, shape) in COLUMNS.items()}


def _blocks(lengths: np.ndarray) -> Iterator[slice]:
    blocks = np.cumsum(lengths, dtype=np.int64) // BLOCK_BYTES
    edges = [0, *(np.flatnonzero(np.diff(blocks)) + 1).tolist(), len(lengths)]
    return (slice(start, end) for start, end in itertools.pairwise(edges) if start < end)


def _rename(source: str, goal: str) -> None:
    import tensorflow as tf

    tf.io.gfile.rename(source, goal, overwrite=True)
