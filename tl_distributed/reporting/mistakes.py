"""Which test images are worth a look: those that all runs get wrong, that one alone gets right, the surest errors."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from tl_distributed.reporting.answers import Answers


@dataclasses.dataclass(frozen=True)
class Group:
    """What one way of training, with all of its seeds, answered on the same test images.

    Attributes:
      right: `[n]`, share of the runs that got the image right.
      predictions: `[n]`, the surest answer of the runs.
      confidences: `[n]`, its probability.
    """

    right: np.ndarray
    predictions: np.ndarray
    confidences: np.ndarray

    @classmethod
    def of(cls, runs: Sequence[Answers]) -> "Group":
        """Sums up runs of the same test images."""
        right = np.mean([run.right for run in runs], axis=0)
        confidences = np.stack([run.confidences for run in runs])
        surest = confidences.argmax(0)[None]
        predictions = np.take_along_axis(np.stack([run.predictions for run in runs]), surest, axis=0)[0]
        return cls(right, predictions, np.take_along_axis(confidences, surest, axis=0)[0])


def wrong_for_all(groups: Mapping[str, Group]) -> np.ndarray:
    """Returns the places of the images that no run of any group got right, those of the surest errors first."""
    wrong = np.max([group.right for group in groups.values()], axis=0) == 0
    return _surest(np.flatnonzero(wrong), groups)


def right_for_one(groups: Mapping[str, Group]) -> dict[str, np.ndarray]:
    """Returns, by group, the places that all of its runs got right and no run of another group did."""
    right = np.stack([group.right for group in groups.values()])
    found = {}
    for row, name in enumerate(groups):
        others = np.delete(right, row, axis=0).max(0, initial=0)
        others_groups = {other: group for other, group in groups.items() if other != name}
        found[name] = _surest(np.flatnonzero((right[row] == 1) & (others == 0)), others_groups)
    return found


def surest_wrong(group: Group, labels: np.ndarray) -> np.ndarray:
    """Returns the places of the wrong answers, the surest first."""
    places = np.flatnonzero(group.predictions != labels)
    return places[np.argsort(-group.confidences[places], kind="stable")]


def _surest(places: np.ndarray, groups: Mapping[str, Group]) -> np.ndarray:
    sureness = np.mean([group.confidences[places] for group in groups.values()], axis=0) if groups else places * 0.0
    return places[np.argsort(-sureness, kind="stable")]
