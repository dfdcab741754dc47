"""Tasks and augmentations of one's own, as somebody would write them."""

import keras
import tensorflow as tf

import tl_distributed as tl


class Ordinal(tl.Task):
    """Classes in an order: the squared error of the expected class, by the log of its mean as well."""

    name = "ordinal"
    measure_names = ("off_by",)
    chosen_by = "off_by"
    smaller_is_better = ("loss", "off_by")

    def __init__(self, scale: float = 1.0):
        self.scale = scale

    def expected(self, outputs):
        places = tf.range(outputs.shape[-1], dtype=tf.float32)
        return tf.linalg.matvec(tf.nn.softmax(outputs), places)

    def losses(self, targets, outputs):
        places = tf.range(outputs.shape[-1], dtype=tf.float32)
        error = tf.linalg.matvec(targets, places) - self.expected(outputs)
        return self.scale * tf.square(error) + 0.1 * keras.losses.categorical_crossentropy(
            targets, outputs, from_logits=True
        )

    def measures(self, labels, outputs):
        return (tf.abs(tf.cast(labels, tf.float32) - self.expected(outputs)),)


class LeftAsTheyAre(Ordinal):
    """The saved model returns the network's outputs."""

    name = "as_they_are"
    activation = "linear"


class NeedsAnArgument(tl.Task):
    """Cannot be made by its name."""

    def __init__(self, scale):
        self.scale = scale


class NoLosses(tl.Task):
    """Lacks what every task has to have."""


class OneLoss(Ordinal):
    """Means over the batch, which would be taken for a sum over it."""

    def losses(self, targets, outputs):
        return tf.reduce_mean(super().losses(targets, outputs))


class UnnamedMeasure(Ordinal):
    """Returns more than it names."""

    def measures(self, labels, outputs):
        return (*super().measures(labels, outputs), tf.reduce_max(outputs, axis=1))


class NoLossFigure(Ordinal):
    """Forgets the loss among its figures."""

    def figures(self, labels, outputs):
        return {"off_by": super().measures(labels, outputs)[0]}


class NoTask:
    """Not a task."""


def brighter(images, targets, uniforms):
    """Multiplies each image by its own number."""
    return images * (0.5 + 0.5 * uniforms[:, 0, None, None, None]), targets


def smaller(images, targets, uniforms):
    """Breaks the rule of shapes."""
    del uniforms
    return images[:, 1:], targets


def needs_values(images, targets, uniforms):
    """Works on arrays, which a step has none of."""
    del uniforms
    return images.numpy(), targets


def one_too_many(images, targets, uniforms):
    """Returns what it was given."""
    return images, targets, uniforms
