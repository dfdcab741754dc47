"""Reads a whole data set again and holds it against its `dataset.json`."""

import concurrent.futures
import contextlib
import dataclasses
import itertools
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from tl_distributed.data.id_digests import IdDigests
from tl_distributed.data.ids import ids_as_written, ids_file
from tl_distributed.data.machine import usable_cores
from tl_distributed.data.record_index import index_name, offsets_of, read_index
from tl_distributed.data.records import DatasetInfo, Shard, canvas_size, encode_id, read_manifest
from tl_distributed.data.verify_record import Checked, check_record
from tl_distributed.errors import UserError
from tl_distributed.files import hash_file
from tl_distributed.progress import Progress

_BATCH_RECORDS = 512  # read at once; one by one costs ten times as much


def verify(data_dir: str) -> DatasetInfo:
    """Checks every shard and record; returns the description if all is as it says.

    Of each shard: size, SHA-256, its index, and of each record its two CRCs, that it parses, that its picture decodes
    to the size that it says, and the range of its label; then the counts of each class and split, that no shard lies
    there undeclared, and that the canvas is as large as the pictures want it. Of the ids: that none is there twice, and
    that their files have them in the order of the records.

    Raises:
      UserError: The first thing wrong; names the shard and the record, counted from 0.
    """
    info = read_manifest(data_dir)
    _check_files(data_dir, info)
    total = sum(split.num_examples for split in info.splits.values())
    found = _Found()
    with (
        Progress(total=total, unit="records", label="Verify") as progress,
        concurrent.futures.ThreadPoolExecutor(usable_cores(), "decoder") as pool,
    ):
        for name, split in info.splits.items():
            counts: Counter[int] = Counter()
            for shard in split.shards:
                counts += _check_shard(f"{data_dir.rstrip('/')}/{shard.file}", shard, info, found, pool)
                progress.update(shard.num_records)
            _check_counts(name, counts, info, data_dir)
    if info.is_indexed:
        found.ids.check_unique()
        _check_canvas(data_dir, info, found.shapes)
    _check_ids(data_dir, info, found.ids)
    return info


@dataclasses.dataclass
class _Found:
    """What is only known once all shards are read."""

    ids: IdDigests = dataclasses.field(default_factory=IdDigests)
    shapes: set[tuple[int, int]] = dataclasses.field(default_factory=set)


def _check_files(data_dir: str, info: DatasetInfo) -> None:
    import tensorflow as tf

    declared = {shard.file for split in info.splits.values() for shard in split.shards}
    if info.is_indexed:
        declared |= {index_name(file) for file in declared}
    endings = (".tfrecord", index_name(".tfrecord"))
    present = {entry for entry in tf.io.gfile.listdir(data_dir) if entry.endswith(endings)}
    if declared - present:
        raise UserError(f"--data_dir={data_dir}: {min(declared - present)} is missing")
    if present - declared:
        raise UserError(f"--data_dir={data_dir}: {min(present - declared)} is there but not in dataset.json")


def _check_shard(
    path: str, shard: Shard, info: DatasetInfo, found: _Found, pool: concurrent.futures.Executor
) -> Counter[int]:
    """Checks the records before the file's hash: a damaged record can be named, a hash only says that there is one."""
    counts: Counter[int] = Counter()
    lengths: list[int] = []
    records = _read_records(path)
    while batch := list(itertools.islice(records, _BATCH_RECORDS)):
        numbers = range(len(lengths), len(lengths) + len(batch))
        for checked in pool.map(lambda number, record: check_record(path, number, record, info), numbers, batch):
            counts.update(checked.labels)
            _note(checked, path, len(lengths), found)
            lengths.append(checked.num_bytes)
    if len(lengths) != shard.num_records:
        raise UserError(f"{path}: {len(lengths):,} records, dataset.json says {shard.num_records:,}")
    digest, num_bytes = hash_file(path)
    if num_bytes != shard.num_bytes or digest != shard.sha256:
        raise UserError(
            f"{path}: its SHA-256 is not that of dataset.json, though its records are sound: it was replaced"
        )
    if info.is_indexed:
        _check_index(path, shard, lengths)
    return counts


def _note(checked: Checked, path: str, number: int, found: _Found) -> None:
    if checked.id is not None:
        found.ids.add(checked.id, path, number)
        found.shapes.add(checked.shape)


def _check_index(path: str, shard: Shard, lengths: list[int]) -> None:
    offsets, _ = read_index(path, num_records=shard.num_records, num_bytes=shard.num_bytes)
    wrong = np.flatnonzero(offsets - offsets[:1] != offsets_of(np.array(lengths, np.int64)).astype(np.int64))
    if len(wrong):
        raise UserError(
            f"{index_name(path)}: record {wrong[0]} does not begin where it says; copy it anew, or build the data set "
            "again with --overwrite"
        )


def _check_canvas(data_dir: str, info: DatasetInfo, shapes: set[tuple[int, int]]) -> None:
    expected = canvas_size(shapes, info.image_size)
    if info.canvas_size != expected:
        raise UserError(
            f"{os.path.join(data_dir, 'dataset.json')}: canvas_size is {info.canvas_size}, its pictures want {expected}"
        )


def _read_records(path: str) -> Iterator[bytes]:
    """Yields the records; the reader checks the CRC of each length and of each content."""
    import tensorflow as tf

    dataset = tf.data.TFRecordDataset(path, buffer_size=4 * 2**20)
    try:
        for batch in dataset.batch(_BATCH_RECORDS).as_numpy_iterator():
            yield from batch
    except tf.errors.DataLossError:
        number = _count_sound_records(dataset)
        raise UserError(f"{path}: record {number} is damaged (CRC or length wrong)") from None
    except tf.errors.OpError as error:
        raise UserError(f"{path}: cannot be read ({error.message})") from None


def _count_sound_records(dataset: Any) -> int:
    """Counts record by record up to the first damaged one; a batch with one in it says nothing of the others."""
    import tensorflow as tf

    count = 0
    with contextlib.suppress(tf.errors.DataLossError):
        for _ in dataset.as_numpy_iterator():
            count += 1
    return count


def _check_ids(data_dir: str, info: DatasetInfo, records: IdDigests) -> None:
    listed = IdDigests()
    for split in info.splits:
        described = ids_file(info, split)
        if described is None:
            return
        path = f"{data_dir.rstrip('/')}/{described.file}"
        for number, name in enumerate(ids_as_written(data_dir, info, split)):
            listed.add(encode_id(name), path, number)
        listed.check_unique()
        if hash_file(path) != (described.sha256, described.num_bytes):
            raise UserError(f"{path}: its SHA-256 is not that of dataset.json: it was replaced")
    if info.is_indexed and (place := listed.first_difference(records)):
        raise UserError(f"{place[0]}: line {place[1] + 1} is not the id of that record")


def _check_counts(split_name: str, counts: Counter[int], info: DatasetInfo, data_dir: str) -> None:
    split = info.splits[split_name]
    num_records = sum(shard.num_records for shard in split.shards)  # which is what the shards hold
    if num_records != split.num_examples:
        raise UserError(
            f"{os.path.join(data_dir, 'dataset.json')}: split {split_name} holds {num_records:,} records, "
            f"num_examples says {split.num_examples:,}"
        )
    for index, class_name in enumerate(info.class_names):
        declared = split.counts_per_class.get(class_name, 0)
        if counts[index] != declared:
            raise UserError(
                f"{os.path.join(data_dir, 'dataset.json')}: split {split_name} holds {counts[index]:,} of class "
                f"{class_name!r}, counts_per_class says {declared:,}"
            )
