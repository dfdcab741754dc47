"""Reads a whole data set again and holds it against its `dataset.json`."""

import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

from tl_distributed.data.ids import ids_as_written, ids_file
from tl_distributed.data.records import IMAGE_FEATURE, LABEL_FEATURE, DatasetInfo, Shard, read_manifest
from tl_distributed.errors import UserError
from tl_distributed.files import hash_file
from tl_distributed.progress import Progress

_BATCH_RECORDS = 512  # read at once; one by one costs ten times as much


def verify(data_dir: str) -> DatasetInfo:
    """Checks every shard and record; returns the description if all is as it says.

    Of each shard: size, SHA-256, and of each record its two CRCs, that it parses, the length of its pixels and the
    range of its label; then the counts of each class and split, and that no shard lies there undeclared. Of the ids:
    their files' SHA-256, one for each record, and none twice.

    Raises:
      UserError: The first thing wrong; names the shard and the record, counted from 0.
    """
    info = read_manifest(data_dir)
    _check_files(data_dir, info)
    total = sum(split.num_examples for split in info.splits.values())
    with Progress(total=total, unit="records", label="Verify") as progress:
        for name, split in info.splits.items():
            counts: Counter[int] = Counter()
            for shard in split.shards:
                counts += _check_shard(f"{data_dir.rstrip('/')}/{shard.file}", shard, info)
                progress.update(shard.num_records)
            _check_counts(name, counts, info, data_dir)
    _check_ids(data_dir, info)
    return info


def _check_files(data_dir: str, info: DatasetInfo) -> None:
    import tensorflow as tf

    declared = {shard.file for split in info.splits.values() for shard in split.shards}
    present = {entry for entry in tf.io.gfile.listdir(data_dir) if entry.endswith(".tfrecord")}
    if declared - present:
        raise UserError(f"--data_dir={data_dir}: {min(declared - present)} is missing")
    if present - declared:
        raise UserError(f"--data_dir={data_dir}: {min(present - declared)} is there but not in dataset.json")


def _check_shard(path: str, shard: Shard, info: DatasetInfo) -> Counter[int]:
    """Checks the records before the file's hash: a damaged record can be named, a hash only says that there is one."""
    counts: Counter[int] = Counter()
    number = 0
    for number, record in enumerate(_read_records(path), start=1):
        counts[_check_record(path, number - 1, record, info)] += 1
    if number != shard.num_records:
        raise UserError(f"{path}: {number:,} records, dataset.json says {shard.num_records:,}")
    digest, num_bytes = hash_file(path)
    if num_bytes != shard.num_bytes or digest != shard.sha256:
        raise UserError(
            f"{path}: its SHA-256 is not that of dataset.json, though its records are sound: it was replaced"
        )
    return counts


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


def _check_record(path: str, number: int, record: bytes, info: DatasetInfo) -> int:
    """Returns the label."""
    import tensorflow as tf

    try:
        features = tf.train.Example.FromString(record).features.feature
        (pixels,) = features[IMAGE_FEATURE].bytes_list.value
        (label,) = features[LABEL_FEATURE].int64_list.value
    except Exception as error:  # protobuf's DecodeError has several homes; ValueError: none or several values
        raise UserError(f"{path}: record {number} is not an image with a label ({type(error).__name__})") from None
    height, width, channels = info.image_shape
    if len(pixels) != height * width * channels:
        raise UserError(
            f"{path}: record {number} has {len(pixels):,} bytes of pixels, "
            f"an image of {height}x{width}x{channels} has {height * width * channels:,}"
        )
    if not 0 <= label < info.num_classes:
        raise UserError(
            f"{path}: record {number} has label {label}, the {info.num_classes} classes are 0 to {info.num_classes - 1}"
        )
    return label


def _check_ids(data_dir: str, info: DatasetInfo) -> None:
    seen: set[str] = set()
    for split in info.splits:
        described = ids_file(info, split)
        if described is None:
            continue
        path = f"{data_dir.rstrip('/')}/{described.file}"
        for name in ids_as_written(data_dir, info, split):
            if name in seen:
                raise UserError(f"{path}: the id {name!r} is there twice")
            seen.add(name)
        if hash_file(path) != (described.sha256, described.num_bytes):
            raise UserError(f"{path}: its SHA-256 is not that of dataset.json: it was replaced")


def _check_counts(split_name: str, counts: Counter[int], info: DatasetInfo, data_dir: str) -> None:
    split = info.splits[split_name]
    if sum(counts.values()) != split.num_examples:
        raise UserError(
            f"{os.path.join(data_dir, 'dataset.json')}: split {split_name} holds {sum(counts.values()):,} records, "
            f"num_examples says {split.num_examples:,}"
        )
    for index, class_name in enumerate(info.class_names):
        declared = split.counts_per_class.get(class_name, 0)
        if counts[index] != declared:
            raise UserError(
                f"{os.path.join(data_dir, 'dataset.json')}: split {split_name} holds {counts[index]:,} of class "
                f"{class_name!r}, counts_per_class says {declared:,}"
            )
