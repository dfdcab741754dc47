"""How well a classification went: figures of each example, and their summary."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tl_distributed.reporting.calibration import expected_calibration_error, reliability

TOP_K = 5
_SMALLEST_PROBABILITY = 1e-7  # Keras clips here too, so that one certain mistake does not make the loss infinite
MOST_CLASSES_IN_MATRIX = 100  # as many as a figure can show
_PAIRS_PER_CLASS = 2
_MOST_AT_ONCE = 2**22  # probabilities that are looked at in one go


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExampleScores:
    """Figures of each example; no array has a side for the classes.

    Attributes:
      labels: `[n]` integers.
      predictions: `[n]` integers.
      losses: `[n]`, negative log-likelihood (cross-entropy) in nats.
      in_top_k: `[n]` bool, whether the label is among the `TOP_K` classes of the highest probability.
      confidences: `[n]`, in [0, 1]: the probability of the prediction.
    """

    labels: np.ndarray
    predictions: np.ndarray
    losses: np.ndarray
    in_top_k: np.ndarray
    confidences: np.ndarray

    @classmethod
    def concatenate(cls, parts: Sequence["ExampleScores"]) -> "ExampleScores":
        """Returns the scores of one part or more, one after the other."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})

    @property
    def right(self) -> np.ndarray:
        """`[n] bool`; what was answered with NaN, of which any class would be the first, is wrong."""
        return (self.predictions == self.labels) & ~np.isnan(self.losses)

    @property
    def loss(self) -> float:
        """Mean; NaN without examples."""
        return float(np.mean(self.losses, dtype=np.float64)) if len(self.labels) else math.nan

    @property
    def accuracy(self) -> float:
        """Share of right predictions; NaN without examples."""
        return float(np.mean(self.right)) if len(self.labels) else math.nan

    @property
    def top_k_accuracy(self) -> float:
        return float(np.mean(self.in_top_k & ~np.isnan(self.losses))) if len(self.labels) else math.nan

    @property
    def reliability(self) -> list[list[float]]:
        """The bins of `calibration.reliability`."""
        return reliability(self.confidences, self.right)


