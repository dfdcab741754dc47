"""Reads what the runs of a study left, and sums it up by arm."""

import csv
import dataclasses
import io
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tl_distributed.errors import UserError
from tl_distributed.files import read_json
from tl_distributed.reporting.metrics_log import read_metrics
from tl_distributed.reporting.scores import confusion_counts
from tl_distributed.reporting.spread import Spread
from tl_distributed.studies.plan import Plan, Run
from tl_distributed.studies.runner import FAILURE_FILE
from tl_distributed.studies.statistics import Comparison, compare, holm
from tl_distributed.training.outcome import PREDICTIONS_FILE

_CONVERGED_WITHIN = 0.01  # of the best validation accuracy


@dataclasses.dataclass(frozen=True)
class Epoch:
    """One epoch of a run: accuracies in [0, 1], losses in nats, training seconds since its start.

    The training figures are means over the epoch while the weights changed, with augmentation and dropout on.
    """

    epoch: float
    train_accuracy: float
    train_loss: float
    val_accuracy: float
    val_loss: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Record:
    """What a run left: `status` is done, failed or not run; `results` and the rest are of a done run."""

    run: Run
    folder: str
    status: str
    reason: str = ""
    results: dict[str, Any] = dataclasses.field(default_factory=dict)
    epochs: tuple[Epoch, ...] = ()
    devices: tuple[str, ...] = ()
    labels: np.ndarray | None = None
    predictions: np.ndarray | None = None

    @property
    def right(self) -> np.ndarray:
        """`[n] bool`, which test images the run got right."""
        return self.predictions == self.labels

    @property
    def best_epoch(self) -> Epoch | None:
        """The epoch whose weights were scored: the first of the best validation accuracy."""
        return max(self.epochs, key=lambda epoch: epoch.val_accuracy, default=None)

    @property
    def convergence_epoch(self) -> float | None:
        """The first epoch within one point of the best validation accuracy."""
        if not self.epochs:
            return None
        threshold = self.best_epoch.val_accuracy - _CONVERGED_WITHIN
        return next(epoch.epoch for epoch in self.epochs if epoch.val_accuracy >= threshold)


@dataclasses.dataclass(frozen=True)
class ArmSummary:
    """The done runs of one arm with one size of the training set; at least one."""

    name: str
    images_per_class: int
    records: tuple[Record, ...]

    def spread_of(self, figure: str) -> Spread:
        """Returns mean and spread of a number of `results.json` over the seeds."""
        return Spread.of([record.results[figure] for record in self.records])

    @property
    def test_accuracy(self) -> Spread:
        return self.spread_of("test_accuracy")

    @property
    def gap(self) -> float | None:
        """Training minus validation accuracy at the chosen epoch, mean over the seeds."""
        best = [record.best_epoch for record in self.records if record.best_epoch]
        return float(np.mean([epoch.train_accuracy - epoch.val_accuracy for epoch in best])) if best else None

    @property
    def convergence_epoch(self) -> float | None:
        epochs = [record.convergence_epoch for record in self.records if record.convergence_epoch is not None]
        return float(np.mean(epochs)) if epochs else None

    @property
    def confusion(self) -> np.ndarray:
        """`[classes, classes]` shares of the true class, over all seeds."""
        num_classes = len(self.records[0].results["class_names"])
        counts = sum(confusion_counts(record.labels, record.predictions, num_classes) for record in self.records)
        return counts / np.maximum(counts.sum(1, keepdims=True), 1)

    @property
    def per_class_accuracy(self) -> np.ndarray:
        """`[classes]`, over all seeds; 0 of a class without test images."""
        num_classes = len(self.records[0].results["class_names"])
        labels = np.concatenate([record.labels for record in self.records])
        right = np.concatenate([record.right for record in self.records])
        counts = np.bincount(labels, minlength=num_classes)
        return np.bincount(labels[right], minlength=num_classes) / np.maximum(counts, 1)


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two arms compared at the largest size; `adjusted_p` allows for the number of all pairs (Holm)."""

    first: str
    second: str
    comparison: Comparison
    adjusted_p: float


def load_records(plan: Plan, workdir: str) -> list[Record]:
    """Returns a record for every run of the plan, in its order."""
    return [_load(run, f"{workdir}/{run.folder}") for run in plan.runs]


def _load(run: Run, folder: str) -> Record:
    results = read_json(f"{folder}/results.json")
    if results is None:
        failure = read_json(f"{folder}/{FAILURE_FILE}")
        return Record(run, folder, "failed", failure["reason"]) if failure else Record(run, folder, "not run")
    with tf.io.gfile.GFile(f"{folder}/{PREDICTIONS_FILE}", "rb") as file:
        saved = np.load(io.BytesIO(file.read()), allow_pickle=False)
        labels, predictions = saved["labels"], saved["probabilities"].argmax(1)
    epochs = tuple(epochs_of(read_metrics(f"{folder}/metrics.jsonl")))
    devices = tuple(read_json(f"{folder}/config.json")["devices"])
    return Record(run, folder, "done", "", results, epochs, devices, labels, predictions)


def epochs_of(rows: Sequence[dict[str, Any]]) -> list[Epoch]:
    """Turns rows of `metrics.jsonl` into epochs: a validation, and the mean of the training rows before it."""
    epochs: list[Epoch] = []
    waiting: list[tuple[int, float, float]] = []  # steps, accuracy, loss
    last_step = 0
    for row in rows:
        if row.get("accuracy") is not None and row.get("loss") is not None:
            waiting.append((row["step"] - last_step, row["accuracy"], row["loss"]))
            last_step = row["step"]
        if row.get("val_accuracy") is not None and waiting:
            steps, accuracies, losses = np.array(waiting).T
            epochs.append(
                Epoch(
                    row["epoch"], float(np.average(accuracies, weights=steps)),
                    float(np.average(losses, weights=steps)), row["val_accuracy"], row["val_loss"], row["seconds"],
                )
            )  # fmt: skip
            waiting = []
    return epochs


def summarise(plan: Plan, records: Sequence[Record]) -> list[ArmSummary]:
    """Returns a summary for each arm and size with a done run: sizes as in the plan, arms in their order."""
    sizes = list(dict.fromkeys(run.images_per_class for run in plan.runs))
    summaries = []
    for size, arm in itertools.product(sizes, plan.arms):
        done = tuple(
            record
            for record in records
            if record.status == "done" and record.run.arm == arm and record.run.images_per_class == size
        )
        if done:
            summaries.append(ArmSummary(arm.name, size, done))
    return summaries


def at_largest_size(plan: Plan, summaries: Sequence[ArmSummary]) -> list[ArmSummary]:
    """Returns the summaries of the plan's largest training set."""
    return [summary for summary in summaries if summary.images_per_class == plan.runs[-1].images_per_class]


def compare_all(summaries: Sequence[ArmSummary]) -> list[Pair]:
    """Compares every two arms on the same test images, over the seeds that both have.

    Raises:
      UserError: Runs that were scored on other images, or the same with other labels.
    """
    found = []
    for first, second in itertools.combinations(summaries, 2):
        seeds = [record.run.seed for record in second.records]
        shared = [record.run.seed for record in first.records if record.run.seed in seeds]
        if shared:
            runs = [[record for record in arm.records if record.run.seed in shared] for arm in (first, second)]
            _check_same_images([*runs[0], *runs[1]])
            answers = [np.stack([record.right for record in records]) for records in runs]
            found.append((first.name, second.name, compare(*answers)))
    adjusted = holm([comparison.p_value for *_, comparison in found])
    return [Pair(*pair, p_value) for pair, p_value in zip(found, adjusted, strict=True)]


def _check_same_images(records: Sequence[Record]) -> None:
    """Raises `UserError` where an answer of one run has no answer of another to be paired with."""
    first = records[0]
    for record in records[1:]:
        if not np.array_equal(first.labels, record.labels):
            raise UserError(
                f"{first.folder} and {record.folder} were scored on other test images ({len(first.labels):,} and "
                f"{len(record.labels):,}, or other labels), so they cannot be compared; run one of them again"
            )


CSV_COLUMNS = (
    "arm", "images_per_class", "seed", "status", "test_accuracy", "test_loss", "val_accuracy", "train_accuracy",
    "parameters", "trainable_parameters", "forward_flops_per_image", "seconds", "images_seen", "epochs", "best_epoch",
    "convergence_epoch", "reason", "workdir",
)  # fmt: skip


def results_csv(records: Sequence[Record]) -> str:
    """Returns the table of all runs; accuracies in [0, 1], `images_per_class` 0 for all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for record in records:
        best = record.best_epoch
        known = {name: record.results.get(name, "") for name in CSV_COLUMNS}
        own = {
            "arm": record.run.arm.name, "images_per_class": record.run.images_per_class, "seed": record.run.seed,
            "status": record.status, "reason": record.reason, "workdir": record.folder,
            "train_accuracy": best.train_accuracy if best else "", "best_epoch": best.epoch if best else "",
            "convergence_epoch": record.convergence_epoch if best else "",
        }  # fmt: skip
        writer.writerow({**known, **own})
    return text.getvalue()
