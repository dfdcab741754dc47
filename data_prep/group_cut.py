"""The validation share where images belong together: groups go to one side as a whole."""

import numpy as np


def join_groups(equal: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Joins images that are equal or of one group, also by way of others, to units.

    Args:
      equal: `[n]` numbers that equal images share, 0 to the largest; see `splits.group_equal`.
      groups: `[n]` numbers of groups, -1 for an image of none.

    Returns:
      `[n] int64`, numbers that the images of a unit share, in the order of each unit's smallest number in `equal`: a
      seeded order of the contents.
    """
    smallest = np.arange(equal.max(initial=-1) + 1)  # of each set of equal images, the smallest number in its unit
    in_group = np.flatnonzero(groups >= 0)
    while in_group.size:  # each round carries the smallest number one group further; a chain of many groups is rare
        of_group = np.full(groups.max() + 1, equal.size, np.int64)
        np.minimum.at(of_group, groups[in_group], smallest[equal[in_group]])
        before = smallest.copy()
        np.minimum.at(smallest, equal[in_group], of_group[groups[in_group]])
        if (smallest == before).all():
            break
    return np.unique(smallest[equal], return_inverse=True)[1].reshape(-1).astype(np.int64)


def units_for_share(units: np.ndarray, labels: np.ndarray, in_train: np.ndarray, fraction: float) -> np.ndarray:
    """Chooses whole units of train for validation or test, in the order of their numbers.

    A unit is taken where it brings classes nearer to their share of the split by more than it overshoots, and
    leaves each of its classes an image in train.

    Args:
      units: `[n]` of `join_groups`.
      labels: `[n]` class indices.
      in_train: `[n] bool`, the images to choose from.
      fraction: Share of each class.

    Returns:
      `[n] bool`, the images that go to the split.
    """
    counts = np.bincount(labels[in_train], minlength=labels.max(initial=-1) + 1)
    wanted = np.minimum(np.maximum(1, (counts * fraction + 0.5).astype(np.int64)), counts - 1)
    chosen = np.zeros(units.max(initial=-1) + 1, bool)
    members = np.flatnonzero(in_train)
    members = members[np.argsort(units[members], kind="stable")]
    for part in np.split(members, np.flatnonzero(np.diff(units[members])) + 1):
        if not part.size:
            continue
        classes, number = np.unique(labels[part], return_counts=True)
        missing = np.maximum(wanted[classes], 0)
        nearer, further = np.minimum(number, missing).sum(), np.maximum(number - missing, 0).sum()
        if nearer > further and (number < counts[classes]).all():
            chosen[units[part[0]]] = True
            wanted[classes] -= number
            counts[classes] -= number
    return in_train & chosen[units]
