"""Simple classifiers on frozen features: logistic regression and nearest neighbours, by scikit-learn.

Validation chooses the strength of the penalty and the number of neighbours; test images decide nothing.
"""

import contextlib
import dataclasses
import warnings
from collections.abc import Sequence

import numpy as np
from threadpoolctl import threadpool_limits

# Penalties of the mean cross-entropy, half the squared norm of the weights times: from strong to weak.
L2_STRENGTHS = tuple(10.0**-exponent for exponent in range(1, 8))
NEIGHBOURS = (1, 5, 10, 20)
_MOST_ITERATIONS = 300
_WORSE_STRENGTHS = 2  # in a row, after which weaker ones are not tried
_SEVERAL_THREADS_FROM = 10**8  # multiply-adds of features and weights
_QUERIES = 1024  # images whose neighbours are looked for at once


@dataclasses.dataclass(frozen=True)
class Rows:
    """Features `[images, features] float32` and labels `[images] int32` of a split, or of a part of it."""

    features: np.ndarray
    labels: np.ndarray

    def take(self, places: np.ndarray) -> "Rows":
        return Rows(self.features[places], self.labels[places])


@dataclasses.dataclass(frozen=True)
class Probe:
    """A fitted probe's answers.

    Attributes:
      chosen: The penalty's strength, or the number of neighbours, that validation chose.
      right: By the name of the split, `[images] bool`: whether each answer is right.
    """

    chosen: float
    right: dict[str, np.ndarray]

    def accuracy(self, split: str) -> float:
        return float(self.right[split].mean())


def scaled(train: Rows, others: Sequence[Rows]) -> tuple[Rows, list[Rows]]:
    """Returns all with the training features' mean taken off, divided by the root of their mean squared norm.

    One number for all features: penalties then mean the same for every backbone, and the features keep their weight
    among each other.
    """
    mean = train.features.mean(0, dtype=np.float64).astype(np.float32)
    squares = np.square(train.features - mean).sum(dtype=np.float64)
    scale = np.float32(np.sqrt(squares / len(train.labels)) or 1.0)
    result = [Rows((rows.features - mean) / scale, rows.labels) for rows in (train, *others)]
    return result[0], result[1:]


def logistic_regression(train: Rows, scored: dict[str, Rows]) -> Probe:
    """Fits a logistic regression (multinomial beyond two classes), of the strength that is best on the split `val`.

    It minimises the mean cross-entropy plus `strength / 2` times the squared norm of the weights, on features of
    `scaled`. Among equally accurate strengths the strongest is taken.

    Args:
      train: Of two classes or more.
      scored: By the name of the split; `val` is among them.
    """
    train, others = scaled(train, list(scored.values()))
    with _threads_for(train):
        train, others = _in_their_span(train, others)
        return _best_of_path(train, dict(zip(scored, others, strict=True)))


def _threads_for(train: Rows) -> contextlib.AbstractContextManager:
    """Leaves small products to one thread: to have several wait for one another takes longer than the product."""
    size = train.features.size * len(np.unique(train.labels))
    return contextlib.nullcontext() if size >= _SEVERAL_THREADS_FROM else threadpool_limits(1, user_api="blas")


def _best_of_path(train: Rows, rows: dict[str, Rows]) -> Probe:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=_MOST_ITERATIONS, warm_start=True)
    best, worse = None, 0
    for strength in L2_STRENGTHS:
        model.C = 1 / (strength * len(train.labels))
        with warnings.catch_warnings():
            # Of a weak penalty: where it has got to is scored as any other.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(train.features, train.labels)
        right = {name: own.labels == model.predict(own.features) for name, own in rows.items()}
        probe = Probe(strength, right)
        if best is None or probe.accuracy("val") > best.accuracy("val"):
            best, worse = probe, 0
        else:
            worse += probe.accuracy("val") < best.accuracy("val")
        if worse >= _WORSE_STRENGTHS:
            break
    return best


def _in_their_span(train: Rows, others: Sequence[Rows]) -> tuple[Rows, list[Rows]]:
    """Returns features as coordinates in the span of the training images, where these are fewer than the features.

    Nothing changes: of weights outside of it there is the penalty alone, so the best ones have none.
    """
    if len(train.labels) >= train.features.shape[1]:
        return train, list(others)
    _, _, directions = np.linalg.svd(train.features, full_matrices=False)
    turned = [Rows(rows.features @ directions.T, rows.labels) for rows in (train, *others)]
    return turned[0], turned[1:]


def nearest_neighbours(train: Rows, scored: dict[str, Rows]) -> Probe:
    """Classifies by the most frequent label of the k nearest training images by cosine similarity.

    The k that is best on the split `val` is taken, the smallest of equals. Of equally frequent labels the nearer
    image's wins.

    Args:
      train: Of two classes or more.
      scored: By the name of the split; `val` is among them.
    """
    known = _unit(train.features)
    choices = [k for k in NEIGHBOURS if k <= len(train.labels)]
    neighbours = {name: _nearest_labels(known, train.labels, rows, choices[-1]) for name, rows in scored.items()}

    def right(name: str, k: int) -> np.ndarray:
        return _votes(neighbours[name][:, :k]) == scored[name].labels

    k = max(choices, key=lambda k: (right("val", k).mean(), -k))
    return Probe(k, {name: right(name, k) for name in scored})


def _unit(features: np.ndarray) -> np.ndarray:
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def _nearest_labels(known: np.ndarray, labels: np.ndarray, rows: Rows, count: int) -> np.ndarray:
    """Returns the labels `[images, count]` of the nearest training images, the nearest first."""
    found = []
    for start in range(0, len(rows.labels), _QUERIES):
        similarities = _unit(rows.features[start : start + _QUERIES]) @ known.T
        nearest = np.argpartition(-similarities, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(similarities, nearest, 1), axis=1, kind="stable")
        found.append(labels[np.take_along_axis(nearest, order, 1)])
    return np.concatenate(found)


def _votes(labels: np.ndarray) -> np.ndarray:
    """Returns the most frequent label of each row, of equally frequent ones the first in the row."""
    same = labels[:, :, None] == labels[:, None, :]
    return labels[np.arange(len(labels)), same.sum(2).argmax(1)]
