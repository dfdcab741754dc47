"""Whether a classifier's probabilities can be taken at their word, and the temperature that brings them nearer to it.

Of Guo et al. 2017, "On Calibration of Modern Neural Networks". No function here takes an array with a side for classes.
"""

import math
from collections.abc import Sequence

import numpy as np

NUM_BINS = 15
# At which a model is evaluated so that its best one can be found in between.
TEMPERATURES = tuple(np.geomspace(0.05, 20.0, 41).tolist())


def reliability(confidences: np.ndarray, right: np.ndarray) -> list[list[float]]:
    """Returns the bins of a reliability diagram, the least confident first: [mean confidence, accuracy, examples].

    There are at most `NUM_BINS`, of as many examples each as can be (Nguyen and O'Connor 2015, "adaptive binning"):
    bins of equal width would leave most of them empty. Equal confidences are in one bin, so that the order of the
    examples is of no account. An example that was answered with NaN is in none.

    Args:
      confidences: `[n]`, in [0, 1]: the probability of each prediction.
      right: `[n] bool`: whether it is the label.
    """
    known = ~np.isnan(confidences)
    confidences, right = confidences[known], right[known]
    count = len(confidences)
    if not count:
        return []
    ranks = np.searchsorted(np.sort(confidences), confidences)
    bins = ranks * NUM_BINS // count
    sizes = np.bincount(bins, minlength=NUM_BINS)
    sums = [np.bincount(bins, weights=values, minlength=NUM_BINS) for values in (confidences, right)]
    return [
        [confidence / size, hits / size, int(size)]
        for confidence, hits, size in zip(*(part.tolist() for part in sums), sizes.tolist(), strict=True)
        if size
    ]


def expected_calibration_error(bins: Sequence[Sequence[float]]) -> float:
    """Returns the mean distance of confidence and accuracy, in [0, 1], over the bins of `reliability`; NaN of none."""
    count = sum(size for *_, size in bins)
    return sum(size * abs(confidence - hits) for confidence, hits, size in bins) / count if count else math.nan


def fit_temperature(slopes: np.ndarray) -> float:
    """Returns the temperature T of the smallest mean negative log-likelihood of softmax(logits / T).

    The likelihood is concave in 1 / T, so its slope has one zero at most; it is looked for between `TEMPERATURES`, by a
    spline in log T. Where there is none, the nearest of them is returned: the smallest, where every example is right.

    Args:
      slopes: `[n, len(TEMPERATURES)]`: of each example's loss by 1 / T, at each T: the mean of the logits under
        softmax(logits / T), less the label's logit.
    """
    from scipy.interpolate import CubicSpline
    from scipy.optimize import brentq

    means, logarithms = slopes.mean(0, dtype=np.float64), np.log(TEMPERATURES)
    above = np.flatnonzero(means <= 0)  # they fall as T grows
    if not len(above):
        return TEMPERATURES[-1]
    if above[0] == 0:
        return TEMPERATURES[0]
    ends = logarithms[above[0] - 1], logarithms[above[0]]
    return float(np.exp(brentq(CubicSpline(logarithms, means), *ends)))


def tempered(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Returns softmax(logits / temperature) of `[n, classes]` probabilities, which are softmax(logits)."""
    from scipy.special import softmax

    smallest = np.finfo(np.float32).smallest_subnormal  # of what was rounded to zero nothing is known
    return softmax(np.log(np.maximum(probabilities, smallest)) / temperature, axis=1)
