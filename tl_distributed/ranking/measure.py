"""What is measured of one candidate, in a process of its own: its features, what probes make of them, what it costs."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tl_distributed.bank.build import FeatureSettings
from tl_distributed.bank.choice import layout_of
from tl_distributed.bank.cut import Cut, cut_at_frozen
from tl_distributed.bank.layout import FeatureLayout
from tl_distributed.bank.phase import BankOfRun, open_banks
from tl_distributed.data.records import SPLITS, DatasetInfo, read_manifest
from tl_distributed.data.splits import Split
from tl_distributed.errors import DownloadError, UserError
from tl_distributed.files import write_json
from tl_distributed.models.backbones import Backbone
from tl_distributed.models.build import build_model
from tl_distributed.models.flops import count_macs
from tl_distributed.models.folding import folded_batch_norm
from tl_distributed.models.freezing import freeze_for
from tl_distributed.ranking.few_shot import few_shot_curve
from tl_distributed.ranking.logme import log_maximum_evidence
from tl_distributed.ranking.probes import Rows, logistic_regression, nearest_neighbours
from tl_distributed.ranking.sample import open_sample
from tl_distributed.ranking.settings import Candidate, RankConfig
from tl_distributed.runtime.devices import Runtime, start_runtime
from tl_distributed.runtime.preemption import StopRequest
from tl_distributed.runtime.workers import Workers
from tl_distributed.training.input import fit_of_run

RESULT_FILE = "result.json"
_READ_ROWS = 4096
_TIMED_SECONDS = 1.0  # at least, and a batch
_FEWEST_CLASSES = 2  # of a head that is never used: so small that the cut is made right below it


def measure(config: RankConfig, candidate: Candidate, sample: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Measures a candidate and writes its result.

    Args:
      config: Of the ranking.
      candidate: One of its candidates.
      sample: Folder of `sample.write_sample`.
      settings: Kept with the result: by which it is known again.

    Returns:
      The content of its `result.json`.

    Raises:
      UserError: Whatever the user can mend: weights that cannot be had, an image too small, memory, the disk.
      SystemExit: 128 + the signal's number, when a signal asked to stop.
    """
    info = read_manifest(config.data_dir)
    row = candidate.row(config.normalization)
    runtime = start_runtime(
        config.runtime_settings(), Workers(), global_batch_size=config.batch_size, seed=config.seed,
        deterministic=False, model_family=row.family or row.name,
    )  # fmt: skip
    size = config.image_size or row.default_size or max(info.image_shape[:2])
    cut = _frozen_part(config, candidate, row, size, runtime)
    layout = layout_of(cut, "auto")
    rows = _features(config, cut, layout, row, size, sample, info, runtime)
    train, scored = rows["train"], {name: own for name, own in rows.items() if name != "train"}
    shown = "test" if "test" in scored else "val"
    started = time.perf_counter()
    logistic, nearest = logistic_regression(train, scored), nearest_neighbours(train, scored)
    result = {
        "candidate": candidate.name, "backbone": candidate.backbone, "weights": candidate.weights,
        "image_size": size, "features": train.features.shape[1],
        "parameters": cut.prefix.count_params(), "macs": _macs(cut.prefix),
        "seconds_per_1000_images": _seconds_per_1000_images(cut.prefix, config, size, runtime),
        "num_images": {name: len(own.labels) for name, own in rows.items()},
        **{f"logistic_{name}_accuracy": logistic.accuracy(name) for name in scored},
        "logistic_l2": logistic.chosen,
        **{f"knn_{name}_accuracy": nearest.accuracy(name) for name in scored},
        "knn_k": int(nearest.chosen),
        "logme": log_maximum_evidence(train.features, train.labels, info.num_classes),
        "few_shot": [dataclasses.asdict(one) for one in few_shot_curve(
            train, scored, _sizes(config), draws=config.draws, seed=config.seed, shown=shown
        )],
        "few_shot_split": shown,
        "logistic_val_right": "".join("01"[right] for right in logistic.right["val"].tolist()),
        "probe_seconds": time.perf_counter() - started,
        "devices": list(runtime.devices), "precision": runtime.precision, "settings": settings,
    }  # fmt: skip
    folder = f"{config.folder}/{candidate.folder}"
    tf.io.gfile.makedirs(folder)
    write_json(f"{folder}/{RESULT_FILE}", result)
    return result


