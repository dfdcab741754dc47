"""Opening the splits of a data set: in memory or streamed from shards."""

import logging
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tl_distributed.data.host_rows import HostRows
from tl_distributed.data.machine import free_memory_bytes
from tl_distributed.data.memory_split import MemorySplit
from tl_distributed.data.records import DatasetInfo
from tl_distributed.data.shards import (
    RecordFormat,
    check_size,
    image_format,
    read_all,
    read_batches,
    shard_paths,
    wrong_count,
)  # fmt: skip
from tl_distributed.data.splits import Split
from tl_distributed.data.stream_split import StreamSplit
from tl_distributed.data.subset import StratifiedChoice
from tl_distributed.errors import UserError

_LOG = logging.getLogger(__name__)

MEMORY_SHARE = 0.25  # of the free memory: the most that auto gives to the splits


def choose_input_mode(info: DatasetInfo, names: Sequence[str], *, processes_on_machine: int) -> str:
    """Returns memory where the named splits fit into a quarter of the free memory for each process, else stream."""
    num_examples = sum(info.splits[name].num_examples for name in names if name in info.splits)
    num_bytes, free = num_examples * int(np.prod(info.image_shape)), free_memory_bytes()
    mode = "memory" if num_bytes <= MEMORY_SHARE * free / processes_on_machine else "stream"
    _LOG.info("Input: %s mode (%.0f MB of pixels, %.0f MB of memory free).", mode, num_bytes / 1e6, free / 1e6)
    return mode


def load_splits(
    data_dir: str, info: DatasetInfo, names: tuple[str, ...], *, input_mode: str, shuffle_buffer_examples: int
) -> dict[str, Split]:
    """Opens the named splits of a finished data set.

    Args:
      data_dir: The data set's folder.
      info: Its manifest.
      names: Splits to open; one that the data set lacks is left out.
      input_mode: memory, stream, or auto: memory where the splits fit into a quarter of the free memory.
      shuffle_buffer_examples: Window of stream mode.

    Raises:
      UserError: A split without examples, a missing shard, or a record that does not parse.
    """
    if input_mode == "auto":
        input_mode = choose_input_mode(info, names, processes_on_machine=1)
    present = [name for name in names if name in info.splits]
    splits: dict[str, Split] = {}
    for name in present:
        splits[name] = open_split(
            [_checked_files(data_dir, info, name)], info.splits[name].num_examples, image_format(info.image_shape),
            mode=input_mode, shuffle_buffer_examples=shuffle_buffer_examples,
        )  # fmt: skip
    return splits


def load_subset(data_dir: str, info: DatasetInfo, name: str, *, images_per_class: int, seed: int) -> MemorySplit:
    """Reads some images of each class of a split into memory; the others are dropped as they are read.

    Args:
      data_dir: The data set's folder.
      info: Its manifest.
      name: Split, which the data set has.
      images_per_class: Images of each class; of a class that has fewer, all.
      seed: Chooses them. Of one seed, a larger subset includes every smaller one.

    Raises:
      UserError: As `load_splits`.
    """
    split, record_format = info.splits[name], image_format(info.image_shape)
    files = _checked_files(data_dir, info, name)
    counts = [split.counts_per_class.get(class_name, 0) for class_name in info.class_names]
    choice = StratifiedChoice(counts, images_per_class=images_per_class, seed=seed)
    rows = _host_rows(sum(min(count, images_per_class) for count in counts), record_format, files)
    labels = [np.empty(0, np.int32)]
    done = kept = 0
    for batch_images, batch_labels in read_batches(files, record_format):
        done += len(batch_labels)
        try:
            chosen = choice.mask(batch_labels)
        except IndexError:  # more of a class than the manifest says
            raise wrong_count(files, record_format) from None
        rows.write(kept, batch_images[chosen])
        labels.append(batch_labels[chosen])
        kept += len(labels[-1])
    if done != split.num_examples:
        raise wrong_count(files, record_format)
    short = [class_name for class_name, count in zip(info.class_names, counts, strict=True) if count < images_per_class]
    if short:
        _LOG.info("--images_per_class=%d: fewer in %s, all are taken.", images_per_class, ", ".join(short[:5]))
    return MemorySplit(rows.tensor(), np.concatenate(labels))


def _checked_files(data_dir: str, info: DatasetInfo, name: str) -> list[str]:
    """Returns the paths of a split's shards after a look at each file's size."""
    shards = shard_paths(data_dir, info, name)
    if not shards:
        raise UserError(f"--data_dir={data_dir}: split {name} has no examples")
    for file, shard in shards.items():
        check_size(file, shard.num_bytes)
    return list(shards)


def open_split(
    versions: Sequence[list[str]],
    num_examples: int,
    record_format: RecordFormat,
    *,
    mode: str,
    shuffle_buffer_examples: int,
) -> Split:
    """Opens the split that lies in some files.

    Args:
      versions: Files of each version; all versions hold the same examples in the same order.
      num_examples: Of each version.
      record_format: Of their records.
      mode: memory or stream.
      shuffle_buffer_examples: Window of stream mode.

    Raises:
      UserError: In memory mode a record that does not parse, a wrong number of them, or too little memory.
    """
    if mode == "stream":
        return StreamSplit(versions, num_examples, record_format, shuffle_buffer_examples)
    rows = _host_rows(len(versions) * num_examples, record_format, versions[0])
    labels = np.empty(num_examples, np.int32)
    for version, files in enumerate(versions):
        read_all(files, rows, version * num_examples, labels, record_format)
    return MemorySplit(rows.tensor(), labels)


def _host_rows(num_rows: int, record_format: RecordFormat, files: list[str]) -> HostRows:
    try:
        return HostRows(num_rows, record_format.shape, record_format.dtype)
    except tf.errors.ResourceExhaustedError:
        megabytes = num_rows * record_format.num_bytes / 1e6
        raise UserError(
            f"{files[0]} and the shards beside it ({megabytes:,.0f} MB) do not fit into memory; use "
            "--input_mode=stream, or --bank_mode=stream where these are features"
        ) from None
