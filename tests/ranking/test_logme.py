"""LogME against its definition: the density of the labels, at the hyper-parameters that a general search finds best."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from tl_distributed.ranking.logme import log_maximum_evidence


def slow_log_maximum_evidence(features: np.ndarray, labels: np.ndarray) -> float:
    """Searches log alpha and log beta of y ~ N(0, I / beta + F F^T / alpha) for each class, from several starts."""
    count = len(features)
    gram = features @ features.T

    def search(target: np.ndarray) -> float:
        def negative(logs: np.ndarray) -> float:
            alpha, beta = np.exp(np.clip(logs, -20, 20))
            covariance = np.eye(count) / beta + gram / alpha
            return -multivariate_normal.logpdf(target, np.zeros(count), covariance)

        starts = ([0.0, 0.0], [4.0, 2.0], [6.0, 0.0])
        options = {"xatol": 1e-6, "fatol": 1e-9, "maxiter": 4000}
        return -min(minimize(negative, start, method="Nelder-Mead", options=options).fun for start in starts)

    return float(np.mean([search((labels == label).astype(float)) / count for label in np.unique(labels)]))


def drawn(count: int, size: int, *, apart: float) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(count + size)
    labels = generator.integers(0, 3, count)
    features = 2 * generator.normal(size=(count, size)) + 1
    features[:, :3] += apart * np.eye(3)[labels]
    return features, labels


@pytest.mark.parametrize(("count", "size"), [(60, 8), (30, 30), (24, 40)])
def test_it_is_the_maximum_of_the_evidence(count, size):
    features, labels = drawn(count, size, apart=3.0)
    expected = slow_log_maximum_evidence(features, labels)
    assert log_maximum_evidence(features, labels, 3) == pytest.approx(expected, abs=1e-5)


def test_better_features_have_more_evidence_whatever_their_scale():
    found = [log_maximum_evidence(*drawn(200, 16, apart=apart), 3) for apart in (0.0, 2.0, 8.0)]
    assert found == sorted(found) and found[0] < found[2] - 0.1
    features, labels = drawn(200, 16, apart=2.0)
    assert log_maximum_evidence(1e4 * features, labels, 3) == pytest.approx(found[1])


def test_features_of_no_use_are_no_error():
    features, labels = drawn(40, 6, apart=2.0)
    padded = np.concatenate([features, features[:, :2], np.zeros((40, 3))], axis=1)  # of a rank of 6
    assert np.isfinite(log_maximum_evidence(padded, labels, 3))
    assert np.isfinite(log_maximum_evidence(np.ones((40, 4)), labels, 3))
    assert log_maximum_evidence(features, labels, 7) == log_maximum_evidence(features, labels, 3)  # absent classes
