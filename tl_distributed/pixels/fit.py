"""How a picture of any shape becomes the square that the model sees, on the device: as `data.fitting` does on the host.

A canvas is an image of fixed size, whose picture lies at its top left and has a size of its own. What of it the model
sees in evaluation, in `predict` and of a bank's plain images is one function, `evaluation_view`; augmentations start
from the same `fitted_view`.
"""

import tensorflow as tf

from tl_distributed.data.fit_rules import Fit
from tl_distributed.pixels.augmentation import View
from tl_distributed.pixels.resample import Area, resample, resize_batch


def evaluation_view(
    images: tf.Tensor, sizes: tf.Tensor | None = None, *, image_size: int, fit: Fit | None = None
) -> tf.Tensor:
    """Returns what the model sees of images without augmentation.

    Args:
      images: `[batch, height, width, 3] uint8`; height and width are static.
      sizes: `[batch, 2] int32`, height and width of the picture at each image's top left, at least 1; `None` where the
        image is the picture, which is a square already, or is squashed.
      image_size: Edge of the output, in pixels.
      fit: Of pictures with `sizes`: what becomes of those that are not square, as in `fitting.resize_image`.

    Returns:
      `[batch, image_size, image_size, 3] float32` in [0, 255]. Of pictures with `sizes` whole numbers, as a file of the
      fitted picture has them: a saved model, which takes 8-bit squares, is given the very same.
    """
    if sizes is None:
        return resize_batch(images, image_size=image_size)
    view, area = fitted_view(sizes, fit=fit, image_size=image_size), picture_area(sizes, fit=fit)
    if fit == "crop":  # `resize_image` cuts the square out before it resizes, so it blurs nothing of beyond into it
        left, top = view.center_x - view.span_x / 2, view.center_y - view.span_y / 2
        area = Area(left, top, left + view.span_x, top + view.span_y)
    return tf.clip_by_value(tf.round(resample(images, view, image_size=image_size, area=area)), 0.0, 255.0)


def fitted_view(sizes: tf.Tensor, *, fit: Fit, image_size: int) -> View:
    """Returns the view that a rule shows of each picture.

    Args:
      sizes: `[batch, 2] int32`, heights and widths.
      fit: "squash" shows all, by a scale of its own for each axis, "crop" the largest centred square, "pad" all, by one
        scale, in the middle of a square.
      image_size: Edge in pixels of the square to be: "pad" scales to a whole number of its pixels.

    Raises:
      ValueError: Another rule.
    """
    height, width = tf.unstack(tf.cast(sizes, tf.float32), num=2, axis=1)
    if fit == "squash":
        return View(width / 2, height / 2, width, height, angle=None)
    if fit == "crop":
        side = tf.minimum(height, width)
        top, left = (tf.floor((length - side) / 2) for length in (height, width))
        return View(left + side / 2, top + side / 2, side, side, angle=None)
    if fit == "pad":
        (center_y, span_y), (center_x, span_x) = (
            _padded_axis(sizes[:, axis], tf.reduce_max(sizes, axis=1), image_size) for axis in (0, 1)
        )
        return View(center_x, center_y, span_x, span_y, angle=None)
    raise ValueError(f"fit {fit!r}: takes squash, crop or pad")


def picture_area(sizes: tf.Tensor, *, fit: Fit) -> Area:
    """Returns all of each picture, `sizes` as in `fitted_view`; beyond lies black where `fit` pads."""
    bottom, right = tf.unstack(tf.cast(sizes, tf.float32), num=2, axis=1)
    return Area(tf.zeros_like(right), tf.zeros_like(bottom), right, bottom, black_outside=fit == "pad")


def _padded_axis(side: tf.Tensor, longest: tf.Tensor, image_size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns middle and span of an axis that is scaled by `image_size / longest`, to whole pixels."""
    whole, rest = side * image_size // longest, side * image_size % longest
    rounds_up = (2 * rest > longest) | ((2 * rest == longest) & (whole % 2 == 1))  # a half to the even, as Python does
    fitted = tf.maximum(1, whole + tf.cast(rounds_up, tf.int32))
    before = tf.cast((image_size - fitted) // 2, tf.float32)
    pixels = tf.cast(side, tf.float32) / tf.cast(fitted, tf.float32)  # of the source, in one of the output
    return (image_size / 2 - before) * pixels, image_size * pixels
