"""What repeated measurements come to: medians, spreads and ratios pair by pair; no other library."""

import dataclasses
import statistics
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Spread:
    """Median and range of a series."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Raises `statistics.StatisticsError` for an empty series."""
        return cls(statistics.median(values), min(values), max(values))


def times_as_fast(ours: Sequence[float], peer: Sequence[float], *, higher_is_better: bool) -> list[float]:
    """Returns how many times as fast the first is, turn by turn.

    The two took turns, so what slowed the machine for a while slowed both of a pair, and leaves their ratio alone.

    Args:
      ours: One value a turn: a rate, or seconds.
      peer: Of the same turns.
      higher_is_better: Whether the values are rates.
    """
    pairs = list(zip(ours, peer, strict=True))
    return [mine / other if higher_is_better else other / mine for mine, other in pairs]
