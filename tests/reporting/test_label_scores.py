"""Scores of pictures with any number of labels, against scikit-learn and a slow reference."""

import json
import math

import numpy as np
import pytest
from sklearn import metrics

from tl_distributed.reporting.label_scores import FIGURES, average_precision, figures_of, multi_hot, summarise


def made(count: int = 60, classes: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    truth = generator.random((count, classes)) < [0.5, 0.1, 0.9, 0.3, 0.02]
    truth[0] = True
    # Few different values: equal probabilities are common.
    probabilities = np.round(np.clip(0.35 * truth + generator.random((count, classes)) * 0.65, 0, 1), 1)
    return truth, probabilities.astype(np.float32)


def slow_average_precision(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Sums precision times the step of recall over the thresholds, straight from the definition."""
    total, before = 0.0, 0.0
    for threshold in sorted(set(probabilities.tolist()), reverse=True):
        taken = probabilities >= threshold
        recall = (truth & taken).sum() / truth.sum()
        total += (recall - before) * (truth & taken).sum() / taken.sum()
        before = recall
    return total


@pytest.mark.parametrize("seed", range(3))
def test_figures_are_those_of_scikit_learn(seed):
    truth, probabilities = made(seed=seed)
    found, answers = figures_of(truth, probabilities), probabilities > 0.5
    expected = {
        "mean_average_precision": metrics.average_precision_score(truth, probabilities, average="macro"),
        "macro_f1": metrics.f1_score(truth, answers, average="macro"),
        "micro_f1": metrics.f1_score(truth, answers, average="micro"),
        "subset_accuracy": metrics.accuracy_score(truth, answers),
        "hamming_loss": metrics.hamming_loss(truth, answers),
        "loss": np.mean([metrics.log_loss(truth[:, row], np.clip(probabilities[:, row].astype(float), 1e-7, 1 - 1e-7))
                         for row in range(5)]),
    }  # fmt: skip
    assert set(found) == set(expected) == set(FIGURES)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-6), name


def test_average_precision_is_that_of_the_definition():
    truth, probabilities = made()
    for row in range(5):
        expected = slow_average_precision(truth[:, row], probabilities[:, row])
        assert average_precision(truth[:, row], probabilities[:, row]) == pytest.approx(expected, abs=1e-6)


def test_a_class_that_no_picture_has_counts_nowhere():
    truth, probabilities = made()
    truth[:, 3] = False
    kept = [0, 1, 2, 4]
    found, others = figures_of(truth, probabilities), figures_of(truth[:, kept], probabilities[:, kept])
    for name in ("mean_average_precision", "macro_f1"):
        assert found[name] == pytest.approx(others[name])
    rows = summarise(truth, probabilities, list("abcde"))["per_class"]
    assert math.isnan(rows["d"]["average_precision"]) and rows["d"]["support"] == 0
    assert rows["a"]["support"] == truth[:, 0].sum()
    json.dumps(rows)  # Python's own numbers


def test_no_pictures_at_all():
    assert all(map(math.isnan, figures_of(np.zeros((0, 3), bool), np.zeros((0, 3), np.float32)).values()))


def test_answers_that_are_nan_end_nothing():
    """Of weights that overflow in validation, whose epoch is then not chosen, as with one label a picture."""
    truth, probabilities = made()
    probabilities[7] = math.nan
    found = figures_of(truth, probabilities)
    assert math.isnan(found["loss"]) and math.isnan(found["mean_average_precision"])
    assert found["subset_accuracy"] == (truth == (probabilities > 0.5)).all(1).mean()
    assert math.isnan(summarise(truth, probabilities, list("abcde"))["per_class"]["a"]["average_precision"])


def test_labels_become_answers():
    expected = [[True, False, True], [False, False, False], [False, True, False]]
    assert multi_hot(np.array([[0, 2], [-1, -1], [1, -1]]), 3).tolist() == expected
    assert multi_hot(np.array([2, 0]), 3).tolist() == [[False, False, True], [True, False, False]]
