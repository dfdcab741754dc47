"""How well a classification went: figures of each example, and their summary."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

TOP_K = 5
_SMALLEST_PROBABILITY = 1e-7  # Keras clips here too, so that one certain mistake does not make the loss infinite
MOST_CLASSES_IN_MATRIX = 100  # as many as a figure can show
_PAIRS_PER_CLASS = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExampleScores:
    """Figures of each example; no array has a side for the classes.

    Attributes:
      labels: `[n]` integers.
      predictions: `[n]` integers.
      losses: `[n]`, cross-entropy in nats.
      in_top_k: `[n]` bool, whether the label is among the `TOP_K` classes of the highest probability.
    """

    labels: np.ndarray
    predictions: np.ndarray
    losses: np.ndarray
    in_top_k: np.ndarray

    @property
    def loss(self) -> float:
        """Mean; NaN without examples."""
        return float(np.mean(self.losses, dtype=np.float64)) if len(self.labels) else math.nan

    @property
    def accuracy(self) -> float:
        """Share of right predictions; NaN without examples."""
        return float(np.mean(self.predictions == self.labels)) if len(self.labels) else math.nan

    @property
    def top_k_accuracy(self) -> float:
        return float(np.mean(self.in_top_k)) if len(self.labels) else math.nan


def score_examples(labels: np.ndarray, probabilities: np.ndarray) -> ExampleScores:
    """Scores probabilities.

    Args:
      labels: `[n]` integers below the number of classes.
      probabilities: `[n, classes]`, in [0, 1], each row adding up to one.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, np.float64)
    of_truth = np.take_along_axis(probabilities, labels[:, None].astype(np.int64), axis=1)[:, 0]
    top = np.argsort(-probabilities, axis=1, kind="stable")[:, :TOP_K]
    return ExampleScores(
        labels=labels,
        predictions=probabilities.argmax(1),
        losses=-np.log(np.maximum(of_truth, _SMALLEST_PROBABILITY)),
        in_top_k=(top == labels[:, None]).any(1),
    )


def classification_summary(
    *, labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str]
) -> dict[str, Any]:
    """Returns `summarise` of probabilities; see `score_examples`.

    Raises:
      ValueError: The shapes do not fit each other, or a label is no index into `class_names`.
    """
    labels, num_classes = np.asarray(labels), len(class_names)
    if np.shape(probabilities) != (len(labels), num_classes):
        shape = np.shape(probabilities)
        raise ValueError(f"probabilities {shape} for {len(labels)} labels and {num_classes} classes")
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(f"labels from {labels.min()} to {labels.max()} for {num_classes} classes")
    return summarise(score_examples(labels, probabilities), class_names)


def summarise(scores: ExampleScores, class_names: Sequence[str]) -> dict[str, Any]:
    """Summarises a classification; JSON values only, whose size grows with the number of classes, not with its square.

    Returns:
      `num_examples`, `accuracy` and `loss` (mean cross-entropy in nats; NaN without examples),
      `top_5_accuracy` where there are more than five classes,
      `per_class` {name: {precision, recall, f1, accuracy, support}},
      `most_confused`: [true class, predicted class, count] of the most frequent mistakes, and
      `confusion_matrix` (rows: true class, columns: predicted class; counts), empty for more than 100 classes.
      The `accuracy` of a class is the share of its examples that were found, which is its recall. A class without
      examples has recall and accuracy NaN, one that was never predicted has precision NaN.
    """
    from sklearn.metrics import precision_recall_fscore_support

    num_classes, every_class = len(class_names), np.arange(len(class_names))
    labels, predictions = scores.labels, scores.predictions
    if len(labels):
        rows = np.stack(precision_recall_fscore_support(labels, predictions, labels=every_class, zero_division=np.nan))
    else:
        rows = np.full((4, num_classes), np.nan)
        rows[3] = 0
    summary = {"num_examples": len(labels), "accuracy": scores.accuracy, "loss": scores.loss}
    if num_classes > TOP_K:
        summary[f"top_{TOP_K}_accuracy"] = scores.top_k_accuracy
    summary["per_class"] = {
        name: {"precision": precision, "recall": recall, "f1": f1, "accuracy": recall, "support": int(support)}
        for name, (precision, recall, f1, support) in zip(class_names, rows.T.tolist(), strict=True)
    }
    wrong = predictions != labels
    pairs, counts = np.unique(np.stack([labels[wrong], predictions[wrong]]), axis=1, return_counts=True)
    order = np.argsort(-counts, kind="stable")[: _PAIRS_PER_CLASS * num_classes]
    summary["most_confused"] = [
        [class_names[pairs[0, place]], class_names[pairs[1, place]], int(counts[place])] for place in order
    ]
    small = num_classes <= MOST_CLASSES_IN_MATRIX
    summary["confusion_matrix"] = confusion_counts(labels, predictions, num_classes).tolist() if small else []
    return summary


def confusion_counts(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns `[classes, classes] int64`: rows are the true class, columns the predicted one."""
    places = labels.astype(np.int64) * num_classes + predictions
    return np.bincount(places, minlength=num_classes**2).reshape(num_classes, num_classes)
