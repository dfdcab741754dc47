"""Which epoch's weights a run ends with, by `--select_by`: a later one only where it is better."""

import math
from collections.abc import Mapping
from typing import NamedTuple


class Validation(NamedTuple):
    """What an epoch is chosen by.

    Attributes:
      score: The measure of `--select_by`, larger is better; of the loss its negative.
      loss: Negative log-likelihood in nats, by which equal scores are told apart.
    """

    score: float
    loss: float

    def is_better_than(self, score: float | None, loss: float | None) -> bool:
        """Compares with the best so far; `None` is none yet, and a loss that is not known is not undercut."""
        if not all(map(math.isfinite, self)):
            return False
        return score is None or self.score > score or (self.score == score and loss is not None and self.loss < loss)


def validation_of(select_by: str, figures: Mapping[str, float]) -> Validation:
    """Returns what counts of `scores.figures_of`."""
    value = figures[select_by.removeprefix("val_")]
    return Validation(-value if select_by == "val_loss" else value, figures["loss"])


def name_of(select_by: str) -> str:
    """Returns what messages call the measure."""
    return f"validation {select_by.removeprefix('val_').replace('_', ' ')}"
