"""When a phase trains from banked features, and what takes the place of its model and data then."""

import dataclasses
import hashlib
import logging
import math
import os
from collections.abc import Sequence
from typing import Any

import keras
import psutil
import tensorflow as tf

from tl_distributed.commandline import UserError
from tl_distributed.config import Config
from tl_distributed.data.dataset import MEMORY_SHARE
from tl_distributed.data.feature_bank import (
    FORMAT_VERSION,
    BankShard,
    FeatureLayout,
    bank_key,
    bank_shards,
    build_seconds,
    open_bank_split,
    part_shards,
    remove_leftovers,
)
from tl_distributed.data.free_memory import free_memory_bytes
from tl_distributed.data.records import DatasetInfo
from tl_distributed.data.shards import image_format
from tl_distributed.data.splits import Split
from tl_distributed.models.cutting import Cut
from tl_distributed.reporting.report import write_json
from tl_distributed.runtime import Runtime
from tl_distributed.training.bank_builder import BankBuilder, BankSettings, HeldImages, ShardImages
from tl_distributed.training.phases import Phase
from tl_distributed.training.preemption import StopRequest
from tl_distributed.training.workdir import dataset_digest
from tl_distributed.workers import Workers

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a phase trains and evaluates, and on what.

    Attributes:
      model: The whole classifier, or its tail, whose variables are the classifier's own.
      layout: Of the rows of features; `None` where the splits hold images.
      splits: Of images, or of rows in their place, in the data set's order.
      bank_seconds: How long the rows of the training split took to compute, in this run or in an earlier one.
    """

    model: keras.Model
    layout: FeatureLayout | None
    splits: dict[str, Split]
    bank_seconds: float = 0.0


def layout_of(cut: Cut, bank_dtype: str) -> FeatureLayout:
    """Returns how the features of a cut are stored; `bank_dtype` auto keeps the type that they are computed in."""
    if bank_dtype == "auto":
        bank_dtype = cut.dtypes[0] if len(set(cut.dtypes)) == 1 else "float32"
    return FeatureLayout(cut.shapes, cut.dtypes, bank_dtype)


def resolve_bank(
    config: Config,
    phases: Sequence[Phase],
    cuts: Sequence[Cut | None],
    num_examples: dict[str, int],
    workers: Workers,
) -> Config:
    """Decides whether a run banks features, and whether it holds them in memory; says why.

    Args:
      config: Resolved but for `feature_bank` and `bank_mode`, one of which may still be auto.
      phases: Of the run.
      cuts: Of each phase.
      num_examples: Of each split, as it is trained and evaluated.
      workers: Choose alike: no bank where one of them has no room, and memory only where all have it.

    Returns:
      The config with both resolved.

    Raises:
      UserError: `--feature_bank=on` where there is nothing to bank, or no room.
    """
    chosen = _resolve_alone(config, phases, cuts, num_examples, workers.count_on_machine)
    everyones = workers.exchange("feature bank", [chosen.feature_bank, chosen.bank_mode])
    if any(bank == "off" for bank, _ in everyones):
        return _off(config)
    mode = "stream" if any(mode == "stream" for _, mode in everyones) else "memory"
    return dataclasses.replace(chosen, bank_mode=mode)


def _resolve_alone(
    config: Config,
    phases: Sequence[Phase],
    cuts: Sequence[Cut | None],
    num_examples: dict[str, int],
    processes_on_machine: int,
) -> Config:
    if config.feature_bank == "off":
        return _off(config)
    banked = [(phase, cut) for phase, cut in zip(phases, cuts, strict=True) if cut is not None]
    wanted = config.feature_bank == "on"
    sizes = [_num_rows(config, num_examples) * layout_of(cut, config.bank_dtype).row_bytes for _, cut in banked]
    reason = _why_not(config, phases, banked, wanted) or _no_room(config, sum(sizes) - _built_bytes(config))
    if reason and wanted:
        raise UserError(f"--feature_bank=on: {reason}")
    if reason:
        _LOG.info("Feature bank: off, since %s.", reason)
        return _off(config)
    mode = config.bank_mode
    if mode == "auto":
        share = MEMORY_SHARE * free_memory_bytes() / processes_on_machine
        mode = "memory" if max(sizes) <= share else "stream"
    return dataclasses.replace(config, feature_bank="on", bank_mode=mode)


def _off(config: Config) -> Config:
    return dataclasses.replace(config, feature_bank="off")


def _why_not(config: Config, phases: Sequence[Phase], banked: Sequence[tuple[Phase, Cut]], wanted: bool) -> str:
    """Returns why features are not banked, or nothing."""
    if reason := config.why_nothing_to_bank():
        return reason
    if not banked:
        return "no layer is frozen before the first one that trains"
    epochs, first_step, last_step = 0.0, 0, config.max_steps or math.inf
    for phase in phases:
        if any(phase is one for one, _ in banked):
            steps = max(min(phase.total_steps, last_step - first_step), 0)
            epochs += phase.epochs * steps / phase.total_steps
        first_step += phase.total_steps
    if not wanted and epochs <= max(config.bank_views, 1) * len(banked):
        return "the run is too short for it to pay"
    return ""


def _num_rows(config: Config, num_examples: dict[str, int]) -> int:
    return sum(num_examples.values()) + num_examples["train"] * (max(config.bank_views, 1) - 1)


def _no_room(config: Config, num_bytes: int) -> str:
    """Returns what to say where the disk has no room for as many bytes, or nothing."""
    folder = bank_dir(config)
    if "://" in folder:
        return ""
    existing = os.path.abspath(folder)
    while not os.path.exists(existing):
        existing = os.path.dirname(existing)
    free = psutil.disk_usage(existing).free
    if num_bytes <= free:
        return ""
    return f"{folder} has {free / 1e9:.3g} GB left, the bank takes {num_bytes / 1e9:.3g} GB; --bank_dir names another"


def _built_bytes(config: Config) -> int:
    """Returns the size of the banks that are there; which of them are this run's is known when they are opened."""
    return sum(tf.io.gfile.stat(path).length for path in tf.io.gfile.glob(f"{bank_dir(config)}/*/*.tfrecord"))


