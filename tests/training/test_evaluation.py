"""Evaluation against stock Keras: every example once, on any batch size and number of replicas."""

import engine
import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from tl_distributed.bank.layout import FeatureLayout
from tl_distributed.data.memory_split import MemorySplit
from tl_distributed.reporting.scores import score_examples
from tl_distributed.training.evaluation import Evaluator

EXAMPLES = 10


def make(where, backbone: str = "tiny_norm", averaged: float | None = None) -> tuple[keras.Model, Evaluator]:
    """Returns a model with weights and statistics far from their start, and its evaluator."""
    made = engine.make_engine(where, backbone=backbone)
    generator = np.random.default_rng(0)
    made.model.set_weights([weight * generator.uniform(0.5, 2, weight.shape) + 0.05 for weight in made.weights()])
    sizes = {"features": None, "image_size": engine.IMAGE_SIZE, "normalization": "tf"}
    averages = {}
    if averaged is not None:
        with where.strategy.scope():
            averages = {id(weight): tf.Variable(weight.value * averaged) for weight in made.model.weights}
    return made.model, Evaluator(made.model, **sizes, runtime=where, averages=averages)


def by_keras(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> tuple[float, float, np.ndarray]:
    """Returns loss, accuracy and probabilities by a copy of the model in stock `evaluate` and `predict`."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    copy.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    inputs = tf.image.resize(images, [engine.IMAGE_SIZE] * 2, antialias=True).numpy() / 127.5 - 1.0
    loss, accuracy = copy.evaluate(inputs, labels, verbose=0)
    return loss, accuracy, tf.nn.softmax(copy.predict(inputs, verbose=0)).numpy()


def assert_equal(found, expected, labels) -> None:
    loss, accuracy, probabilities = expected
    assert found.num_examples == len(labels)
    assert found.loss == pytest.approx(loss, rel=1e-4)
    assert found.accuracy == pytest.approx(accuracy)
    np.testing.assert_array_equal(found.scores.labels, labels)
    np.testing.assert_array_equal(found.scores.predictions, probabilities.argmax(1))
    np.testing.assert_allclose(found.scores.confidences, probabilities.max(1), atol=1e-5)
    np.testing.assert_allclose(found.probabilities, probabilities, atol=1e-5)


@pytest.mark.parametrize("xla", [False, True], ids=["plain", "xla"])
@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_equals_keras(replicas, xla):
    images, labels = engine.toy_images(EXAMPLES)[0], np.arange(EXAMPLES, dtype=np.int32) % engine.NUM_CLASSES
    model, evaluator = make(engine.runtime(replicas, xla=xla))
    expected = by_keras(model, images, labels)
    assert 0 < expected[1] < 1  # neither all right nor all wrong, so that the mask counts
    split = MemorySplit(images, labels)
    for batch_size in (4, 5, 10, 64):
        assert_equal(evaluator.evaluate(split, batch_size=batch_size, keep_probabilities=True), expected, labels)


@pytest.mark.parametrize("replicas", [1, 2])
def test_temperatures_are_those_of_the_logits_divided(replicas):
    images, labels = engine.toy_images(EXAMPLES)
    model, evaluator = make(engine.runtime(replicas))
    split, temperatures = MemorySplit(images, labels), (0.5, 1.0, 3.0)
    found = evaluator.evaluate(split, batch_size=4, temperatures=temperatures)
    logits = np.log(by_keras(model, images, labels)[2].astype(np.float64))
    rows = np.arange(EXAMPLES)
    for index, temperature in enumerate(temperatures):
        probabilities = scipy.special.softmax(logits / temperature, axis=1)
        scores = found.tempered[index]
        np.testing.assert_allclose(scores.losses, -np.log(probabilities[rows, labels]), atol=1e-4)
        np.testing.assert_allclose(scores.confidences, probabilities.max(1), atol=1e-5)
        slopes = (probabilities * logits).sum(1) - logits[rows, labels]
        np.testing.assert_allclose(found.slopes[:, index], slopes, atol=1e-4)
        np.testing.assert_array_equal(scores.predictions, found.scores.predictions)
    np.testing.assert_allclose(found.tempered[1].losses, found.scores.losses, atol=1e-6)
    assert evaluator.evaluate(split, batch_size=4).tempered == ()


def test_images_of_another_size_are_resized():
    generator = np.random.default_rng(0)
    images, labels = generator.integers(0, 256, (7, 24, 20, 3), np.uint8), np.arange(7, dtype=np.int32) % 3
    model, evaluator = make(engine.runtime(2))
    assert_equal(
        evaluator.evaluate(MemorySplit(images, labels), batch_size=4, keep_probabilities=True),
        by_keras(model, images, labels),
        labels,
    )


def test_averages_take_the_place_of_the_weights():
    images, labels = engine.toy_images(EXAMPLES)
    split = MemorySplit(images, labels)
    model, evaluator = make(engine.runtime(2), averaged=0.5)
    plain = evaluator.evaluate(split, batch_size=4)
    averaged = evaluator.evaluate(split, batch_size=4, use_averages=True, keep_probabilities=True)
    model.set_weights([weight * 0.5 for weight in model.get_weights()])  # BatchNorm's statistics too
    assert_equal(averaged, by_keras(model, images, labels), labels)
    assert averaged.loss != pytest.approx(plain.loss, rel=1e-3)


def test_weights_are_read_anew_in_every_call():
    images, labels = engine.toy_images(EXAMPLES)
    split = MemorySplit(images, labels)
    model, evaluator = make(engine.runtime(), backbone="tiny")
    first = evaluator.evaluate(split, batch_size=4)
    model.set_weights([weight * 0.5 for weight in model.get_weights()])
    assert evaluator.evaluate(split, batch_size=4).loss != first.loss


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_short_floats_stay_close(precision):
    images, labels = engine.toy_images(EXAMPLES)
    model, evaluator = make(engine.runtime(precision=precision), backbone="tiny")
    found = evaluator.evaluate(MemorySplit(images, labels), batch_size=4, keep_probabilities=True)
    assert found.probabilities.dtype == np.float32
    keras.config.set_dtype_policy("float32")
    exact, exact_evaluator = make(engine.runtime(), backbone="tiny")
    exact.set_weights(model.get_weights())
    expected = exact_evaluator.evaluate(MemorySplit(images, labels), batch_size=4, keep_probabilities=True)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=0.03)


@pytest.mark.parametrize("replicas", [1, 2])
def test_layouts_sum_to_the_very_same_figures(replicas):
    images, labels = engine.toy_images(EXAMPLES)
    _, evaluator = make(engine.runtime(replicas))
    found = [evaluator.evaluate(MemorySplit(images, labels), batch_size=size) for size in (2, 4, 10)]
    assert found[0].probabilities is None
    for other in found[1:]:
        np.testing.assert_allclose(other.scores.losses, found[0].scores.losses, rtol=1e-5)
        assert other.accuracy == found[0].accuracy


def test_best_five_are_those_of_scikit_learn():
    from sklearn.metrics import top_k_accuracy_score

    generator = np.random.default_rng(0)
    logits = generator.normal(size=(60, 9)).astype(np.float32)
    logits[:20] = np.round(logits[:20])  # ties
    labels = generator.integers(0, 9, 60).astype(np.int32)
    model = keras.Sequential([keras.Input((9,)), keras.layers.Identity()])
    layout = FeatureLayout(((9,),), ("float32",), "float32")
    where = engine.runtime(2)
    evaluator = Evaluator(model, features=layout, image_size=0, normalization="", runtime=where)
    found = evaluator.evaluate(MemorySplit(logits, labels), batch_size=8, keep_probabilities=True)
    reference = score_examples(labels, tf.nn.softmax(logits).numpy())
    np.testing.assert_array_equal(found.scores.in_top_k, reference.in_top_k)
    np.testing.assert_array_equal(found.scores.predictions, reference.predictions)
    untied = slice(20, None)
    expected = top_k_accuracy_score(labels[untied], logits[untied], k=5, labels=range(9))
    assert found.scores.in_top_k[untied].mean() == pytest.approx(expected)
