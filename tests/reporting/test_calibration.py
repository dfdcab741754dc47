"""Calibration against scikit-learn and a search of its own for the temperature."""

import numpy as np
import pytest
import scipy.optimize
import scipy.special
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from tl_distributed.reporting.calibration import (
    NUM_BINS,
    TEMPERATURES,
    expected_calibration_error,
    fit_temperature,
    reliability,
    tempered,
)


def answers(count: int = 1500, scale: float = 3.0, num_classes: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels drawn from softmax(logits), and logits that are `scale` times as large: too sure."""
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2, (count, num_classes))
    chances = scipy.special.softmax(logits, axis=1)
    labels = np.array([generator.choice(num_classes, p=row) for row in chances])
    return labels, scale * logits


def slopes_of(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    columns = []
    for temperature in TEMPERATURES:
        probabilities = scipy.special.softmax(logits / temperature, axis=1)
        columns.append((probabilities * logits).sum(1) - logits[np.arange(len(labels)), labels])
    return np.stack(columns, axis=1)


def test_bins_and_error_are_those_of_scikit_learn():
    labels, logits = answers()
    probabilities = scipy.special.softmax(logits, axis=1)
    confidences, right = probabilities.max(1), probabilities.argmax(1) == labels
    bins = reliability(confidences, right)
    hits, means = calibration_curve(right, confidences, n_bins=NUM_BINS, strategy="quantile")
    assert len(bins) == 15 and {size for *_, size in bins} == {100}
    np.testing.assert_allclose(bins, np.stack([means, hits, np.full(15, 100)], axis=1))
    assert expected_calibration_error(bins) == pytest.approx(np.abs(hits - means).mean())
    assert expected_calibration_error(bins) > 0.1  # the logits are too large


def test_the_order_of_the_examples_is_of_no_account():
    """Of equal confidences, an order that has the right ones first would look badly calibrated."""
    confidences, right = np.full(300, 0.5), np.arange(300) < 150
    for order in (np.arange(300), np.random.default_rng(0).permutation(300)):
        assert reliability(confidences[order], right[order]) == [[0.5, 0.5, 300]]
    assert expected_calibration_error(reliability(confidences, right)) == 0


@pytest.mark.parametrize("count", [1, 2, 14, 17, 100])
def test_every_example_is_in_one_bin_whatever_their_number(count):
    confidences = np.random.default_rng(1).permutation(np.linspace(0.2, 0.9, count))
    bins = reliability(confidences, confidences > 0.5)
    sizes = [size for *_, size in bins]
    assert sum(sizes) == count and len(bins) == min(count, 15) and max(sizes) - min(sizes) <= 1
    assert [row[0] for row in bins] == sorted(row[0] for row in bins)
    assert reliability(np.zeros(0), np.zeros(0, bool)) == []


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_the_temperature_is_that_of_the_smallest_loss(scale):
    labels, logits = answers(scale=scale)

    def loss(temperature: float) -> float:
        return log_loss(labels, scipy.special.softmax(logits / temperature, axis=1))

    expected = scipy.optimize.minimize_scalar(loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-7}).x
    found = fit_temperature(slopes_of(labels, logits))
    assert found == pytest.approx(expected, rel=1e-4) == pytest.approx(scale, rel=0.1)


def test_where_no_temperature_is_the_best_the_nearest_is_taken():
    logits = np.eye(3) * 4
    assert fit_temperature(slopes_of(np.arange(3), logits)) == TEMPERATURES[0]  # all right: ever surer
    assert fit_temperature(slopes_of((np.arange(3) + 1) % 3, logits)) == TEMPERATURES[-1]  # all wrong: ever less


def test_probabilities_at_a_temperature():
    _, logits = answers(50)
    expected = scipy.special.softmax(logits / 1.7, axis=1)
    found = tempered(scipy.special.softmax(logits, axis=1).astype(np.float32), 1.7)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    certain = tempered(np.array([[1.0, 0.0]], np.float32), 2.0)
    assert np.isfinite(certain).all() and certain[0, 0] > 0.999
