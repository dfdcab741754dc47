"""Linear CKA against its definitions, written out with whole Gram matrices in float64."""

import math

import numpy as np
import pytest

from tl_distributed.inspection.activations import LayerSimilarity
from tl_distributed.inspection.figures import similarity_by_layer
from tl_distributed.inspection.similarity import Similarity, linear_cka


def _by_definition(first: np.ndarray, second: np.ndarray) -> float:
    """HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with HSIC = tr(K H L H), H the centring matrix."""
    n = len(first)
    centring = np.eye(n) - 1 / n
    grams = [rows.astype(np.float64) @ rows.T.astype(np.float64) for rows in (first, second)]

    def hsic(left, right):
        return np.trace(left @ centring @ right @ centring)

    return hsic(*grams) / math.sqrt(hsic(grams[0], grams[0]) * hsic(grams[1], grams[1]))


def _debiased_by_definition(first: np.ndarray, second: np.ndarray) -> float:
    """The same with the unbiased estimator of Song et al. 2012, equation 5, of uncentred Gram matrices."""
    n, ones = len(first), np.ones(len(first))
    grams = [rows.astype(np.float64) @ rows.T.astype(np.float64) for rows in (first, second)]
    for gram in grams:
        np.fill_diagonal(gram, 0)

    def hsic(left, right):
        means = (ones @ left @ ones) * (ones @ right @ ones) / ((n - 1) * (n - 2))
        return (np.trace(left @ right) + means - 2 / (n - 2) * ones @ left @ right @ ones) / (n * (n - 3))

    return hsic(*grams) / math.sqrt(hsic(grams[0], grams[0]) * hsic(grams[1], grams[1]))


def _related(n: int, features: int, other_features: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(n)
    first = generator.gamma(1.0, 2.0, (n, features)).astype(np.float32)  # far from a mean of 0, as after a ReLU
    second = first @ generator.normal(size=(features, other_features)) + 5 * generator.normal(size=(n, other_features))
    return first, (second + 100).astype(np.float32)


@pytest.mark.parametrize("shape", [(40, 7, 9), (40, 300, 200), (40, 7, 300), (9, 40, 3), (4, 5, 6)])
def test_equals_the_definitions(shape):
    first, second = _related(*shape)
    found = linear_cka(first, second)
    assert found.cka == pytest.approx(_by_definition(first, second), abs=2e-5)
    assert 0 < found.cka < 1
    assert found.debiased == pytest.approx(_debiased_by_definition(first, second), abs=2e-4)


@pytest.mark.parametrize("features", [6, 90])
def test_invariances(features):
    first, second = _related(30, features, 12)
    expected = linear_cka(first, second)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(features, features)))[0]
    for changed in (first @ rotation, 1e4 * first, first * 1e-4, first + 10, first[:, ::-1]):
        assert linear_cka(changed, second).cka == pytest.approx(expected.cka, abs=1e-4)
        assert linear_cka(changed, second).debiased == pytest.approx(expected.debiased, abs=1e-3)
    assert linear_cka(second, first).cka == pytest.approx(expected.cka, abs=1e-6)
    stretched = first * np.geomspace(1, 100, features)  # linear and invertible, which CKA does notice
    assert abs(linear_cka(stretched, second).cka - expected.cka) > 0.01


def test_the_same_is_one():
    first, _ = _related(30, 200, 3)
    for other in (first, 3 * first - 2):
        found = linear_cka(first, other)
        assert (found.cka, found.debiased) == (pytest.approx(1, abs=1e-6), pytest.approx(1, abs=1e-5))


def test_unrelated_features_are_zero_only_after_debiasing():
    generator = np.random.default_rng(0)
    pairs = [generator.normal(size=(2, 50, 800)) for _ in range(8)]
    found = [linear_cka(*pair) for pair in pairs]
    assert min(similarity.cka for similarity in found) > 0.8
    assert abs(np.mean([similarity.debiased for similarity in found])) < 0.05


def test_constant_features_have_no_similarity():
    varied = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    for value in (0.0, 1.0, 0.1, 1e6):
        found = linear_cka(np.full((20, 300), value, np.float32), varied)
        assert math.isnan(found.cka) and math.isnan(found.debiased)


@pytest.mark.parametrize("shapes", [((5, 3), (6, 3)), ((3, 3), (3, 3)), ((5, 3, 2), (5, 6))])
def test_refuses_what_cannot_be_compared(shapes):
    with pytest.raises(ValueError, match="two matrices of the same 4 or more rows"):
        linear_cka(*(np.zeros(shape) for shape in shapes))


@pytest.mark.parametrize(("new_head", "label"), [(True, "CKA, head (random before)"), (False, "CKA, head")])
def test_a_head_that_came_with_the_weights_is_not_called_random(new_head, label):
    rows = [LayerSimilarity(name, (4,), 1, Similarity(0.5, 0.4)) for name in ("block_1", "head_logits")]
    figure = similarity_by_layer(rows, num_images=9, before="before: another run", new_head=new_head)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["CKA", label, "debiased CKA"]
