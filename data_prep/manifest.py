"""The description of a finished build, `dataset.json`: how it is made up and written."""

import os
from typing import Any

import numpy as np

from data_prep import splits, summary
from data_prep.config import BuildConfig
from data_prep.index import Index
from data_prep.reading import ORDER_KEY
from data_prep.source import Source
from tl_distributed.data.decoder import decoder_versions
from tl_distributed.data.fit_rules import IN_WORDS
from tl_distributed.data.records import MANIFEST_FILE, DatasetInfo, Shard, Split, canvas_size
from tl_distributed.data.storing import CONTENT_HASH
from tl_distributed.errors import printable

_SHARE = "a stratified share of the source's train, chosen by content and seed"
_SHARE_BY_RAREST = "a share of the source's train, stratified by each image's rarest label, chosen by content and seed"


def describe(
    config: BuildConfig,
    source: Source,
    assignment: splits.Assignment,
    index: Index,
    shards: dict[str, tuple[Shard, ...]],
    found: dict[str, Any],
) -> DatasetInfo:
    """Puts together everything that a reader, or a person years later, may ask of the data set.

    `found` is what else is known of the images, as JSON values: duplicates, and the files of their ids.

    Holds nothing that differs between two builds of the same input: no time, no host, no output path.
    """
    described = {
        name: Split(len(order), splits.count_per_class(source.class_names, index.classes_of(order)[0]), shards[name])
        for name, order in assignment.order.items()
    }
    own_val, own_test = ("val" in source.splits), ("test" in source.splits)
    share = _SHARE if source.label_sets is None else _SHARE_BY_RAREST
    details = {
        "input": config.input,
        "val": "the source's own" if own_val else share,
        "val_fraction": None if own_val else config.val_fraction,
        **({"test": share, "test_fraction": config.test_fraction} if config.test_fraction and not own_test else {}),
        "limit_per_class": config.limit_per_class,
        "content_hash": CONTENT_HASH,
        "order": ORDER_KEY,
        "resize": _resizing(config),
        "dropped_duplicates": assignment.dropped_duplicates,
        "dropped_of_groups": assignment.dropped_of_groups,
        "repeats_within": assignment.repeats_within,
        **found,
        "source": dict(source.details),
    }
    decoder = details["source"].pop("decoder", {}) or ({} if config.storage_rule == "pixels" else decoder_versions())
    size = config.image_size
    used = np.concatenate(list(assignment.order.values()))
    shapes = np.unique(index.sizes[used], axis=0)
    info = DatasetInfo(
        tuple(source.class_names), (size, size, 3), config.seed, source.name, described, details,
        fit=config.fitting_rule, storage=config.storage_rule, canvas_size=canvas_size(shapes.tolist(), size),
        decoder=decoder, most_labels=_most_labels(index, used),
    )  # fmt: skip
    details["summary"] = summary.summarise(info)
    return info


def _most_labels(index: Index, used: np.ndarray) -> int:
    if index.label_sets is None:
        return 0
    return max(1, *(len(index.label_sets[label]) for label in np.unique(index.labels[used]).tolist()))


def _resizing(config: BuildConfig) -> str:
    if config.storage_rule == "pixels":
        return f"bilinear, antialiased, {IN_WORDS[config.fitting_rule]}"
    if config.storage_rule == "jpeg":
        return f"bilinear, antialiased, shorter side to {config.image_size} where it is longer"
    return "none; files that TensorFlow does not decode to the same upright picture became JPEG"


def write(folder: str, info: DatasetInfo) -> None:
    """Writes `dataset.json` in a local folder: to a temporary name, flushed to the disk, then renamed."""
    path = os.path.join(folder, MANIFEST_FILE)
    with open(path + ".tmp", "w", encoding="utf-8") as file:
        file.write(info.to_json())
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".tmp", path)


def table(info: DatasetInfo) -> str:
    """Returns a table of images by class and split, for the terminal."""
    names = list(info.splits)
    shown = {label: printable(label) for label in info.class_names}
    width = max(len("images"), *map(len, shown.values()))
    header = " ".join([" " * width, *(f"{name:>10}" for name in names)])
    rows = [
        " ".join([f"{shown[label]:<{width}}", *(f"{info.splits[name].counts_per_class[label]:>10,}" for name in names)])
        for label in info.class_names
    ]
    if len(rows) > MAX_ROWS:
        rows = [*rows[: MAX_ROWS - 1], f"... {len(rows) - MAX_ROWS + 1} more classes"]
    totals = " ".join([f"{'images':<{width}}", *(f"{info.splits[name].num_examples:>10,}" for name in names)])
    return "\n".join([header, *rows, totals])


MAX_ROWS = 30  # of a table; ImageNet's thousand classes would push everything else off the screen
