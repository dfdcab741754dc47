"""How well pictures with any number of labels were told: figures of a split, and their summary.

Average precision is that of scikit-learn's `average_precision_score`: the mean of the precisions at the ranks of a
class's own pictures, without interpolation.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

FIGURES = ("loss", "mean_average_precision", "macro_f1", "micro_f1", "subset_accuracy", "hamming_loss")
_SMALLEST_PROBABILITY = 1e-7  # as of classification
THRESHOLD = 0.5  # above which a probability is a yes


def multi_hot(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns `[n, num_classes] bool` of `[n]` labels, or of `[n, most]` with -1 where a picture has fewer."""
    rows = np.asarray(labels).reshape(len(labels), -1)
    truth = np.zeros((len(rows), num_classes + 1), bool)  # a column more, for -1
    np.put_along_axis(truth, rows.astype(np.int64), True, axis=1)
    return truth[:, :num_classes]


def average_precision(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Returns that of one class, of `[n] bool` and `[n]`; NaN where no picture has the label, or an answer is NaN."""
    from sklearn.metrics import average_precision_score  # half a second, which only these data sets take

    known = truth.any() and not np.isnan(probabilities).any()
    return float(average_precision_score(truth, probabilities)) if known else math.nan


def binary_loss(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Returns the mean over classes of the binary cross-entropy, `[n]`, in nats."""
    own = np.where(truth, probabilities, 1.0 - probabilities).astype(np.float64)
    return -np.log(np.maximum(own, _SMALLEST_PROBABILITY)).mean(1)


def figures_of(truth: np.ndarray, probabilities: np.ndarray, losses: np.ndarray | None = None) -> dict[str, float]:
    """Returns `FIGURES` of a split.

    `mean_average_precision` and `macro_f1` are means over the classes of which some picture has the label;
    `subset_accuracy` is the share of pictures of which all answers are right, `hamming_loss` the share of answers that
    are wrong.

    Args:
      truth: `[n, classes] bool`, whether each picture has the label.
      probabilities: `[n, classes]`; above a half it is a yes.
      losses: `[n]`, where they are known from the logits; else they come of the probabilities.
    """
    return _figures(truth, probabilities, losses, _per_class(truth, probabilities))


def summarise(
    truth: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str], losses: np.ndarray | None = None
) -> dict[str, Any]:
    """Returns `num_examples`, `figures_of` and `per_class`: {average_precision, precision, recall, f1, support}.

    JSON values; precision is NaN of a class that was never answered, the others of one that no picture has.
    """
    columns = _per_class(truth, probabilities)
    per_class = {
        name: {key: values[row].item() for key, values in columns.items()} for row, name in enumerate(class_names)
    }
    return {
        "num_examples": len(truth), **_figures(truth, probabilities, losses, columns), "per_class": per_class,
    }  # fmt: skip


def _per_class(truth: np.ndarray, probabilities: np.ndarray) -> dict[str, np.ndarray]:
    answers = probabilities > THRESHOLD
    hits, support, answered = (truth & answers).sum(0), truth.sum(0), answers.sum(0)
    precisions = [average_precision(truth[:, row], probabilities[:, row]) for row in range(truth.shape[1])]
    with np.errstate(invalid="ignore"):
        return {
            "average_precision": np.array(precisions), "precision": hits / answered, "recall": hits / support,
            "f1": np.where(support > 0, 2 * hits / (support + answered), np.nan), "support": support,
        }  # fmt: skip


def _figures(
    truth: np.ndarray, probabilities: np.ndarray, losses: np.ndarray | None, columns: dict[str, np.ndarray]
) -> dict[str, float]:
    if not len(truth):
        return dict.fromkeys(FIGURES, math.nan)
    answers = probabilities > THRESHOLD
    hits, said = int((truth & answers).sum()), int(truth.sum() + answers.sum())
    losses = binary_loss(truth, probabilities) if losses is None else losses
    return {
        "loss": float(np.mean(losses, dtype=np.float64)),
        "mean_average_precision": _mean_of_known(columns["average_precision"]),
        "macro_f1": _mean_of_known(columns["f1"]),
        "micro_f1": 2 * hits / said if said else math.nan,
        "subset_accuracy": float((truth == answers).all(1).mean()),
        "hamming_loss": float((truth != answers).mean()),
    }


def _mean_of_known(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan
