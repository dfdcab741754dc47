"""Grad-CAM against CAM, which it is equal to under a linear head, and against numeric derivatives."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tl_distributed.inspection.grad_cam import choose_answers, explain, grad_cam
from tl_distributed.inspection.networks import Network

SIZE = 12


def _network(head: str) -> Network:
    keras.utils.set_random_seed(3)
    inputs = keras.Input((SIZE, SIZE, 3))
    maps = keras.layers.Conv2D(5, 3, strides=2, activation="relu", name="maps")(inputs)
    if head == "linear":
        features = keras.layers.GlobalAveragePooling2D()(maps)
    else:
        x = keras.layers.Conv2D(6, 3, activation="tanh", name="conv")(maps)
        features = keras.layers.Dense(7, activation="tanh", name="dense")(keras.layers.Flatten()(x))
    classifier = keras.Model(inputs, keras.layers.Dense(4, name="head_logits")(features), name="small")
    return Network("small", lambda images: tf.cast(images, tf.float32) / 255, classifier, (SIZE, SIZE, 3))


def _images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3)).astype(np.uint8)


@pytest.mark.parametrize("trains", [True, False])
def test_is_cam_under_global_average_pooling(trains):
    network = _network("linear")
    network.classifier.trainable = trains
    images, classes = _images(7), np.array([0, 1, 2, 3, 0, 1, 2])
    found = grad_cam(network, "maps", images, classes, batch_size=3)
    maps = np.asarray(keras.Model(network.classifier.input, network.classifier.get_layer("maps").output)(images / 255))
    kernel = network.classifier.get_layer("head_logits").kernel.numpy()
    cam = np.einsum("nhwc,cn->nhw", maps, kernel[:, classes]) / np.prod(maps.shape[1:3])
    assert (cam < 0).any() and (cam > 0).any()
    np.testing.assert_allclose(found, np.maximum(cam, 0), rtol=1e-4, atol=1e-6)


def test_weights_are_mean_derivatives():
    """Adding to a whole channel moves the logit by the sum of its derivatives."""
    network, images, classes = _network("nonlinear"), _images(3), np.array([2, 0, 3])
    found = grad_cam(network, "maps", images, classes, batch_size=8)
    classifier = network.classifier
    maps = np.asarray(keras.Model(classifier.input, classifier.get_layer("maps").output)(images / 255))
    tail = keras.Model(classifier.get_layer("maps").output, classifier.output)
    weights = np.zeros((3, maps.shape[-1]))
    step = 1e-2
    for channel in range(maps.shape[-1]):
        shift = np.zeros(maps.shape, np.float32)
        shift[..., channel] = step
        change = np.asarray(tail(maps + shift)) - np.asarray(tail(maps - shift))
        weights[:, channel] = change[np.arange(3), classes] / (2 * step) / np.prod(maps.shape[1:3])
    expected = np.maximum(np.einsum("nhwc,nc->nhw", maps, weights), 0)
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.01 * expected.max())


LABELS = np.array([0, 0, 1, 1, 2, 0])
PROBABILITIES = np.array(
    [[0.9, 0.1, 0.0], [0.95, 0.0, 0.05], [0.2, 0.7, 0.1], [0.6, 0.4, 0.0], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]]
)


def test_answers_of_each_class_in_turn_the_surest_first():
    def chosen(**wanted):
        return choose_answers(LABELS, PROBABILITIES, **wanted).tolist()

    assert chosen(right=True, count=9) == [1, 2, 0]
    assert chosen(right=True, count=1) == [1]
    assert chosen(right=False, count=9) == [4, 3, 5]


def test_explains_the_answer_and_the_truth():
    network, images = _network("linear"), _images(6)
    probabilities = np.pad(PROBABILITIES, ((0, 0), (0, 1)))
    wanted = {"count": 2, "batch_size": 4}
    wrong = explain(network, "maps", images, LABELS, probabilities, right=False, **wanted)
    assert wrong.rows.tolist() == [4, 3]
    for found, classes in ((wrong.predicted, [1, 0]), (wrong.true, [2, 1])):
        np.testing.assert_allclose(
            found, grad_cam(network, "maps", images[[4, 3]], np.array(classes), batch_size=4), rtol=1e-5
        )
    none = explain(network, "maps", images, probabilities.argmax(1), probabilities, right=False, **wanted)
    assert len(none.rows) == len(none.predicted) == len(none.true) == 0
