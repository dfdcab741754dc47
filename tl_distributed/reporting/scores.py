"""The summary of a classification."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

TOP_K = 5
_SMALLEST_PROBABILITY = 1e-7  # Keras clips here too, so that one certain mistake does not make the loss infinite


def classification_summary(
    *, labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str]
) -> dict[str, Any]:
    """Summarises predictions; JSON values only.

    Args:
      labels: `[n]` integers, indices into `class_names`; classes may be absent.
      probabilities: `[n, classes]`, in [0, 1], each row adding up to one.
      class_names: Names of all classes.

    Returns:
      `num_examples`, `accuracy` and `loss` (mean cross-entropy in nats; NaN without examples),
      `top_5_accuracy` where there are more than five classes,
      `per_class` {name: {precision, recall, f1, accuracy, support}} and
      `confusion_matrix` (rows: true class, columns: predicted class; counts).
      The `accuracy` of a class is the share of its examples that were found, which is its recall. A class without
      examples has recall and accuracy NaN, one that was never predicted has precision NaN.

    Raises:
      ValueError: The shapes do not fit each other, or a label is no index into `class_names`.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    labels, probabilities = np.asarray(labels), np.asarray(probabilities, np.float64)
    num_classes = len(class_names)
    if probabilities.shape != (len(labels), num_classes):
        raise ValueError(f"probabilities {probabilities.shape} for {len(labels)} labels and {num_classes} classes")
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(f"labels from {labels.min()} to {labels.max()} for {num_classes} classes")
    if not len(labels):
        matrix = np.zeros((num_classes, num_classes), np.int64)
        rows = np.full((4, num_classes), np.nan)
        rows[3] = 0
    else:
        predictions, every_class = probabilities.argmax(1), np.arange(num_classes)
        matrix = confusion_matrix(labels, predictions, labels=every_class)
        rows = np.stack(precision_recall_fscore_support(labels, predictions, labels=every_class, zero_division=np.nan))
    summary = {"num_examples": len(labels), **_scores(labels, probabilities)}
    summary["per_class"] = {
        name: {"precision": precision, "recall": recall, "f1": f1, "accuracy": recall, "support": int(support)}
        for name, (precision, recall, f1, support) in zip(class_names, rows.T.tolist(), strict=True)
    }
    summary["confusion_matrix"] = matrix.tolist()
    return summary


def _scores(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Returns accuracy and loss, and top-5 accuracy where it says anything."""
    has_top_k = probabilities.shape[1] > TOP_K
    if not len(labels):
        return {"accuracy": math.nan, "loss": math.nan} | ({f"top_{TOP_K}_accuracy": math.nan} if has_top_k else {})
    of_truth = np.take_along_axis(probabilities, labels[:, None].astype(np.int64), axis=1)[:, 0]
    scores = {
        "accuracy": float(np.mean(probabilities.argmax(1) == labels)),
        "loss": float(-np.mean(np.log(np.maximum(of_truth, _SMALLEST_PROBABILITY)))),
    }
    if has_top_k:
        top = np.argsort(-probabilities, axis=1, kind="stable")[:, :TOP_K]
        scores[f"top_{TOP_K}_accuracy"] = float(np.mean((top == labels[:, None]).any(1)))
    return scores
