"""One build from the first image to the finished data set."""

import numpy as np

from data_prep import duplicates, id_lists, manifest, preview, shard_plan, splits, staging
from data_prep.config import BuildConfig
from data_prep.engines.engine import Engine
from data_prep.engines.local import LocalEngine
from data_prep.id_file import IdFile
from data_prep.index import Index
from data_prep.source import Source
from data_prep.sources import source_module
from tl_distributed.data import ids
from tl_distributed.data.records import SPLITS, DatasetInfo
from tl_distributed.data.storing import StorageRule
from tl_distributed.errors import UserError, printable


def build(config: BuildConfig, source: Source | None = None) -> DatasetInfo:
    """Builds the data set that `config` describes and returns its description.

    Args:
      config: Of the build.
      source: Of one's own, in place of the one that `config.source` names.

    Raises:
      UserError: A mistake in the input, the output folder is taken, or the disk refuses (full, no
        permission). Nothing is left behind, and a data set that was there stays as it was.
    """
    import tensorflow as tf

    try:
        with staging.open_staging(config.output_dir, overwrite=config.overwrite) as place:
            info = _build_into(config, source or open_source(config), place)
            place.publish()
            return info
    except (OSError, tf.errors.OpError) as error:
        raise UserError(f"--output_dir={config.output_dir}: {_cause(error)}; nothing was changed there") from error


def open_source(config: BuildConfig) -> Source:
    """Makes the source of `--source`; raises `UserError` as its constructor does."""
    return source_module(config.source).open_source(config)


def _build_into(config: BuildConfig, source: Source, place: staging.Staging) -> DatasetInfo:
    splits.check_class_names(source.class_names)
    rule = StorageRule(
        storage=config.storage_rule, image_size=config.image_size, fit=config.fitting_rule, seed=config.seed,
        max_megapixels=config.max_megapixels,
    )  # fmt: skip
    with IdFile(place.id_path) as id_file, open_engine(config).read(source, rule, place, id_file) as held:
        index = held.index
        source.tell(index, id_file)
        for note in source.notes:
            print(printable(note), flush=True)
        assignment = _assign(config, source, index)
        found = duplicates.describe(index, id_file, source.label_names)
        found[ids.DETAIL] = id_lists.write_ids(place.build_dir, assignment.order, id_file)
        preview.write_preview(place.build_dir, source.class_names, assignment.order["train"], index, held.images, rule)
        plans = {
            name: shard_plan.plan_shards(order, index.lengths, config.num_shards)
            for name, order in assignment.order.items()
        }
        shards = held.write(plans)
    info = manifest.describe(config, source, assignment, index, shards, found)
    manifest.write(place.build_dir, info)
    return info


def open_engine(config: BuildConfig) -> Engine:
    """Makes the engine of `--engine`; raises `UserError` where Beam is missing or its options are wrong."""
    if config.engine == "beam":
        from data_prep.engines.beam import BeamEngine

        return BeamEngine(config)
    return LocalEngine(config)


def _assign(config: BuildConfig, source: Source, index: Index) -> splits.Assignment:
    classes, rows = index.classes_of(np.arange(len(index)))
    _check_readable(source, index)
    splits.check_classes_present(source.class_names, classes, index.origins[rows])
    assignment = splits.assign_splits(
        index.hashes,
        index.strata(len(source.class_names)),
        index.origins,
        index.keys,
        val_fraction=config.val_fraction,
        limit_per_class=config.limit_per_class,
        test_fraction=config.test_fraction,
        groups=index.groups,
    )
    for pair, count in assignment.dropped_duplicates.items():
        dropped, kept = pair.split("/")
        print(f"{count:,} images of {dropped} are in {kept} too, pixel for pixel: kept in {kept} only", flush=True)
    if "test" in source.splits and "test" not in assignment.order:
        print("every image of test is in train too, so there is no test split: a score on it would mean nothing")
    elif "test" not in source.splits and not config.test_fraction:
        print(f"--source={config.source}: has no test split; --test_fraction=0.2 makes one", flush=True)
    for pair, count in assignment.dropped_of_groups.items():
        dropped, kept = pair.split("/")
        print(f"{count:,} images of {dropped} are of groups that {kept} has too: left out of {dropped}", flush=True)
    for name, fraction in (("val", config.val_fraction), ("test", config.test_fraction)):
        if index.groups is not None and fraction and name not in assignment.order:
            print(f"no group is small enough for {name}: there is no {name} split", flush=True)
    train = assignment.order.get("train", np.zeros(0, np.int64))
    for name, count in splits.count_per_class(source.class_names, index.classes_of(train)[0]).items():
        if count == 0 and index.label_sets is not None:
            raise UserError(f"class {name!r}: no image of it is left in train; try another --seed, or smaller shares")
        if count == 0:
            raise UserError(
                f"class {name!r}: every image of train is of a group that test or val has too; none is left"
            )
    return assignment


def _check_readable(source: Source, index: Index) -> None:
    """Raises `UserError` for a split of which nothing could be read: another would be cut in its place."""
    for split in source.splits:
        left_out = index.unreadable.get(split)
        if left_out and not (index.origins == SPLITS.index(split)).any():
            raise UserError(
                f"--skip_unreadable: none of the {len(left_out):,} images of {split} can be read, the first "
                f"{printable(left_out[0])}; mend them, or take the split out of the input"
            )


def _cause(error: Exception) -> str:
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror or error}{where}"
    return f"{getattr(error, 'message', error)}"
