"""How accuracy grows with the images of each class that the probe learns from, over several draws of them."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from tl_distributed.ranking.probes import Rows, logistic_regression


@dataclasses.dataclass(frozen=True)
class Shots:
    """Accuracies of the draws of one size, in [0, 1]."""

    images_per_class: int
    accuracies: tuple[float, ...]


def few_shot_curve(
    train: Rows, scored: dict[str, Rows], sizes: Sequence[int], *, draws: int, seed: int, shown: str
) -> list[Shots]:
    """Fits the logistic probe on draws of each size.

    Args:
      train: The sample of the training split.
      scored: By the name of the split; `val` chooses the penalty of each draw.
      sizes: Images of each class, from few to many; of a class with fewer, all.
      draws: Of each size; one where it takes the whole sample. A larger size includes the smaller ones of its draw.
      seed: Of the draws.
      shown: The split whose accuracy is kept.
    """
    scored = {name: rows for name, rows in scored.items() if name in ("val", shown)}
    curve = []
    for size in sizes:
        found = []
        for draw in range(draws):
            places = drawn_places(train.labels, size, seed=seed, draw=draw)
            found.append(logistic_regression(train.take(places), scored).accuracy(shown))
            if len(places) == len(train.labels):
                break
        curve.append(Shots(size, tuple(found)))
    return curve


def drawn_places(labels: np.ndarray, size: int, *, seed: int, draw: int) -> np.ndarray:
    """Returns the places, ascending, of `size` examples of each label."""
    chosen = [
        np.random.default_rng([seed, draw, int(label)]).permutation(np.flatnonzero(labels == label))[:size]
        for label in np.unique(labels)
    ]
    return np.sort(np.concatenate(chosen))
