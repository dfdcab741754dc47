"""Intervals of measured shares."""

import math

CONFIDENCE = 0.95


def wilson_interval(share: float, num_examples: int) -> tuple[float, float]:
    """Returns the 95 % interval of a share measured once on `num_examples` examples (Wilson 1927)."""
    from scipy.special import ndtri

    return wilson_form(share, float(ndtri((1 + CONFIDENCE) / 2)) ** 2 / num_examples)


def wilson_form(share: float, relative_variance: float) -> tuple[float, float]:
    """Returns the shares p that lie no farther from `share` than sqrt(`relative_variance` p (1 - p)), as (low, high).

    Args:
      share: Measured, in [0, 1].
      relative_variance: z² / n in Wilson's interval.
    """
    middle = share + relative_variance / 2
    half = math.sqrt(relative_variance * share * (1 - share) + relative_variance**2 / 4)
    return max(0.0, (middle - half) / (1 + relative_variance)), min(1.0, (middle + half) / (1 + relative_variance))
