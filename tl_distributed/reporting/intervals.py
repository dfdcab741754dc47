"""Intervals of measured shares."""

CONFIDENCE = 0.95


def wilson_interval(share: float, num_examples: int) -> tuple[float, float]:
    """Returns the 95 % interval of a share measured once on `num_examples` examples (Wilson 1927)."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(share * num_examples, num_examples, alpha=1 - CONFIDENCE, method="wilson")
    return float(low), float(high)
