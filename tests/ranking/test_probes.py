"""The probes against scikit-learn used plainly: no coordinates in a span, no path of penalties."""

import collections

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors

from tl_distributed.ranking.few_shot import drawn_places, few_shot_curve
from tl_distributed.ranking.probes import L2_STRENGTHS, NEIGHBOURS, Rows, logistic_regression, nearest_neighbours

CLASSES = 4


def drawn(count: int, seed: int, *, size: int = 30, apart: float = 1.2) -> Rows:
    generator = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int32) % CLASSES
    centres = np.random.default_rng(0).normal(size=(CLASSES, size))
    return Rows((5 + 3 * (generator.normal(size=(count, size)) + apart * centres[labels])).astype(np.float32), labels)


def plain_accuracies(train: Rows, scored: dict[str, Rows], strength: float) -> dict[str, float]:
    mean = train.features.astype(np.float64).mean(0)
    scale = np.sqrt(((train.features - mean) ** 2).sum(1).mean())
    model = LogisticRegression(C=1 / (strength * len(train.labels)), tol=1e-8, max_iter=10_000)
    model.fit((train.features - mean) / scale, train.labels)
    return {name: model.score((rows.features - mean) / scale, rows.labels) for name, rows in scored.items()}


@pytest.mark.parametrize("count", [20, 200])  # fewer than the features, and more
def test_logistic_regression_is_scikit_learns_at_the_best_penalty(count):
    train, scored = drawn(count, 1, apart=0.5), {"val": drawn(120, 2, apart=0.5), "test": drawn(400, 3, apart=0.5)}
    probe = logistic_regression(train, scored)
    plain = {strength: plain_accuracies(train, scored, strength) for strength in L2_STRENGTHS}
    best = max(L2_STRENGTHS, key=lambda strength: (plain[strength]["val"], strength))
    assert plain[best]["val"] < 1 and probe.chosen in L2_STRENGTHS
    assert probe.accuracy("val") == pytest.approx(plain[best]["val"], abs=1.5 / 120)  # an image on the border
    assert probe.accuracy("test") == pytest.approx(plain[probe.chosen]["test"], abs=2.5 / 400)


def test_test_images_choose_nothing():
    train, val = drawn(80, 1, apart=0.3), drawn(80, 2, apart=0.3)
    wrong = Rows(val.features, (val.labels + 1) % CLASSES)
    for fit in (logistic_regression, nearest_neighbours):
        alone, beside = fit(train, {"val": val}), fit(train, {"val": val, "test": wrong})
        assert alone.chosen == beside.chosen
        np.testing.assert_array_equal(alone.right["val"], beside.right["val"])


def plain_votes(train: Rows, rows: Rows, k: int) -> float:
    """Accuracy by scikit-learn's neighbours; `most_common` keeps the order of the nearest among equals."""
    places = NearestNeighbors(n_neighbors=k, metric="cosine").fit(train.features).kneighbors(rows.features)[1]
    votes = [collections.Counter(own.tolist()).most_common(1)[0][0] for own in train.labels[places]]
    return float(np.mean(votes == rows.labels))


def test_nearest_neighbours_are_scikit_learns():
    train, scored = drawn(200, 1, apart=0.6), {"val": drawn(150, 2, apart=0.6), "test": drawn(150, 3, apart=0.6)}
    probe = nearest_neighbours(train, scored)
    plain = {k: plain_votes(train, scored["val"], k) for k in NEIGHBOURS}
    assert probe.chosen == max(plain, key=plain.get) and probe.accuracy("val") == plain[probe.chosen] < 1
    assert probe.accuracy("test") == plain_votes(train, scored["test"], int(probe.chosen))
    one = nearest_neighbours(train, {"val": Rows(train.features, train.labels)})
    assert (one.chosen, one.accuracy("val")) == (1, 1.0)  # each is its own nearest


def test_of_equally_frequent_labels_the_nearer_wins():
    train = Rows(np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9], [-1, 0]], np.float32), np.array([0, 1, 2, 2, 1]))
    val = Rows(np.array([[1, 0.01], [0.01, 1]], np.float32), np.array([0, 2]))
    assert nearest_neighbours(train, {"val": val}).right["val"].tolist() == [True, True]


def test_two_classes_and_constant_features_are_fit_too():
    rows = drawn(40, 1)
    two = Rows(np.concatenate([rows.features, np.ones((40, 3), np.float32)], 1), rows.labels % 2)
    assert logistic_regression(two, {"val": two}).accuracy("val") > 0.8
    constant = Rows(np.ones((40, 3), np.float32), rows.labels)
    assert logistic_regression(constant, {"val": constant}).accuracy("val") == pytest.approx(0.25)


def test_draws_are_stratified_nested_and_of_the_seed():
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 2], np.int32)
    small, large = (drawn_places(labels, size, seed=3, draw=1) for size in (2, 3))
    assert set(small) < set(large)
    assert np.bincount(labels[large]).tolist() == [3, 3, 1]
    draws = {tuple(drawn_places(labels, 2, seed=seed, draw=draw)) for seed in range(4) for draw in range(4)}
    assert len(draws) > 4
    np.testing.assert_array_equal(large, drawn_places(labels, 3, seed=3, draw=1))


def test_the_curve_is_of_the_draws_and_rises():
    train, scored = drawn(200, 1, apart=0.5), {"val": drawn(100, 2, apart=0.5), "test": drawn(400, 3, apart=0.5)}
    curve = few_shot_curve(train, scored, (1, 10, 50), draws=3, seed=0, shown="test")
    assert [len(shots.accuracies) for shots in curve] == [3, 3, 1]  # 50 a class are all there are
    means = [np.mean(shots.accuracies) for shots in curve]
    assert means == sorted(means) and means[2] == logistic_regression(train, scored).accuracy("test")
    first = train.take(drawn_places(train.labels, 10, seed=0, draw=0))
    assert curve[1].accuracies[0] == logistic_regression(first, scored).accuracy("test")