def bank_dir(config: Config) -> str:
    """Returns the folder of the run's banks."""
    return config.bank_dir.rstrip("/") or f"{config.workdir}/feature_bank"


def open_banked_phase(
    cut: Cut,
    config: Config,
    info: DatasetInfo,
    images: dict[str, Split],
    *,
    normalization: str,
    runtime: Runtime,
    stop: StopRequest,
) -> Trained:
    """Builds what is missing of the phase's banks, one a split, and opens them.

    Args:
      cut: Of the classifier, whose weights are final below it.
      config: After `resolve_bank`.
      info: The data set's manifest.
      images: The splits to bank; of the training split it may be a part, held in memory.
      normalization: Of the backbone.
      runtime: Every replica of every worker computes its share. The folder of the banks is one that all workers see.
      stop: Asked between batches.

    Raises:
      UserError: A shard that cannot be read.
      SystemExit: 128 + the signal's number, when a signal asked to stop.
    """
    layout = layout_of(cut, config.bank_dtype)
    augment = config.augment_settings() if config.bank_views else None
    settings = BankSettings(
        image_size=config.image_size, normalization=normalization, augment=augment, seed=config.seed
    )
    common = {
        "format": FORMAT_VERSION,
        "prefix": _prefix_digest(cut.prefix),
        "precision": runtime.precision,
        "image_size": config.image_size,
        "normalization": normalization,
        "dataset_sha256": dataset_digest(info),
        "shapes": [list(shape) for shape in layout.shapes],
        "stored_dtype": layout.stored_dtype,
    }
    workers = runtime.workers
    banks = {
        name: _split_bank(common, name, split, config, info, writes=workers.is_chief) for name, split in images.items()
    }
    missing = {name: bank.missing(workers) for name, bank in banks.items()}
    _log_bank(config, layout, cut, banks, {name: split.num_examples for name, split in images.items()}, missing)
    num_missing = sum(len(shard.examples) for shards in missing.values() for shard in shards)
    if num_missing:
        if reason := _no_room(config, num_missing * layout.row_bytes):
            raise UserError(f"--feature_bank: {reason}")
        builder = BankBuilder(cut.prefix, layout, settings, runtime)
        for name, shards in missing.items():
            if not shards:
                continue
            source = HeldImages(images[name]) if banks[name].is_part else ShardImages(image_format(info.image_shape))
            builder.build(shards, source, label=name, batch_size=config.global_batch_size, stop=stop)
    splits = {
        name: open_bank_split(
            bank.versions,
            bank.folder,
            layout,
            mode=config.bank_mode,
            shuffle_buffer_examples=config.shuffle_buffer_examples,
        )
        for name, bank in banks.items()
    }
    seconds = build_seconds(banks["train"].folder)
    _LOG.info("Feature bank: the training images took %.1f s, counted in the run's seconds.", seconds)
    return Trained(cut.tail, layout, splits, seconds)


