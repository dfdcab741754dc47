"""Statistics of the study against hand computations, scipy and simulation."""

import time

import numpy as np
import pytest
from scipy import stats

from tl_distributed.reporting.intervals import wilson_interval
from tl_distributed.studies.statistics import compare, holm, interval_of_share

IMAGES, DRAWS = 400, 500


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.5 times 4, 3, 2, 1, then never falling.
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_rejects_what_its_steps_reject():
    """The smallest p goes by level / n, the next by level / (n - 1), until one does not."""
    generator = np.random.default_rng(0)
    for count in (1, 2, 3, 7, 30):
        p_values = generator.random(count) ** 4
        adjusted = np.array(holm(p_values))
        for level in (0.001, 0.01, 0.05, 0.3):
            order = np.argsort(p_values)
            kept = p_values[order] > level / np.arange(count, 0, -1)
            rejected = order[: int(kept.argmax()) if kept.any() else count]
            assert sorted(np.flatnonzero(adjusted <= level)) == sorted(rejected)


@pytest.mark.parametrize(("right", "count"), [(0, 10), (7, 10), (10, 10), (812, 1000)])
def test_wilson_interval_is_scipys(right, count):
    expected = stats.binomtest(right, count).proportion_ci(method="wilson")
    assert wilson_interval(right / count, count) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_one_seed_is_the_paired_t_test():
    generator = np.random.default_rng(0)
    first, second = generator.random((1, 2000)) < 0.8, generator.random((1, 2000)) < 0.78
    found = compare(first, second)
    expected = stats.ttest_rel(first[0].astype(float), second[0].astype(float))
    interval = expected.confidence_interval()
    assert found.difference == pytest.approx(first.mean() - second.mean())
    assert found.p_value == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert (found.num_seeds, found.only_first) == (1, ((first & ~second).sum(),))


def test_seeds_alone_are_the_t_test_of_their_means():
    """Many images, each right or wrong as its seed's share says: next to no noise but that of the seeds."""
    shares = np.array([0.91, 0.86, 0.93, 0.89]), np.array([0.88, 0.87, 0.85, 0.86])
    first, second = (np.arange(50_000) < 50_000 * share[:, None] for share in shares)
    found = compare(first, second)
    expected = stats.ttest_rel(*shares)
    interval = expected.confidence_interval()
    assert found.p_value == pytest.approx(expected.pvalue, rel=0.02)
    assert (found.low, found.high) == (pytest.approx(interval.low, abs=5e-4), pytest.approx(interval.high, abs=5e-4))


def test_the_same_answers_from_each_seed_count_once():
    generator = np.random.default_rng(0)
    first, second = generator.random((1, 500)) < 0.8, generator.random((1, 500)) < 0.7
    alone, repeated = compare(first, second), compare(first.repeat(5, 0), second.repeat(5, 0))
    assert (repeated.low, repeated.high, repeated.p_value) == pytest.approx((alone.low, alone.high, alone.p_value))


def answers(generator: np.random.Generator, seeds: int, accuracy: float, *, seed_sd: float, images: str) -> np.ndarray:
    """Draws right and wrong: each seed has an accuracy of its own.

    Args:
      generator: Of the draw.
      seeds: Number of runs.
      accuracy: Their mean.
      seed_sd: Standard deviation of a seed's accuracy.
      images: own: each seed finds other images hard; shared: all seeds find the same hard; fixed: as `shared`, in all
        draws alike, so that there is no noise of the images.
    """
    shares = np.clip(accuracy + seed_sd * generator.standard_normal((seeds, 1)), 0, 1)
    if images == "fixed":
        return np.arange(IMAGES) < np.round(IMAGES * shares)
    return generator.random((seeds if images == "own" else 1, IMAGES)) < shares


def coverage(seeds: int, truth: float = 0.0, **noise) -> float:
    """Returns the share of studies whose interval holds the true difference; p agrees with the interval in each."""
    generator, held = np.random.default_rng(seeds), 0
    for _ in range(DRAWS):
        found = compare(
            answers(generator, seeds, 0.8 + truth, **noise), answers(generator, seeds, 0.8, **noise)
        )  # fmt: skip
        held += found.low <= truth <= found.high
        assert (found.low <= 0 <= found.high) == (found.p_value >= 0.05)
    return held / DRAWS


NOISE = {
    "seeds": {"seed_sd": 0.04, "images": "fixed"},
    "images": {"seed_sd": 0.0, "images": "own"},
    "the same images": {"seed_sd": 0.0, "images": "shared"},
    "both": {"seed_sd": 0.02, "images": "own"},
    "both, the same images": {"seed_sd": 0.02, "images": "shared"},
}


