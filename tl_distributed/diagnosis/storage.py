"""Checks of files: the data set, and the place that the run will write to."""

import os
import shutil
import tempfile
from collections.abc import Iterator

from tl_distributed.diagnosis.checks import Subject
from tl_distributed.diagnosis.report import FAILED, OK, WARNING, Finding
from tl_distributed.errors import UserError
from tl_distributed.settings.config import Config

FILES = "Data and disk"
_READ_IN_FULL_BYTES = 256 * 10**6
_LOW_DISK_BYTES = 2 * 10**9  # two checkpoints and the best of a backbone of 50 million weights with Adam's two moments


def data_set(subject: Subject) -> Iterator[Finding]:
    """Sizes and counts of every shard against dataset.json, and the records themselves where that is quick."""
    from tl_distributed.data.records import read_manifest
    from tl_distributed.data.shards import check_size

    folder = subject.config.data_dir
    info = read_manifest(folder)
    if not info.splits.get("train") or not info.splits["train"].num_examples:
        raise UserError(f"--data_dir={folder}: no train split; build the data set again with --overwrite")
    num_bytes = 0
    for name, split in info.splits.items():
        counts = {sum(shard.num_records for shard in split.shards), sum(split.counts_per_class.values())}
        if counts != {split.num_examples}:
            raise UserError(
                f"{folder}/dataset.json: split {name} has {split.num_examples} examples, its shards and classes add up "
                f"to {', '.join(map(str, sorted(counts)))}; build the data set again with --overwrite"
            )
        for shard in split.shards:
            check_size(f"{folder.rstrip('/')}/{shard.file}", shard.num_bytes)
            num_bytes += shard.num_bytes
    wanted = subject.config.verify
    in_full = wanted == "full" or (wanted == "auto" and num_bytes <= _READ_IN_FULL_BYTES)
    if in_full:
        from tl_distributed.data.verify import verify

        verify(folder)
    splits = {name: split.num_examples for name, split in info.splits.items()}
    counted = ", ".join(f"{count} {name}" for name, count in splits.items())
    looked_at = (
        "every record and SHA-256 as declared"
        if in_full
        else "sizes and counts as declared (--verify=full reads the records)"
    )
    yield Finding(
        topic=FILES, name="data set", status=OK,
        value=f"{folder}: {info.num_classes} classes, {counted}: {info.images_in_words()}, {num_bytes / 1e6:.1f} MB; "
        f"{looked_at}",
        data={"num_bytes": num_bytes, "num_examples": splits, "verified_in_full": in_full},
    )  # fmt: skip


def workdir(subject: Subject) -> Iterator[Finding]:
    """Whether the run's folder can be written, and what is free there."""
    folder = workdir_of(subject.config)
    if "://" in folder:
        import tensorflow as tf

        there = "exists" if tf.io.gfile.exists(folder) else "does not exist yet"  # raises without access
        yield Finding(topic=FILES, name="workdir", value=f"{folder}: reached, {there}", status=OK)
        return
    parent = _existing_parent(folder)
    try:
        with tempfile.TemporaryFile(dir=parent) as file:  # has no name: nothing can be left behind
            file.write(bytes(2**20))
    except OSError as error:
        yield Finding(
            topic=FILES, name="workdir", value=f"{folder}: {parent} cannot be written ({error.strerror})",
            status=FAILED, remedy="choose another --workdir, or make room there",
        )  # fmt: skip
        return
    free = shutil.disk_usage(parent).free
    low = free < _LOW_DISK_BYTES
    yield Finding(
        topic=FILES, name="workdir", value=f"{folder}: {free / 1e9:.1f} GB free", status=WARNING if low else OK,
        remedy="checkpoints of a large backbone may not fit: choose another --workdir, or make room" if low else "",
        data={"free_bytes": free},
    )  # fmt: skip


def workdir_of(config: Config) -> str:
    """Returns the folder that train would write to."""
    return config.workdir or config.resolved(native_size=1).workdir  # its name does not depend on the images' size


def _existing_parent(folder: str) -> str:
    folder = os.path.abspath(folder)
    while not os.path.isdir(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    return folder