def score_examples(labels: np.ndarray, probabilities: np.ndarray) -> ExampleScores:
    """Scores probabilities.

    Args:
      labels: `[n]` integers below the number of classes.
      probabilities: `[n, classes]`, in [0, 1], each row adding up to one; 1 or more classes.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    step = max(1, _MOST_AT_ONCE // probabilities.shape[1])
    starts = range(0, max(len(labels), 1), step)
    parts = [_score(labels[start : start + step], probabilities[start : start + step]) for start in starts]
    return ExampleScores.concatenate(parts)


def _score(labels: np.ndarray, probabilities: np.ndarray) -> ExampleScores:
    of_truth = np.take_along_axis(probabilities, labels[:, None].astype(np.int64), axis=1)
    # As a stable sort would have it: classes of the same probability in their order.
    before = np.arange(probabilities.shape[1]) < labels[:, None]
    better = ((probabilities > of_truth) | ((probabilities == of_truth) & before)).sum(1)
    return ExampleScores(
        labels=labels,
        predictions=probabilities.argmax(1),
        losses=-np.log(np.maximum(of_truth[:, 0].astype(np.float64), _SMALLEST_PROBABILITY)),
        in_top_k=better < TOP_K,
        confidences=probabilities.max(1),
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


@dataclasses.dataclass(frozen=True)
class ClassRates:
    """Rates of each class, `[classes] float64` in [0, 1]; NaN where there is nothing to divide by.

    Attributes:
      precision: Share of the predictions of the class that are right; NaN of one that was never predicted.
      recall: Share of the examples of the class that were found; NaN of one without examples.
      f1: Their harmonic mean; NaN of a class with neither.
      support: Examples, `[classes] int64`.
    """

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray

    @classmethod
    def of(cls, scores: ExampleScores, num_classes: int) -> "ClassRates":
        hits, support, predicted = (
            np.bincount(which, minlength=num_classes)
            for which in (scores.labels[scores.right], scores.labels, scores.predictions)
        )
        with np.errstate(invalid="ignore"):
            return cls(hits / predicted, hits / support, 2 * hits / (support + predicted), support)

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall of the classes that have examples (as scikit-learn's `balanced_accuracy_score`)."""
        return _mean_of_known(self.recall)

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the classes with examples or predictions (as scikit-learn's `f1_score(average="macro")`)."""
        return _mean_of_known(self.f1)


def _mean_of_known(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def figures_of(scores: ExampleScores, num_classes: int) -> dict[str, float]:
    """Returns the figures of a split, by name; NaN without examples.

    `accuracy`, `loss` (mean negative log-likelihood in nats), `top5_accuracy` where there are more than five classes,
    `macro_f1`, `balanced_accuracy` and `expected_calibration_error`.
    """
    rates = ClassRates.of(scores, num_classes)
    top = {f"top{TOP_K}_accuracy": scores.top_k_accuracy} if num_classes > TOP_K else {}
    return {
        "accuracy": scores.accuracy, "loss": scores.loss, **top, "macro_f1": rates.macro_f1,
        "balanced_accuracy": rates.balanced_accuracy,
        "expected_calibration_error": expected_calibration_error(scores.reliability),
    }  # fmt: skip


def calibrated_figures(scores: ExampleScores, temperature: float) -> dict[str, float]:
    """Returns what a temperature makes of a split: `scores` are those at it. Accuracies stay, whatever it is."""
    return {
        "temperature": temperature,
        "loss_calibrated": scores.loss,
        "expected_calibration_error_calibrated": expected_calibration_error(scores.reliability),
    }


def summarise(scores: ExampleScores, class_names: Sequence[str]) -> dict[str, Any]:
    """Summarises a classification; JSON values only, whose size grows with the number of classes, not with its square.

    Returns:
      `num_examples`, the figures of `figures_of` (of which `top5_accuracy` is also there as `top_5_accuracy`),
      `reliability` (see `calibration.reliability`),
      `per_class` {name: {precision, recall, f1, accuracy, support}},
      `most_confused`: [true class, predicted class, count] of the most frequent mistakes, and
      `confusion_matrix` (rows: true class, columns: predicted class; counts), empty for more than 100 classes.
      The `accuracy` of a class is the share of its examples that were found, which is its recall. A class without
      examples has recall and accuracy NaN, one that was never predicted has precision NaN.
    """
    num_classes, labels, predictions = len(class_names), scores.labels, scores.predictions
    rates, figures = ClassRates.of(scores, num_classes), figures_of(scores, num_classes)
    columns = (values.tolist() for values in (rates.precision, rates.recall, rates.f1, rates.support))
    per_class = {
        name: {"precision": precision, "recall": recall, "f1": f1, "accuracy": recall, "support": support}
        for name, precision, recall, f1, support in zip(class_names, *columns, strict=True)
    }
    wrong = labels != predictions
    places, counts = np.unique(_places(labels[wrong], predictions[wrong], num_classes), return_counts=True)
    order = np.argsort(-counts, kind="stable")[: _PAIRS_PER_CLASS * num_classes]
    pairs = zip(*np.divmod(places[order], num_classes), counts[order].tolist(), strict=True)
    small = num_classes <= MOST_CLASSES_IN_MATRIX
    older_name = {f"top_{TOP_K}_accuracy": scores.top_k_accuracy} if num_classes > TOP_K else {}
    return {
        "num_examples": len(labels),
        **figures,
        **older_name,
        "reliability": scores.reliability,
        "per_class": per_class,
        "most_confused": [[class_names[true], class_names[predicted], count] for true, predicted, count in pairs],
        "confusion_matrix": confusion_counts(labels, predictions, num_classes).tolist() if small else [],
    }


def confusion_counts(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns `[classes, classes] int64`: rows are the true class, columns the predicted one."""
    places = _places(labels, predictions, num_classes)
    return np.bincount(places, minlength=num_classes**2).reshape(num_classes, num_classes)


def _places(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the place of each example in the matrix, counted row by row: `[n] int64`."""
    return labels.astype(np.int64) * num_classes + predictions