@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_the_interval_covers_what_it_says(seeds, noise):
    """0.93 to 0.97 and twice the error of so many draws; two seeds say little of their own noise."""
    error = 2 * np.sqrt(0.95 * 0.05 / DRAWS)
    assert (0.93 if seeds > 2 else 0.90) - error <= coverage(seeds, **NOISE[noise]) <= 0.97 + error


@pytest.mark.parametrize("seeds", [2, 3, 10])
@pytest.mark.parametrize(("truth", "noise"), [
    (0.8, NOISE["both"]), (0.8, NOISE["the same images"]), (0.9925, {"seed_sd": 0.001, "images": "shared"}),
])  # fmt: skip
def test_the_interval_of_one_arm_covers_what_it_says_also_where_three_images_are_wrong(seeds, truth, noise):
    generator, held = np.random.default_rng(seeds), 0
    for _ in range(DRAWS):
        low, high = interval_of_share(answers(generator, seeds, truth, **noise))
        held += low <= truth <= high
    assert held / DRAWS >= (0.93 if seeds > 2 else 0.90) - 2 * np.sqrt(0.95 * 0.05 / DRAWS)


def test_the_interval_of_one_arm_is_wilsons_where_seeds_say_nothing():
    generator = np.random.default_rng(0)
    right = generator.random((1, 1000)) < 0.97
    wilson = wilson_interval(right.mean(), 1000)
    assert interval_of_share(right) == wilson
    assert interval_of_share(right.repeat(3, 0)) == pytest.approx(wilson, abs=1e-4)
    assert interval_of_share(np.ones((3, 50), bool)) == wilson_interval(1.0, 50)
    assert interval_of_share(np.array([[True], [False]])) == (0, 1)


def test_false_alarms_of_one_seed_are_rare_and_its_interval_knows_no_seeds():
    assert coverage(1, **NOISE["images"]) >= 0.935
    assert coverage(1, **NOISE["both"]) < 0.92


def test_power_rises_with_seeds_and_with_images():
    def power(seeds: int, images: int) -> float:
        generator, found = np.random.default_rng(0), 0
        for _ in range(150):
            first, second = generator.random((2, seeds, images)) < np.array([0.92, 0.90])[:, None, None]
            found += compare(first, second).p_value < 0.05
        return found / 150

    by_seeds = [power(seeds, 1000) for seeds in (1, 3, 10)]
    by_images = [power(5, images) for images in (250, 1000, 4000)]
    assert by_seeds == sorted(by_seeds)
    assert by_seeds[-1] > by_seeds[0] + 0.3
    assert by_images == sorted(by_images)
    assert by_images[-1] > 0.95


@pytest.mark.parametrize("num_images", [2, 5, 6, 50])
@pytest.mark.parametrize("num_seeds", [1, 3])
def test_without_any_spread_the_number_of_images_says_how_sure_that_is(num_images, num_seeds):
    """All images lost by one arm: p is that of the sign test, the interval that of as many hits of as many."""
    right, wrong = np.ones((num_seeds, num_images), bool), np.zeros((num_seeds, num_images), bool)
    found, turned, same = compare(right, wrong), compare(wrong, right), compare(right, right)
    share = stats.binomtest(num_images, num_images).proportion_ci(method="exact").low
    assert found.p_value == turned.p_value == pytest.approx(stats.binomtest(num_images, num_images).pvalue)
    assert (found.low, found.high) == (-turned.high, -turned.low) == (pytest.approx(2 * share - 1), 1)
    assert (found.low <= 0) == (found.p_value >= 0.05) == (num_images < 6)
    assert (same.difference, same.p_value) == (0, 1)
    assert (same.low, same.high) == (pytest.approx(share - 1), pytest.approx(1 - share))


def test_seeds_that_contradict_one_another_image_by_image_show_the_noise_that_they_have():
    """Each image is right for one seed of two: the images' means are all alike, and that is no certainty."""
    first = np.array([[True, False] * 2, [False, True] * 2])
    found = compare(first, np.zeros_like(first))
    assert (found.difference, found.p_value > 0.05, found.low < 0) == (0.5, True, True)


def test_one_image_says_nothing():
    found = compare(np.ones((3, 1), bool), np.zeros((3, 1), bool))
    assert (found.low, found.high, found.p_value) == (-1, 1, 1)


def test_a_pair_takes_less_than_a_tenth_of_a_second():
    generator = np.random.default_rng(0)
    first, second = generator.random((2, 10, 10_000)) < 0.9
    compare(first, second)  # imports
    start = time.perf_counter()
    compare(first, second)
    assert time.perf_counter() - start < 0.1


def test_answers_to_other_images_cannot_be_paired():
    with pytest.raises(ValueError, match=r"\(1, 3\) and \(1, 4\)"):
        compare(np.zeros((1, 3), bool), np.zeros((1, 4), bool))