def _sizes(config: RankConfig) -> list[int]:
    most = config.images_per_class
    return sorted({size for size in config.few_shot if not most or size <= most})


def _frozen_part(config: RankConfig, candidate: Candidate, row: Backbone, size: int, runtime: Runtime) -> Cut:
    """Builds the backbone with its weights, up to the pooled features."""
    settings = candidate.model_settings(config.normalization, pooling=config.pooling)
    try:
        with runtime.strategy.scope():
            model = build_model(
                settings, row, image_size=size, num_classes=_FEWEST_CLASSES, load_weights=True,
                why_new_head=lambda _: "probes take its place",
            )  # fmt: skip
    except DownloadError as error:
        raise UserError(
            f"its weights cannot be downloaded ({error.cause}); without internet: data_prep.fetch_weights, then "
            "--weights=FOLDER"
        ) from None
    freeze_for(model, "frozen", unfreeze_last_layers=0, unfreeze_from="")
    cut = cut_at_frozen(model, in_training=False)
    if cut is None:
        raise UserError(f"--backbones={candidate.name}: has no weights, so that there is nothing to rank")
    return cut


def _features(
    config: RankConfig, cut: Cut, layout: FeatureLayout, row: Backbone, size: int, sample: str, info: DatasetInfo,
    runtime: Runtime,
) -> dict[str, Rows]:  # fmt: skip
    """Computes the features of every split's sample, one split after the other, by the feature bank."""
    features = FeatureSettings(
        image_size=size, normalization=row.normalization, augment=None, seed=config.seed,
        fit=fit_of_run(config.fit, info),
    )  # fmt: skip
    rows = {}
    with StopRequest(runtime.workers) as stop:
        for name in (name for name in SPLITS if name in info.splits):
            bank = BankOfRun(
                settings=config.bank_settings(), data=config.data_settings(name), info=info, features=features,
                batch_size=config.batch_size,
            )  # fmt: skip
            images = {name: open_sample(sample, config, info, name)}
            splits, _ = open_banks(cut, layout, bank, images, runtime=runtime, stop=stop)
            rows[name] = _read(splits[name], layout, config)
    return rows


def _read(split: Split, layout: FeatureLayout, config: RankConfig) -> Rows:
    """Reads the rows of a bank as float32.

    Raises:
      UserError: Features that are no numbers.
    """
    features = np.empty((split.num_examples, layout.row_length), np.float32)
    labels = np.empty(split.num_examples, np.int32)
    for place, batch in zip(range(0, split.num_examples, _READ_ROWS), split.eval_batches(_READ_ROWS), strict=True):
        valid = batch.valid()
        features[place : place + _READ_ROWS], labels[place : place + _READ_ROWS] = valid.images, valid.labels
    if not np.isfinite(features).all():
        raise UserError("its features are not finite; try --precision=float32")
    return Rows(features, labels)


def _macs(prefix: keras.Model) -> int | None:
    try:
        return count_macs(prefix)
    except ValueError:  # of one's own, whose sizes are not static
        return None


def _seconds_per_1000_images(prefix: keras.Model, config: RankConfig, size: int, runtime: Runtime) -> float:
    """Times the frozen part on one device, from normalised images to features, without reading them."""

    def infer(images: tf.Tensor) -> Sequence[tf.Tensor]:
        with folded_batch_norm(prefix):
            return prefix(images, training=False)

    compiled = tf.function(infer, jit_compile=runtime.use_xla or None, autograph=False)
    count = -(-config.batch_size // runtime.num_local_replicas)
    with tf.device(runtime.strategy.extended.worker_devices[0]):
        images = tf.random.stateless_uniform([count, size, size, 3], (0, 0), -1, 1)

        def run() -> None:
            tf.nest.flatten(compiled(images))[0].numpy()

        run()
        started, batches = time.perf_counter(), 0
        while batches == 0 or time.perf_counter() - started < _TIMED_SECONDS:
            run()
            batches += 1
    return 1000 * (time.perf_counter() - started) / (batches * count)
