"""Reads what the runs of a study left, and sums it up by arm."""

import csv
import dataclasses
import functools
import io
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from tl_distributed.errors import UserError
from tl_distributed.files import read_json
from tl_distributed.reporting.answers import PREDICTIONS_FILE, Answers, read_answers
from tl_distributed.reporting.intervals import wilson_interval
from tl_distributed.reporting.metrics_log import read_metrics
from tl_distributed.reporting.scores import confusion_counts
from tl_distributed.reporting.shown_scores import SHOWN_SCORES, scores_of
from tl_distributed.reporting.spread import Spread
from tl_distributed.studies.plan import Plan, Run
from tl_distributed.studies.runner import FAILURE_FILE
from tl_distributed.studies.statistics import Comparison, compare, holm, interval_of_share

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
    step: int


@dataclasses.dataclass(frozen=True)
class Record:
    """What a run left: `status` is done, failed or not run; `results` and the rest are of a done run.

    `written` is the content of its `config.json`.
    """

    run: Run
    folder: str
    status: str
    reason: str = ""
    results: dict[str, Any] = dataclasses.field(default_factory=dict)
    epochs: tuple[Epoch, ...] = ()
    written: dict[str, Any] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def answers(self) -> Answers:
        """What a done run answered on the test images; read when first asked for."""
        return read_answers(f"{self.folder}/{PREDICTIONS_FILE}")

    @property
    def best_epoch(self) -> Epoch | None:
        """The epoch whose weights were scored."""
        chosen = (epoch for epoch in self.epochs if epoch.step == self.results["best_step"])
        return next(chosen, self.epochs[-1] if self.epochs else None)

    @property
    def convergence_epoch(self) -> float | None:
        """The first epoch within one point of the best validation accuracy."""
        if not self.epochs:
            return None
        threshold = max(epoch.val_accuracy for epoch in self.epochs) - _CONVERGED_WITHIN
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
    def test_interval(self) -> tuple[float, float]:
        """The 95 % interval of the test accuracy, in [0, 1].

        Of one run, Wilson's; of several, images and seeds are both a sample (`statistics.interval_of_share`).

        Raises:
          UserError: Runs that were scored on other images, or the same with other labels.
        """
        if len(self.records) == 1:
            return wilson_interval(self.test_accuracy.mean, self.records[0].results["num_examples"]["test"])
        return interval_of_share(np.stack([one.right for one in same_images(self.records, self.records[0])]))

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
        answers = [record.answers for record in self.records]
        counts = sum(confusion_counts(given.labels, given.predictions, num_classes) for given in answers)
        return counts / np.maximum(counts.sum(1, keepdims=True), 1)

    @property
    def per_class_accuracy(self) -> np.ndarray:
        """`[classes]`, over all seeds; NaN of a class without test images."""
        num_classes = len(self.records[0].results["class_names"])
        labels = np.concatenate([record.answers.labels for record in self.records])
        right = np.concatenate([record.answers.right for record in self.records])
        counts = np.bincount(labels, minlength=num_classes)
        return np.where(counts > 0, np.bincount(labels[right], minlength=num_classes) / np.maximum(counts, 1), np.nan)


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two arms compared at one size; `adjusted_p` allows for the number of all pairs (Holm)."""

    first: str
    second: str
    comparison: Comparison
    adjusted_p: float


def load_records(plan: Plan, workdir: str) -> list[Record]:
    """Returns a record for every run of the plan, in its order."""
    return [_load(run, f"{workdir}/{run.folder}") for run in plan.runs]


def _load(run: Run, folder: str) -> Record:
    results = read_json(f"{folder}/results.json")
    if results is None or not results["finished"]:  # one that was made longer, and failed, has results of before
        failure = read_json(f"{folder}/{FAILURE_FILE}")
        if failure:
            return Record(run, folder, "failed", failure["reason"])
    if results is None:
        return Record(run, folder, "not run")
    epochs = tuple(epochs_of(read_metrics(f"{folder}/metrics.jsonl")))
    return Record(run, folder, "done", "", results, epochs, read_json(f"{folder}/config.json"))


def epochs_of(rows: Sequence[dict[str, Any]]) -> list[Epoch]:
    """Turns rows of `metrics.jsonl` into epochs: a validation, and the mean of the training rows before it."""
    epochs: list[Epoch] = []
    waiting: list[tuple[int, float, float]] = []  # steps, accuracy, loss
    last_step = 0
    for row in rows:
        if row.get("accuracy") is not None and row.get("loss") is not None:
            waiting.append((row["step"] - last_step, row["accuracy"], row["loss"]))
            last_step = row["step"]
        if row.get("val_accuracy") is None or not waiting:
            continue
        if row.get("val_loss") is not None:  # null of weights that answer NaN, which are not chosen
            steps, accuracies, losses = np.array(waiting).T
            epochs.append(
                Epoch(
                    row["epoch"], float(np.average(accuracies, weights=steps)),
                    float(np.average(losses, weights=steps)), row["val_accuracy"], row["val_loss"], row["seconds"],
                    row["step"],
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
    """Returns the summaries of the largest training set that has a finished run, the plan's largest where it has."""
    sizes = {summary.images_per_class for summary in summaries}
    largest = plan.runs[-1].images_per_class
    if largest not in sizes and summaries:
        largest = summaries[-1].images_per_class
    return [summary for summary in summaries if summary.images_per_class == largest]


