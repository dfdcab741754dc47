"""Everything that a run shows while it goes and when it ends: metrics.jsonl, TensorBoard, a tracker, plots."""

import json
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import tensorflow as tf

from tl_distributed.reporting import board_tags, plots, tensorboard
from tl_distributed.reporting.drawing import MOST_CLASSES_DRAWN
from tl_distributed.reporting.metrics_log import MetricsLog, read_metrics
from tl_distributed.reporting.shown_scores import is_classification, main_metric, metrics_of
from tl_distributed.reporting.tensorboard import TensorBoardLog
from tl_distributed.reporting.trackers import open_tracker

_FINAL_SCORES = (
    "val_accuracy", "test_accuracy", "test_loss", "test_top5_accuracy", "test_balanced_accuracy", "test_macro_f1",
    "test_expected_calibration_error", "test_expected_calibration_error_calibrated", "temperature",
)  # fmt: skip


class RunLog:
    """Context manager around a run's reports."""

    def __init__(
        self,
        workdir: str,
        *,
        last_step: int,
        measures: Sequence[str] = ("accuracy",),
        chosen_by: str = "accuracy",
        track: str = "none",
    ):
        """Opens the reports; rows of `metrics.jsonl` after `last_step`, left by a killed run, are dropped.

        `measures` are what a row of training has beside the loss, `chosen_by` is the metric that chooses the epoch,
        `track` is a tracker that gets the scalars too, one of `trackers.TRACKERS`.
        """
        self._workdir, self._measures, self._chosen_by = workdir, measures, chosen_by
        self._resumed, self._track = last_step > 0, track
        self._tracker = open_tracker("none", workdir, {}, resumed=False)
        self._metrics = MetricsLog(f"{workdir}/metrics.jsonl", resume_step=last_step)
        self._board = TensorBoardLog(workdir, enabled=True, resume_step=last_step)
        self._replicas, self._precision = 1, "float32"

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._metrics.close()
        self._board.close()
        self._tracker.close(kind)

    def start(self, config: Mapping[str, Any]) -> None:
        """Shows the content of `config.json` as text, sets what the board opens on, and begins to track.

        Raises:
          UserError: As `trackers.open_tracker`.
        """
        self._replicas, self._precision = config["replicas"], config["precision"]
        self._tracker = open_tracker(self._track, self._workdir, config["config"], resumed=self._resumed)
        self._board.layout(board_tags.chart_layout(self._chosen_by), 0)
        self._board.text(tensorboard.CONFIG, f"```json\n{json.dumps(config, indent=2)}\n```", 0)

    def row(self, values: Mapping[str, Any]) -> None:
        """Adds one row, of training or of validation (`val_*`); `values` holds `step`."""
        scalars = board_tags.scalars_of(
            values, replicas=self._replicas, precision=self._precision, measures=self._measures
        )
        if not self._metrics.had(values):  # a tracker cannot take back what a killed run gave it
            self._tracker.scalars(int(values["step"]), scalars)
        self._metrics.append(dict(values))
        self._board.scalars(int(values["step"]), scalars)

    def preview(self, images: np.ndarray, captions: Sequence[str], step: int) -> None:
        """Shows what the backbone is given: `[n, size, size, 3] uint8` augmented images, a caption each."""
        self._board.images(tensorboard.AUGMENTED_INPUT, images, step, captions)

    def finish(
        self,
        results: Mapping[str, Any],
        hparams: Mapping[str, Any],
        misclassified: tuple[Sequence[np.ndarray], Sequence[str]],
    ) -> None:
        """Draws the plots and shows the end of the run.

        Args:
          results: Content of `results.json`.
          hparams: Settings by which runs are compared.
          misclassified: Images `[h, w, 3] uint8` that the model got wrong, and a caption each.
        """
        names, step, metric = results["class_names"], int(results["steps"]), main_metric(results)
        rows = read_metrics(f"{self._workdir}/metrics.jsonl")
        figures = {"learning_curves": plots.learning_curves(rows, metric)}
        if is_classification(results):
            figures["per_class_accuracy"] = plots.per_class_accuracy(results["per_class"])
        if results["reliability"]:
            figures[tensorboard.RELIABILITY] = plots.reliability_diagram(
                results["reliability"], results["reliability_calibrated"] or (), results["temperature"]
            )
        if results["confusion_matrix"] and len(names) <= MOST_CLASSES_DRAWN:
            figures[tensorboard.CONFUSION_MATRIX] = plots.confusion_matrix(results["confusion_matrix"], names)
        elif results["per_class"] and is_classification(results):
            supports = {name: scores["support"] for name, scores in results["per_class"].items()}
            figures[tensorboard.MOST_CONFUSED] = plots.most_confused(results["most_confused"], supports)
        images, captions = misclassified
        if len(images):
            figures[tensorboard.MISCLASSIFIED] = plots.image_grid(images, captions, columns=5)
        tf.io.gfile.makedirs(f"{self._workdir}/plots")
        for name, figure in figures.items():
            self._board.png(name, plots.save_figure(figure, f"{self._workdir}/plots/{name}.png"), step)
        finals = _FINAL_SCORES
        if not is_classification(results):
            finals = [f"{split}_{name}" for name in metrics_of(results, "test") for split in ("val", "test")]
        metrics = {board_tags.best_tag(name): results[name] for name in finals if results.get(name) is not None}
        self._board.hparams(hparams, metrics, step)
        self._tracker.scalars(step, metrics)


class NoRunLog(RunLog):
    """Shows nothing: the chief does."""

    def __init__(self) -> None:
        """Opens nothing."""

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """There is nothing to close."""

    def start(self, config: Mapping[str, Any]) -> None: ...

    def row(self, values: Mapping[str, Any]) -> None: ...

    def preview(self, images: np.ndarray, captions: Sequence[str], step: int) -> None: ...

    def finish(
        self,
        results: Mapping[str, Any],
        hparams: Mapping[str, Any],
        misclassified: tuple[Sequence[np.ndarray], Sequence[str]],
    ) -> None: ...
