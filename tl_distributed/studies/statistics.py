"""Statistics of a comparison: what runs with several seeds, scored on the same test images, say of two methods."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from tl_distributed.reporting.intervals import CONFIDENCE, wilson_form, wilson_interval

_NO_SIGN_OF_SEEDS = 0.5  # p of the F test above which the seeds are taken to add nothing of their own
_ROUNDING = 1e-12
_LEAST_P = 1e-15  # where the quantiles are still exact; nobody asks for less


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How one arm's answers on the test images differ from another's.

    Attributes:
      difference: Mean accuracy of the first minus that of the second, over the seeds that both have, in [-1, 1].
      low: Lower end of the 95 % interval of the difference.
      high: Its upper end.
      p_value: Two-sided, of no difference; below 0.05 exactly where the interval leaves out 0.
      num_seeds: Of one seed, the interval holds the noise of the test images alone: it is about these two runs.
      only_first: Images that only the first got right, for each seed.
      only_second: Images that only the second got right, for each seed.
    """

    difference: float
    low: float
    high: float
    p_value: float
    num_seeds: int
    only_first: tuple[int, ...]
    only_second: tuple[int, ...]


def compare(first: np.ndarray, second: np.ndarray) -> Comparison:
    """Compares two arms whose runs of one seed answered the same test images.

    The differences d[seed, image] in {-1, 0, 1} are a two-way layout without replication, both ways random: other test
    images might have been drawn, and other seeds. Radiology compares readers and cases so (Obuchowski and Rockette
    1995; Gallas 2006). With the mean squares MS of images, of seeds and of what is left, of n images and S seeds, the
    mean has the variance

        (A + B) / (n S),   A = max(0, MS_images - MS_left),   B = MS_seeds

    B is the variance of the seeds' mean differences over S, the images' share in it included; A is what the images have
    in common over all seeds, which the seeds' means do not show. The t interval weights the quantiles of n - 1 and of
    S - 1 degrees of freedom by A and B (Cochran and Cox 1950; Satterthwaite's one number of degrees for both, 1946,
    covers 85 to 90 % of two seeds). Where the F test finds no sign of the seeds (p > 0.5), images are all the noise:
    MS_images / (n S), n - 1 degrees. Without this preliminary test at a liberal level (Bancroft 1964), quiet seeds
    would cost an interval of few seeds most of its power. By simulation the 95 % interval covers 93 to 98 % from three
    seeds on, and 90 to 98 % of two, whatever the shares of seeds and images, where ten images or more tell the arms
    apart; where three do, one seed's covers 84 to 95 %, though equal arms are told apart no more often than in 5 %.

    Where all differences are the same, no spread is seen and only the number of images says how sure that is: the
    share of images that would differ otherwise is below 1 - 0.025^(1/n) (Clopper and Pearson 1934), and p is that of
    the sign test, 2^(1 - n) where one arm alone is right.

    Args:
      first: `[seeds, images] bool`: whether the first arm's run of each seed got each image right.
      second: The same of the second arm, of the same seeds and images.

    Raises:
      ValueError: Different shapes, or nothing to compare.
    """
    if first.shape != second.shape or not first.size:
        raise ValueError(f"answers of shapes {first.shape} and {second.shape} cannot be paired")
    differences = first.astype(np.int8) - second.astype(np.int8)
    mean = float(differences.mean(dtype=np.float64))
    if differences.shape[1] > 1 and differences.min() == differences.max():
        low, high, p_value = _of_no_spread(mean, differences.shape[1])
    else:
        noise = _noise(differences)
        half = half_width(noise)
        low, high, p_value = max(-1.0, mean - half), min(1.0, mean + half), _p_value(abs(mean), noise)
    return Comparison(
        difference=mean,
        low=low,
        high=high,
        p_value=p_value,
        num_seeds=len(differences),
        only_first=tuple((differences == 1).sum(1).tolist()),
        only_second=tuple((differences == -1).sum(1).tolist()),
    )


