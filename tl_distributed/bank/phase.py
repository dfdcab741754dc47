"""A phase that trains on banked features, and what takes the place of its model and data then."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tl_distributed.bank.build import BankBuilder, FeatureSettings, HeldImages, ImagesOfSplit, ShardImages
from tl_distributed.bank.choice import layout_of, no_room, num_rows
from tl_distributed.bank.cut import Cut
from tl_distributed.bank.layout import (
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
from tl_distributed.bank.settings import BankSettings
from tl_distributed.data.records import DatasetInfo
from tl_distributed.data.settings import DataSettings
from tl_distributed.data.shards import image_format
from tl_distributed.data.splits import Split
from tl_distributed.errors import UserError
from tl_distributed.files import write_json
from tl_distributed.models.plugins import sources_of_layers
from tl_distributed.models.weights import weights_digest
from tl_distributed.runtime.devices import Runtime
from tl_distributed.runtime.preemption import StopRequest
from tl_distributed.runtime.shared_files import wait_until_visible
from tl_distributed.runtime.workers import Workers

_LOG = logging.getLogger(__name__)
_MANIFEST = "bank.json"  # of a bank's folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class BankOfRun:
    """What the banks of a run are made from, and how.

    Attributes:
      settings: As `choice.choose_bank` chose; `bank_dir` is a folder that all workers see.
      data: Where the images lie.
      info: The data set's manifest.
      features: What features depend on beside the weights.
      batch_size: Images computed at once, by all workers.
    """

    settings: BankSettings
    data: DataSettings
    info: DatasetInfo
    features: FeatureSettings
    batch_size: int


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


def open_banked_phase(
    cut: Cut, run: BankOfRun, images: dict[str, Split], *, runtime: Runtime, stop: StopRequest
) -> Trained:
    """Builds what is missing of the phase's banks, one a split, and opens them.

    Args:
      cut: Of the classifier, whose weights are final below it.
      run: The banks' settings and data.
      images: The splits to bank; of the training split it may be a part, held in memory.
      runtime: Every replica of every worker computes its share.
      stop: Asked between batches.

    Raises:
      UserError: A shard that cannot be read.
      SystemExit: 128 + the signal's number, when a signal asked to stop.
    """
    layout = layout_of(cut, run.settings.bank_dtype)
    splits, folders = open_banks(cut, layout, run, images, runtime=runtime, stop=stop)
    seconds = build_seconds(folders["train"])
    _LOG.info("Feature bank: the training images took %.1f s, counted in the run's seconds.", seconds)
    return Trained(cut.tail, layout, splits, seconds)


def open_banks(
    cut: Cut,
    layout: FeatureLayout,
    run: BankOfRun,
    images: Mapping[str, ImagesOfSplit],
    *,
    runtime: Runtime,
    stop: StopRequest,
) -> tuple[dict[str, Split], dict[str, str]]:
    """Builds what is missing of the banks of some splits, and opens them.

    Args:
      cut: Of the classifier, whose weights are final below it.
      layout: Of the rows.
      run: The banks' settings and data.
      images: By the name of the split.
      runtime: Every replica of every worker computes its share.
      stop: Asked between batches.

    Returns:
      The splits of rows, in the data set's order, and the folder of each one's bank.

    Raises:
      UserError: A shard that cannot be read, no room, or a folder that not all workers see.
      SystemExit: 128 + the signal's number, when a signal asked to stop.
    """
    settings = run.settings
    common = {
        "format": FORMAT_VERSION,
        "prefix": weights_digest(cut.prefix, before=cut.prefix.to_json().encode()),
        "precision": runtime.precision,
        "image_size": run.features.image_size,
        "normalization": run.features.normalization,
        "dataset_sha256": run.info.digest(),
        "shapes": [list(shape) for shape in layout.shapes],
        "stored_dtype": layout.stored_dtype,
    }
    if own_sources := sources_of_layers(cut.prefix):
        common["own_sources"] = own_sources
    if run.info.storage != "pixels":
        common["fit"] = run.features.fit
    workers = runtime.workers
    banks = {name: _split_bank(common, name, split, run, writes=workers.is_chief) for name, split in images.items()}
    missing = {name: bank.missing(workers) for name, bank in banks.items()}
    for bank in banks.values():  # the chief wrote what lies there
        wait_until_visible(f"{bank.folder}/{_MANIFEST}", workers, flag="--bank_dir")
    _log_bank(settings, layout, cut, banks, {name: split.num_examples for name, split in images.items()}, missing)
    num_missing = sum(len(shard.examples) for shards in missing.values() for shard in shards)
    if num_missing:
        if reason := no_room(settings.bank_dir, num_missing * layout.row_bytes):
            raise UserError(f"--feature_bank: {reason}")
        builder = BankBuilder(cut.prefix, layout, run.features, runtime)
        for name, shards in missing.items():
            if not shards:
                continue
            held = banks[name].is_part
            source = HeldImages(images[name]) if held else ShardImages(image_format(run.info))
            builder.build(shards, source, label=name, batch_size=run.batch_size, stop=stop)
            for shard in shards if workers.count > 1 else ():
                wait_until_visible(shard.path, workers, flag="--bank_dir")
    splits = {
        name: open_bank_split(
            bank.versions,
            bank.folder,
            layout,
            mode=settings.bank_mode,
            label_shape=run.info.label_shape,
        )
        for name, bank in banks.items()
    }
    return splits, {name: bank.folder for name, bank in banks.items()}


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
    common: dict[str, Any], name: str, images: ImagesOfSplit, run: BankOfRun, *, writes: bool
) -> _SplitBank:
    """Returns a split's bank, in a folder named by all that its content depends on and by nothing else."""
    views = run.settings.bank_views if name == "train" else 0
    is_part = images.num_examples < run.info.splits[name].num_examples
    content = {
        **common,
        "split": name,
        "views": views,
        "augment": run.features.augment.strengths() if views else None,
        "images_per_class": run.data.images_per_class if is_part else None,
        "seed": run.features.seed if views or is_part else None,
    }
    folder = f"{run.settings.bank_dir}/{bank_key(content)}"
    tf.io.gfile.makedirs(folder)
    if writes:
        write_json(f"{folder}/{_MANIFEST}", content)
    if is_part:
        return _SplitBank(folder, part_shards(folder, name, images.num_examples, views), is_part)
    return _SplitBank(folder, bank_shards(folder, run.data.shard_dir, run.info, name, views), is_part)


