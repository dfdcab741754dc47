"""The training loss of each image, and what it counts."""

import keras
import tensorflow as tf


def image_losses(
    targets: tf.Tensor, logits: tf.Tensor, *, label_smoothing: float, focal_gamma: float | None
) -> tf.Tensor:
    """Returns the loss of each image, `[batch] float32`, in nats.

    The focal loss of Lin et al. 2017, -sum_c t_c (1 - p_c)^gamma log p_c, is Keras's `categorical_focal_crossentropy`
    with alpha 1, from the logits: Keras clips probabilities at 1e-7, from where on its gradient is zero, and those are
    the examples that this loss is for.

    Args:
      targets: Soft labels, `[batch, num_classes] float32`.
      logits: Of the same shape.
      label_smoothing: Share of the label that is spread evenly over all classes.
      focal_gamma: Exponent of the focal loss, 0 or more; `None` for cross-entropy.
    """
    if focal_gamma is None:
        return keras.losses.categorical_crossentropy(targets, logits, from_logits=True, label_smoothing=label_smoothing)
    if label_smoothing:
        targets = targets * (1.0 - label_smoothing) + label_smoothing / targets.shape[1]
    log_p = tf.nn.log_softmax(logits)
    # Never quite 0, where the gradient of a power below 1 is infinite.
    missing = tf.maximum(-tf.math.expm1(log_p), 1e-30)
    return -tf.reduce_sum(targets * tf.pow(missing, focal_gamma) * log_p, axis=1)


def image_weights(targets: tf.Tensor, class_weights: tuple[float, ...]) -> tf.Tensor:
    """Returns the weight of each image, `[batch] float32`: the mean of its classes' weights, by its soft label.

    Of a label of one class, its weight; of a mixed image, as much of each as is in it. Label smoothing is of the loss
    and not of the image: it changes no weight.
    """
    return tf.linalg.matvec(targets, tf.constant(class_weights, tf.float32))


def binary_losses(
    targets: tf.Tensor, logits: tf.Tensor, *, label_smoothing: float, focal_gamma: float | None
) -> tf.Tensor:
    """Returns the mean over classes of each one's binary cross-entropy, `[batch] float32`, in nats.

    The focal loss of Lin et al. 2017 is each answer's cross-entropy times the gamma-th power of what its probability is
    short of the answer, by Keras's `binary_focal_crossentropy`, without its alpha, and from the logits.

    Args:
      targets: `[batch, num_classes] float32` in [0, 1]: whether the picture has the class's label.
      logits: Of the same shape.
      label_smoothing: Share of each answer that is spread evenly over yes and no.
      focal_gamma: Exponent of the focal loss, 0 or more; `None` for cross-entropy.
    """
    if label_smoothing:
        targets = targets * (1.0 - label_smoothing) + 0.5 * label_smoothing
    losses = tf.nn.sigmoid_cross_entropy_with_logits(targets, logits)
    if focal_gamma is not None:
        yes = tf.sigmoid(logits)
        missing = targets * (1.0 - yes) + (1.0 - targets) * yes
        # Never quite 0, where the gradient of a power below 1 is infinite.
        losses *= tf.pow(tf.maximum(missing, 1e-30), focal_gamma)
    return tf.reduce_mean(losses, axis=1)
