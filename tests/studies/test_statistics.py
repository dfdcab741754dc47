"""Statistics of the study against hand computations and scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from tl_distributed.studies.statistics import compare, holm, mcnemar_exact, wilson_interval


def binomial_two_sided(successes: int, trials: int) -> float:
    """Sum of the chances of all outcomes no likelier than the one seen, by hand."""
    chances = [math.comb(trials, k) / 2**trials for k in range(trials + 1)]
    return sum(chance for chance in chances if chance <= chances[successes] * (1 + 1e-9))


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (5, 5), (2, 9), (30, 12), (0, 17)])
def test_mcnemar_is_the_exact_sign_test(first, second):
    expected = binomial_two_sided(first, first + second) if first + second else 1.0
    assert mcnemar_exact(first, second) == pytest.approx(expected)
    assert mcnemar_exact(first, second) == mcnemar_exact(second, first)


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.5 times 4, 3, 2, 1, then never falling.
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(("right", "count"), [(0, 10), (7, 10), (10, 10), (812, 1000)])
def test_wilson_interval_is_scipys(right, count):
    expected = stats.binomtest(right, count).proportion_ci(method="wilson")
    low, high = wilson_interval(right / count, count)
    assert (low, high) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_comparison_of_one_seed():
    generator = np.random.default_rng(0)
    first = generator.random((1, 2000)) < 0.8
    second = generator.random((1, 2000)) < 0.7
    found = compare(first, second, seed=0, resamples=4000)
    assert found.difference == pytest.approx(first.mean() - second.mean())
    assert found.only_first == ((first & ~second).sum(),)
    assert found.p_value == pytest.approx(
        stats.binomtest(found.only_first[0], found.only_first[0] + found.only_second[0]).pvalue
    )
    differences = first[0].astype(float) - second[0]
    half = 1.96 * differences.std() / math.sqrt(2000)  # the normal interval of a mean of paired differences
    assert found.low == pytest.approx(found.difference - half, abs=half / 10)
    assert found.high == pytest.approx(found.difference + half, abs=half / 10)


def test_seeds_that_disagree_widen_the_interval():
    """The same images right or wrong in each seed: noise of the images alone, then of the seeds as well."""
    base = np.zeros((4, 1000), bool)
    steady, moody = base.copy(), base.copy()
    steady[:, :100] = True
    moody[0, :400] = True
    narrow, wide = (compare(answers, base, seed=0, resamples=2000) for answers in (steady, moody))
    assert narrow.difference == wide.difference == pytest.approx(0.1)
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)
    assert wide.p_value == 1.0  # three of the seeds show nothing
    assert narrow.p_value < 1e-20


def test_identical_answers_differ_by_nothing():
    answers = np.array([[True, False, True]])
    found = compare(answers, answers, seed=0, resamples=100)
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_answers_to_other_images_cannot_be_paired():
    with pytest.raises(ValueError, match=r"\(1, 3\) and \(1, 4\)"):
        compare(np.zeros((1, 3), bool), np.zeros((1, 4), bool), seed=0, resamples=10)