def _log_bank(
    settings: BankSettings,
    layout: FeatureLayout,
    cut: Cut,
    banks: dict[str, _SplitBank],
    num_examples: dict[str, int],
    missing: dict[str, list[BankShard]],
) -> None:
    num_missing = sum(map(len, missing.values()))
    _LOG.info(
        "Feature bank %s: output of %s, %s values of %s an image, %.0f MB, %s; %s (%s).",
        settings.bank_dir, " and ".join(cut.prefix.output_names), f"{layout.row_length:,}", layout.stored_dtype,
        num_rows(num_examples, settings.bank_views) * layout.row_bytes / 1e6,
        "held in memory" if settings.bank_mode == "memory" else "read from its files",
        f"{num_missing} shards are to be built" if num_missing else "found there, complete",
        ", ".join(f"{name}: {bank.folder.rsplit('/', 1)[1]}" for name, bank in banks.items()),
    )  # fmt: skip
    if settings.bank_views:
        _LOG.info(
            "An approximation: training sees %d fixed random views of each image, one an epoch in turn, instead of a "
            "new one in every epoch.", settings.bank_views,
        )  # fmt: skip
    if layout.stored_dtype not in ("float32", *cut.dtypes):
        _LOG.info("An approximation: features are rounded from %s to %s.", cut.dtypes[0], layout.stored_dtype)
