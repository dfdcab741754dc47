"""What a series of values comes to; of the standard library alone."""

import dataclasses
import statistics
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Spread:
    """Middle and spread of a series of one value or more.

    Attributes:
      median: Of the values.
      low: The smallest.
      high: The largest.
      mean: Of the values.
      deviation: Their sample standard deviation; `None` for a single value.
      count: Of the values.
    """

    median: float
    low: float
    high: float
    mean: float
    deviation: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Raises `statistics.StatisticsError` for an empty series."""
        deviation = statistics.stdev(values) if len(values) > 1 else None
        median, mean = statistics.median(values), statistics.fmean(values)
        return cls(median, min(values), max(values), mean, deviation, len(values))
