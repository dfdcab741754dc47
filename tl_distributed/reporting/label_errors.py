"""Labels that are likely wrong, by confident learning (Northcutt, Jiang and Chuang 2021, arXiv:1911.00068).

An example counts for a class where its probability of that class is at least the class's threshold: the mean
probability of the class among the examples that carry its label. An example that counts for another class than its
label's is an off-diagonal entry of the confident joint, and a suspect. The probabilities have to be out of sample, as
those of the test images are.
"""

import dataclasses

import numpy as np

_ROWS_AT_A_TIME = 4096  # so that memory beyond the probabilities themselves stays small


@dataclasses.dataclass(frozen=True)
class Suspects:
    """Examples whose label is likely wrong, the likeliest first.

    Attributes:
      places: `[k]`, of each in the split.
      suggested: `[k]`, the class that it counts for.
      margins: `[k]`, in (-1, 1]: the probability of the suggested class less that of the label; the larger, the
        likelier is an error.
    """

    places: np.ndarray
    suggested: np.ndarray
    margins: np.ndarray

    def reordered(self, order: np.ndarray) -> "Suspects":
        """Returns them of a split whose example at place i was at `order[i]` here: `[n]`, each place once."""
        new_places = np.empty_like(order)
        new_places[order] = np.arange(len(order))
        return dataclasses.replace(self, places=new_places[self.places])


def find_suspects(labels: np.ndarray, probabilities: np.ndarray) -> Suspects:
    """Returns the off-diagonal of the confident joint.

    Args:
      labels: `[n]` integers below the number of classes.
      probabilities: `[n, classes]`, out of sample.
    """
    num_classes = probabilities.shape[1]
    own = probabilities[np.arange(len(labels)), labels]
    counts = np.bincount(labels, minlength=num_classes)
    sums = np.bincount(labels, weights=own, minlength=num_classes)
    # A class without examples has no threshold: nothing counts for it.
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    suggested = np.empty(len(labels), np.int64)
    for first in range(0, len(labels), _ROWS_AT_A_TIME):
        part = probabilities[first : first + _ROWS_AT_A_TIME]
        # Of several classes that it counts for, the most probable one (the paper's collision rule); none: its label.
        confident = np.where(part >= thresholds - 1e-6, part, -1.0)
        best = confident.argmax(1)
        none = confident.max(1) < 0
        suggested[first : first + len(part)] = np.where(none, labels[first : first + len(part)], best)
    places = np.flatnonzero(suggested != labels)
    margins = probabilities[places, suggested[places]] - own[places]
    order = np.argsort(-margins, kind="stable")
    return Suspects(places[order], suggested[places[order]], margins[order])
