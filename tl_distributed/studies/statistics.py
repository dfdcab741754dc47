"""Statistics of a comparison: spread over runs, and paired tests on the same test images."""

import dataclasses
from collections.abc import Sequence

import numpy as np

_RESAMPLES_AT_ONCE = 64
CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How one arm's answers on the test images differ from another's.

    Attributes:
      difference: Mean accuracy of the first minus that of the second, over the seeds that both have.
      low: Lower end of the 95 % bootstrap interval of the difference.
      high: Its upper end.
      p_value: Of McNemar's exact test, two-sided; of several seeds the largest, so that no lucky one decides.
      only_first: Images that only the first got right, for each seed.
      only_second: Images that only the second got right, for each seed.
    """

    difference: float
    low: float
    high: float
    p_value: float
    only_first: tuple[int, ...]
    only_second: tuple[int, ...]


def wilson_interval(accuracy: float, num_examples: int) -> tuple[float, float]:
    """Returns the 95 % interval of an accuracy measured once on `num_examples` images (Wilson 1927)."""
    from scipy.stats import norm

    z = float(norm.ppf(0.5 + CONFIDENCE / 2))
    centre = (accuracy + z**2 / (2 * num_examples)) / (1 + z**2 / num_examples)
    half = z / (1 + z**2 / num_examples)
    half *= float(np.sqrt(accuracy * (1 - accuracy) / num_examples + z**2 / (4 * num_examples**2)))
    return max(0.0, centre - half), min(1.0, centre + half)


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Returns the two-sided p of McNemar's exact test (McNemar 1947): a fair coin over the images that differ.

    Args:
      only_first: Images that only the first model got right.
      only_second: Images that only the second got right.
    """
    from scipy.stats import binomtest

    differing = only_first + only_second
    return float(binomtest(only_first, differing, 0.5).pvalue) if differing else 1.0


def compare(first: np.ndarray, second: np.ndarray, *, seed: int, resamples: int) -> Comparison:
    """Compares two arms on the same test images.

    The bootstrap draws images and, where there are several, seeds anew (both arms' runs of a seed together, since
    they share their training images), so that its interval holds the noise of both.

    Args:
      first: `[seeds, images] bool`: whether the first arm's run of each seed got each image right.
      second: The same of the second arm, of the same seeds and images.
      seed: Of the bootstrap.
      resamples: Draws of the bootstrap.

    Raises:
      ValueError: Different shapes, or nothing to compare.
    """
    if first.shape != second.shape or not first.size:
        raise ValueError(f"answers of shapes {first.shape} and {second.shape} cannot be paired")
    only_first, only_second = (first & ~second).sum(1), (second & ~first).sum(1)
    differences = first.astype(np.float32) - second.astype(np.float32)
    low, high = np.quantile(
        _bootstrap_means(differences, seed, resamples), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    )
    return Comparison(
        difference=float(differences.mean(dtype=np.float64)),
        low=float(low),
        high=float(high),
        p_value=max(mcnemar_exact(int(a), int(b)) for a, b in zip(only_first, only_second, strict=True)),
        only_first=tuple(only_first.tolist()),
        only_second=tuple(only_second.tolist()),
    )


def _bootstrap_means(values: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """Returns the means of resampled `[seeds, images]` values, rows and columns drawn with replacement."""
    generator = np.random.default_rng(seed)
    num_seeds, num_images = values.shape
    means = []
    for start in range(0, resamples, _RESAMPLES_AT_ONCE):
        count = min(_RESAMPLES_AT_ONCE, resamples - start)
        image_weights = generator.multinomial(num_images, np.full(num_images, 1 / num_images), size=count)
        seed_weights = generator.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=count)
        of_seeds = image_weights.astype(np.float32) @ values.T / num_images
        means.append((of_seeds * seed_weights).sum(1) / num_seeds)
    return np.concatenate(means)


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p values adjusted for their number (Holm 1979), in the order given."""
    order = np.argsort(p_values, kind="stable")
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted
