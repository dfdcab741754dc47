"""Which examples a smaller training set keeps: the same number of each class, chosen by a seed."""

from collections.abc import Mapping, Sequence

import numpy as np


def subset_counts(counts_per_class: Mapping[str, int], images_per_class: int) -> dict[str, int]:
    """Returns how many examples of each class are kept; `images_per_class` of 0 keeps all."""
    return {
        name: min(count, images_per_class) if images_per_class else count for name, count in counts_per_class.items()
    }


class StratifiedChoice:
    """Chooses examples while they are read in order.

    Each class has a permutation of its examples that depends on the seed and the class alone, and a subset is the
    start of it: so the larger of two subsets of one seed includes the smaller.
    """

    def __init__(self, counts: Sequence[int], *, images_per_class: int, seed: int):
        """Draws the choice.

        Args:
          counts: Examples of each class, in order of label.
          images_per_class: How many to keep of each; of a class with fewer, all.
          seed: Of the choice.
        """
        self._kept = [
            np.random.default_rng([seed, label]).permutation(count) < images_per_class
            for label, count in enumerate(counts)
        ]
        self._seen = [0] * len(counts)

    def mask(self, labels: np.ndarray) -> np.ndarray:
        """Tells which of the next examples are kept.

        Args:
          labels: `[n]` integers of the examples that follow those of the last call.

        Returns:
          `[n] bool`.

        Raises:
          IndexError: More examples of a class than there were said to be, or another label.
        """
        chosen = np.zeros(len(labels), bool)
        for row, label in enumerate(labels):
            chosen[row] = self._kept[label][self._seen[label]]
            self._seen[label] += 1
        return chosen