@dataclasses.dataclass(frozen=True)
class _SplitBank:
    """The bank of one split: its folder, the shards of each version, and whether it is of a part of the split."""

    folder: str
    versions: list[list[BankShard]]
    is_part: bool

    def missing(self, workers: Workers) -> list[BankShard]:
        """Returns the shards that are to be built, after removing what dead builds left."""
        remove_leftovers(self.folder)
        found = [f"{self.folder}/{name}" for name in tf.io.gfile.listdir(self.folder)]
        finished = set(workers.from_chief("shards of the bank", found))
        return [shard for version in self.versions for shard in version if shard.path not in finished]


def _split_bank(
    common: dict[str, Any], name: str, images: Split, config: Config, info: DatasetInfo, *, writes: bool
) -> _SplitBank:
    """Returns a split's bank, in a folder named by all that its content depends on and by nothing else."""
    views = config.bank_views if name == "train" else 0
    is_part = images.num_examples < info.splits[name].num_examples
    content = {
        **common,
        "split": name,
        "views": views,
        "augment": dataclasses.asdict(config.augment_settings()) if views else None,
        "images_per_class": config.images_per_class if is_part else None,
        "seed": config.seed if views or is_part else None,
    }
    folder = f"{bank_dir(config)}/{bank_key(content)}"
    tf.io.gfile.makedirs(folder)
    if writes:
        write_json(f"{folder}/bank.json", content)
    if is_part:
        return _SplitBank(folder, part_shards(folder, name, images.num_examples, views), is_part)
    return _SplitBank(folder, bank_shards(folder, config.shard_dir, info, name, views), is_part)


def _prefix_digest(prefix: keras.Model) -> str:
    """Returns the SHA-256 in hex of a model's architecture and weights."""
    digest = hashlib.sha256(prefix.to_json().encode())
    for weight in prefix.weights:
        if "seed_generator" not in weight.path:
            digest.update(weight.numpy().tobytes())
    return digest.hexdigest()


def _log_bank(
    config: Config,
    layout: FeatureLayout,
    cut: Cut,
    banks: dict[str, _SplitBank],
    num_examples: dict[str, int],
    missing: dict[str, list[BankShard]],
) -> None:
    num_missing = sum(map(len, missing.values()))
    _LOG.info(
        "Feature bank %s: output of %s, %s values of %s an image, %.0f MB, %s; %s (%s).",
        bank_dir(config), " and ".join(cut.prefix.output_names), f"{layout.row_length:,}", layout.stored_dtype,
        _num_rows(config, num_examples) * layout.row_bytes / 1e6,
        "held in memory" if config.bank_mode == "memory" else "streamed",
        f"{num_missing} shards are to be built" if num_missing else "found there, complete",
        ", ".join(f"{name}: {bank.folder.rsplit('/', 1)[1]}" for name, bank in banks.items()),
    )  # fmt: skip
    if config.bank_views:
        _LOG.info(
            "An approximation: training sees %d fixed random views of each image, one an epoch in turn, instead of a "
            "new one in every epoch.", config.bank_views,
        )  # fmt: skip
    if layout.stored_dtype not in ("float32", *cut.dtypes):
        _LOG.info("An approximation: features are rounded from %s to %s.", cut.dtypes[0], layout.stored_dtype)
