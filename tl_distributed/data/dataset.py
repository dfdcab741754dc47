"""Opening the splits of a data set: in memory, or on the disk where their shards are."""

import logging
from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow as tf

from tl_distributed.data.disk_split import DiskSplit
from tl_distributed.data.host_rows import HostRows
from tl_distributed.data.machine import free_memory_bytes
from tl_distributed.data.memory_split import MemorySplit
from tl_distributed.data.record_reader import RecordFile
from tl_distributed.data.records import DatasetInfo
from tl_distributed.data.shards import RecordFormat, image_format, read_in_order, split_files, wrong_count
from tl_distributed.data.splits import Batch, Split
from tl_distributed.data.subset import StratifiedChoice
from tl_distributed.errors import UserError

_LOG = logging.getLogger(__name__)

MEMORY_SHARE = 0.25  # of the free memory: the most that auto gives to the splits


def choose_input_mode(info: DatasetInfo, names: Sequence[str], *, processes_on_machine: int) -> str:
    """Returns memory where the named splits fit into a quarter of the free memory for each process, else disk."""
    num_examples = sum(info.splits[name].num_examples for name in names if name in info.splits)
    num_bytes, free = num_examples * image_format(info).num_bytes, free_memory_bytes()
    mode = "memory" if num_bytes <= MEMORY_SHARE * free / processes_on_machine else "disk"
    if not info.is_indexed:
        _LOG.info("A data set of schema version 1, without indices: it is held in memory.")
        mode = "memory"
    _LOG.info("Input: %s mode (%.0f MB of pixels, %.0f MB of memory free).", mode, num_bytes / 1e6, free / 1e6)
    return mode


def load_splits(data_dir: str, info: DatasetInfo, names: tuple[str, ...], *, input_mode: str) -> dict[str, Split]:
    """Opens the named splits of a finished data set.

    Args:
      data_dir: The data set's folder.
      info: Its manifest.
      names: Splits to open; one that the data set lacks is left out.
      input_mode: memory; disk, or its former name stream; or auto: memory where the splits fit into a quarter of the
        free memory.

    Raises:
      UserError: A split without examples, a missing shard, in memory mode a record that does not parse, or a data set
        that only memory mode can read.
    """
    if input_mode == "auto":
        input_mode = choose_input_mode(info, names, processes_on_machine=1)
    if input_mode != "memory" and not info.is_indexed:
        raise UserError(
            f"--data_dir={data_dir}: a data set of schema version 1 has no indices, by which its records are found; "
            "use --input_mode=memory, or build it again with python -m data_prep.build_tfrecords --overwrite"
        )
    present = [name for name in names if name in info.splits]
    return {
        name: open_split([split_files(data_dir, info, name)], image_format(info), mode=input_mode) for name in present
    }


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
    split, record_format = info.splits[name], image_format(info)
    files = [file.path for file in split_files(data_dir, info, name)]
    counts = [split.counts_per_class.get(class_name, 0) for class_name in info.class_names]
    choice = StratifiedChoice(counts, images_per_class=images_per_class, seed=seed)

    def chosen() -> Iterable[Batch]:
        for batch in read_in_order(files, split.num_examples, record_format):
            try:
                rows = choice.mask(batch.labels)
            except IndexError:  # more of a class than the manifest says
                raise wrong_count(files, record_format) from None
            yield Batch(*(None if part is None else part[rows] for part in batch))

    short = [class_name for class_name, count in zip(info.class_names, counts, strict=True) if count < images_per_class]
    if short:
        _LOG.info("--images_per_class=%d: fewer in %s, all are taken.", images_per_class, ", ".join(short[:5]))
    return _held([chosen()], sum(min(count, images_per_class) for count in counts), record_format, files)


def open_split(versions: Sequence[Sequence[RecordFile]], record_format: RecordFormat, *, mode: str) -> Split:
    """Opens the split that lies in some files.

    Args:
      versions: Files of each version; all versions hold the same examples in the same order.
      record_format: Of their records.
      mode: memory, or disk.

    Raises:
      UserError: In memory mode a record that does not parse, a wrong number of them, or too little memory.
    """
    if mode != "memory":
        return DiskSplit(versions, record_format)
    num_examples = sum(file.num_records for file in versions[0])
    paths = [[file.path for file in files] for files in versions]
    batches = [read_in_order(files, num_examples, record_format) for files in paths]
    return _held(batches, num_examples, record_format, paths[0])


def _held(
    versions: Sequence[Iterable[Batch]], num_examples: int, record_format: RecordFormat, files: Sequence[str]
) -> MemorySplit:
    """Reads the batches of each version, which hold so many examples, into one array."""
    rows = _host_rows(len(versions) * num_examples, record_format, files)
    labels = np.empty([num_examples, *record_format.label_shape], np.int32)
    sizes = np.empty([num_examples, 2], np.int32)
    for version, batches in enumerate(versions):
        done = 0
        for batch in batches:
            end = done + len(batch.labels)
            rows.write(version * num_examples + done, batch.images)
            labels[done:end] = batch.labels
            if batch.sizes is not None:
                sizes[done:end] = batch.sizes
            done = end
    return MemorySplit(rows.tensor(), labels, sizes if record_format.decode is not None else None)


def _host_rows(num_rows: int, record_format: RecordFormat, files: Sequence[str]) -> HostRows:
    try:
        return HostRows(num_rows, record_format.shape, record_format.dtype)
    except tf.errors.ResourceExhaustedError:
        megabytes = num_rows * record_format.num_bytes / 1e6
        raise UserError(
            f"{files[0]} and the shards beside it ({megabytes:,.0f} MB) do not fit into memory; use "
            "--input_mode=disk, or --bank_mode=disk where these are features"
        ) from None
