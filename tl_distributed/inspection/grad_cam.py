"""Grad-CAM: where in the image a class's score comes from.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization" (ICCV 2017).
"""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from tl_distributed.inspection.networks import Network


def grad_cam(network: Network, layer: str, images: np.ndarray, classes: np.ndarray, *, batch_size: int) -> np.ndarray:
    """Computes Grad-CAM (equations 1 and 2 of the paper) of one class for each image.

    The weight of a channel is the mean over its map of the gradient of the class's logit; the result is the positive
    part of the weighted sum of the maps.

    Args:
      network: Its classifier puts out logits.
      layer: Name of a layer with maps `[height, width, channels]`.
      images: `[n, height, width, 3] uint8`.
      classes: `[n]` integers.
      batch_size: Images at once.

    Returns:
      `[n, map height, map width] float32`, 0 or more; how it is spread over an image is what tells something.
    """
    operations = {operation.name: operation for operation in network.classifier.operations}
    model = keras.Model(network.classifier.input, [operations[layer].output, network.classifier.output])
    parts = []
    for start in range(0, len(images), batch_size):
        prepared = network.prepare(tf.constant(images[start : start + batch_size]))
        chosen = tf.constant(classes[start : start + batch_size], tf.int32)
        with tf.GradientTape() as tape:
            tape.watch(prepared)  # else nothing is recorded below the first variable that trains
            maps, logits = model(prepared, training=False)
            scores = tf.gather(logits, chosen, axis=1, batch_dims=1)
        weights = tf.reduce_mean(tape.gradient(scores, maps), axis=(1, 2))
        parts.append(tf.nn.relu(tf.einsum("bhwc,bc->bhw", maps, weights)).numpy())
    return np.concatenate(parts)


@dataclasses.dataclass(frozen=True)
class Explained:
    """Answers with their explanation.

    Attributes:
      rows: `[k]`, which of the images.
      predicted: `[k, height, width]`, Grad-CAM of the class that was answered.
      true: The same of the right class.
    """

    rows: np.ndarray
    predicted: np.ndarray
    true: np.ndarray


def explain(
    network: Network, layer: str, images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, *,
    right: bool, count: int, batch_size: int,
) -> Explained:  # fmt: skip
    """Explains right answers, or wrong ones; see `choose_answers`."""
    rows = choose_answers(labels, probabilities, right=right, count=count)
    if not len(rows):
        empty = np.zeros((0, 1, 1), np.float32)
        return Explained(rows, empty, empty)
    answers = probabilities.argmax(1)
    predicted = grad_cam(network, layer, images[rows], answers[rows], batch_size=batch_size)
    true = predicted if right else grad_cam(network, layer, images[rows], labels[rows], batch_size=batch_size)
    return Explained(rows, predicted, true)


def choose_answers(labels: np.ndarray, probabilities: np.ndarray, *, right: bool, count: int) -> np.ndarray:
    """Returns the rows of the surest right or wrong answers, at first one of each true class, then a second one.

    Args:
      labels: `[n]` integers.
      probabilities: `[n, num_classes]`.
      right: Whether right answers are wanted, or wrong ones.
      count: At most so many.
    """
    answers, sureness = probabilities.argmax(1), probabilities.max(1)
    candidates = np.flatnonzero((answers == labels) == right)
    candidates = candidates[np.argsort(-sureness[candidates], kind="stable")]
    turn = np.array([np.sum(labels[candidates[:place]] == labels[row]) for place, row in enumerate(candidates)], int)
    return candidates[np.argsort(turn, kind="stable")][:count]
