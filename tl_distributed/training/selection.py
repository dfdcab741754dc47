"""Which epoch's weights a run ends with, by `--select_by`: a later one only where it is better."""

import math
from collections.abc import Collection, Mapping
from typing import NamedTuple


class Validation(NamedTuple):
    """What an epoch is chosen by.

    Attributes:
      score: The metric of `--select_by`, larger is better; of a loss its negative.
      loss: Of the task, e.g. negative log-likelihood in nats, by which equal scores are told apart.
    """

    score: float
    loss: float

    def is_better_than(self, score: float | None, loss: float | None) -> bool:
        """Compares with the best so far; `None` is none yet, and a loss that is not known is not undercut."""
        if not all(map(math.isfinite, self)):
            return False
        return score is None or self.score > score or (self.score == score and loss is not None and self.loss < loss)


def validation_of(select_by: str, metrics: Mapping[str, float], *, smaller_is_better: Collection[str]) -> Validation:
    """Returns what counts of the metrics of a split.

    Args:
      select_by: val_ and a metric.
      metrics: By name; `loss` is one of them.
      smaller_is_better: Those of which the smallest is the best.
    """
    name = select_by.removeprefix("val_")
    value = metrics[name]
    return Validation(-value if name in smaller_is_better else value, metrics["loss"])


def name_of(select_by: str) -> str:
    """Returns what messages call the measure."""
    return f"validation {select_by.removeprefix('val_').replace('_', ' ')}"