def interval_of_share(right: np.ndarray) -> tuple[float, float]:
    """Returns the 95 % interval of the share of right answers, over images and seeds that are both a sample.

    Of one seed, and where all answers are alike, it is Wilson's. Of several, the half width h that `compare` finds for
    the mean is put into Wilson's formula: its z² / n is h² / (p (1 - p)). A t interval around the mean itself would end
    at 100 % where few images are wrong, and cover 88 % where three are.

    Args:
      right: `[seeds, images] bool`, whether the run of each seed got each image right.
    """
    share = float(right.mean())
    if len(right) == 1 or share in (0.0, 1.0):
        return wilson_interval(share, right.shape[1])
    half = half_width(_noise(right.astype(np.int8)))
    return wilson_form(share, half**2 / (share * (1 - share))) if half < np.inf else (0.0, 1.0)


def _of_no_spread(mean: float, num_images: int) -> tuple[float, float, float]:
    """Returns (low, high, p) where every difference is `mean`: -1, 0 or 1."""
    others = 1 - ((1 - CONFIDENCE) / 2) ** (1 / num_images)
    low, high = mean - others * (mean + 1), mean + others * (1 - mean)
    return low, high, min(1.0, 2.0 ** (1 - num_images)) if mean else 1.0


@dataclasses.dataclass(frozen=True)
class Part:
    """A share of the variance of a mean, or of a difference of means, and its degrees of freedom."""

    variance: float
    freedom: int


def _noise(differences: np.ndarray) -> tuple[Part, ...]:
    """Returns the independent parts of the variance of the mean of `[seeds, images]` differences."""
    from scipy.stats import f

    num_seeds, num_images = differences.shape
    if num_images < 2:
        return (Part(np.inf, 1),)
    of_images, of_seeds = differences.mean(0, dtype=np.float64), differences.mean(1, dtype=np.float64)
    images = num_seeds * float(of_images.var(ddof=1)) / differences.size
    if num_seeds < 2:
        return (Part(images, num_images - 1),)
    seeds = num_images * float(of_seeds.var(ddof=1)) / differences.size
    freedom = (num_images - 1) * (num_seeds - 1)
    total = float(np.square(differences).mean()) - float(of_seeds.mean()) ** 2
    left = max(0.0, total - (num_images - 1) * images - (num_seeds - 1) * seeds) / freedom
    if seeds == 0 or (left and f.sf(seeds / left, num_seeds - 1, freedom) > _NO_SIGN_OF_SEEDS):
        # Images that are all alike in their means over seeds that contradict one another show no noise of their own.
        return (Part(images if images > _ROUNDING * left else left, num_images - 1),)
    return Part(max(0.0, images - left), num_images - 1), Part(seeds, num_seeds - 1)


def half_width(noise: Sequence[Part], p_value: float = 1 - CONFIDENCE) -> float:
    """Returns the distance from the mean at which the two-sided p is `p_value`; by default that of a 95 % interval."""
    from scipy.special import stdtrit

    variance = sum(part.variance for part in noise)
    if variance in (0, np.inf):
        return variance
    quantiles = [-stdtrit(part.freedom, p_value / 2) for part in noise]
    return float(sum(q * part.variance for q, part in zip(quantiles, noise, strict=True)) / np.sqrt(variance))


def _p_value(distance: float, noise: Sequence[Part]) -> float:
    """Returns the p at which the interval just reaches 0: what `half_width` inverts."""
    from scipy.optimize import brentq

    if distance == 0 or half_width(noise) == np.inf:
        return 1.0
    if half_width(noise, _LEAST_P) <= distance:
        return _LEAST_P if half_width(noise, _LEAST_P) else 0.0
    log_p = brentq(lambda log_p: half_width(noise, float(np.exp(log_p))) - distance, np.log(_LEAST_P), 0.0)
    return float(np.exp(log_p))


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p values adjusted for their number (Holm 1979), in the order given."""
    values = np.asarray(p_values, np.float64)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)).clip(max=1)
    return adjusted.tolist()