def compare_all(summaries: Sequence[ArmSummary]) -> list[Pair]:
    """Compares every two arms on the same test images, over the seeds that both have.

    Raises:
      UserError: Runs that were scored on other images, or the same with other labels.
    """
    found = [
        (first.name, second.name, comparison)
        for first, second in itertools.combinations(summaries, 2)
        if (comparison := compare_arms(first, second))
    ]
    adjusted = holm([comparison.p_value for *_, comparison in found])
    return [Pair(*pair, p_value) for pair, p_value in zip(found, adjusted, strict=True)]


def compare_arms(first: ArmSummary, second: ArmSummary) -> Comparison | None:
    """Compares two arms on the same test images, over the seeds that both have; `None` where they share none.

    Raises:
      UserError: Runs that were scored on other images, or the same with other labels.
    """
    seeds = [record.run.seed for record in second.records]
    shared = [record.run.seed for record in first.records if record.run.seed in seeds]
    if not shared:
        return None
    runs = [[record for record in arm.records if record.run.seed in shared] for arm in (first, second)]
    return compare(*(np.stack([one.right for one in same_images(records, runs[0][0])]) for records in runs))


def same_images(records: Sequence[Record], first: Record) -> list[Answers]:
    """Returns what runs answered, each in the order of the test images of `first`.

    Raises:
      UserError: An answer of one has no answer of the other to be paired with.
    """
    return [_paired(record, first) for record in records]


def _paired(record: Record, first: Record) -> Answers:
    try:
        return record.answers.in_order_of(first.answers)
    except ValueError as error:
        raise UserError(
            f"{first.folder} and {record.folder} were scored on other test images ({error}), so they cannot be "
            "compared; run one of them again"
        ) from None


def pairing(records: Sequence[Record]) -> str:
    """Says by what the test images of the done runs are paired."""
    done = [record for record in records if record.status == "done"]
    without = sum(record.answers.ids is None for record in done)
    if not without:
        return "The test images of the runs are paired by their ids, and have the same labels."
    return (
        "The test images of the runs are paired by their order, in which their labels are the same: "
        f"{without} of {len(done)} runs hold no ids."
    )


CSV_COLUMNS = (
    "arm", "images_per_class", "seed", "status", "test_accuracy", "test_loss", "test_loss_calibrated", "val_accuracy",
    "val_loss", "train_accuracy", "parameters", "trainable_parameters", "forward_flops_per_image", "seconds",
    "images_seen", "epochs", "best_epoch", "convergence_epoch", *(name for name, *_ in SHOWN_SCORES), "reason",
    "workdir",
)  # fmt: skip


def results_csv(records: Sequence[Record]) -> str:
    """Returns the table of all runs; accuracies in [0, 1], `images_per_class` 0 for all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for record in records:
        best = record.best_epoch
        scores = scores_of(record.results)
        known = {name: record.results.get(name, scores.get(name, "")) for name in CSV_COLUMNS}
        own = {
            "arm": record.run.arm.name, "images_per_class": record.run.images_per_class, "seed": record.run.seed,
            "status": record.status, "reason": record.reason, "workdir": record.folder,
            "train_accuracy": best.train_accuracy if best else "", "best_epoch": best.epoch if best else "",
            "convergence_epoch": record.convergence_epoch if best else "",
        }  # fmt: skip
        writer.writerow({**known, **own})
    return text.getvalue()
