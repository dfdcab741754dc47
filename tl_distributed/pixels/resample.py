"""Resizing, cropping, zooming, shifting and flipping as one separable resampling; `turn` rotates before it.

Coordinates are continuous: pixel `k` of an axis covers [k, k + 1) and has its centre at k + 0.5. What an output
image shows is a `View` of its source, so a chain of crops, zooms and shifts interpolates, and blurs, once.

Without rotation the two axes separate, and each is a matrix `[out, in]` of bilinear weights
`max(0, 1 - |source - pixel|)`: two matrix products an image. That compiles under XLA and runs five times faster there,
on a CPU, than `tf.image.resize`. On GPUs that multiply float32 as TensorFloat-32 (TensorFlow's default since Ampere)
the weights have 10 bits, an error of up to about 0.1 on [0, 255]; everywhere else results agree with
`tf.image.resize` to 1e-3.

Borders: a coordinate outside of the image is reflected at the image's edge (b a | a b c | c b), so no black
appears. Inside the image this is `tf.image.resize` to the last pixel.

An image may be a canvas, whose picture lies at its top left. An `Area` then says what of it may be read: everything
above holds of the picture, and what the rest of the canvas holds shows nowhere.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tl_distributed.pixels.augmentation import View


class Area(NamedTuple):
    """What may be read of each image, in whole pixels, right and bottom exclusive; all `[batch] float32`.

    Attributes:
      black_outside: Whether what lies beyond is black, in place of the area reflected at its edges.
    """

    left: tf.Tensor
    top: tf.Tensor
    right: tf.Tensor
    bottom: tf.Tensor
    black_outside: bool = False


def resize_batch(images: tf.Tensor, *, image_size: int) -> tf.Tensor:
    """Resizes to a square: bilinear, with antialiasing along an axis that shrinks, as `tf.image.resize`.

    Args:
      images: `[batch, height, width, 3]` uint8 or float in [0, 255]; height and width are static.
      image_size: Edge of the output, in pixels.

    Returns:
      `[batch, image_size, image_size, 3] float32` in [0, 255].
    """
    height, width = images.shape[1:3]
    if height == width == image_size:
        return tf.cast(images, tf.float32)
    rows, columns = (_resize_weights(in_size, image_size)[np.newaxis] for in_size in (height, width))
    return _multiply(images, tf.constant(rows), tf.constant(columns))


def resample(images: tf.Tensor, view: View, *, image_size: int, area: Area | None = None) -> tf.Tensor:
    """Shows each image's view, without its rotation (see `turn`), as a square of `image_size` pixels.

    Args:
      images: `[batch, height, width, 3]` uint8, or float32 in [0, 255]; height and width are static.
      view: What to show of each image.
      image_size: Edge of the output, in pixels.
      area: What may be read of each image; `None` for all of it.

    Returns:
      `[batch, image_size, image_size, 3] float32` in [0, 255].
    """
    height, width = images.shape[1:3]
    if area is None:
        rows = interpolation_weights(view.center_y, view.span_y, in_size=height, out_size=image_size)
        columns = interpolation_weights(view.center_x, view.span_x, in_size=width, out_size=image_size)
    else:
        shared = {"out_size": image_size, "black_outside": area.black_outside}
        rows = weights_inside(view.center_y, view.span_y, area.top, area.bottom, in_size=height, **shared)
        columns = weights_inside(view.center_x, view.span_x, area.left, area.right, in_size=width, **shared)
    return _multiply(images, rows, columns)


def interpolation_weights(center: tf.Tensor, span: tf.Tensor, *, in_size: int, out_size: int) -> tf.Tensor:
    """Returns `[batch, out_size, in_size] float32`, the weights of source pixels in output pixels of one axis.

    The bilinear kernel widens to one output pixel where the view shrinks; each row sums to 1.

    Args:
      center: `[batch] float32`, middle of the view in source pixels.
      span: `[batch] float32`, size of the view in source pixels; negative mirrors.
      in_size: Source pixels.
      out_size: Output pixels.
    """
    scale = span / out_size
    weights = _bilinear(reflect(_sources(center, scale, out_size), in_size), scale, in_size)
    return weights / tf.reduce_sum(weights, axis=-1, keepdims=True)


def weights_inside(
    center: tf.Tensor,
    span: tf.Tensor,
    low: tf.Tensor,
    high: tf.Tensor,
    *,
    in_size: int,
    out_size: int,
    black_outside: bool,
) -> tf.Tensor:
    """Returns `interpolation_weights` of the pixels `low` to `high - 1` alone, as if there were no others.

    Args:
      center, span, in_size, out_size: As there.
      low, high: `[batch] float32`, whole numbers, the one below the other.
      black_outside: Whether an output pixel whose middle lies outside has no weights, in place of reflected ones.
    """
    scale = span / out_size
    low, high = low[:, tf.newaxis], high[:, tf.newaxis]
    sources = _sources(center, scale, out_size)
    if black_outside:
        inside = (sources >= low) & (sources <= high)
        sources = tf.clip_by_value(sources, low, high)
    else:
        sources = low + reflect(sources - low, high - low)
    pixels = tf.range(in_size, dtype=tf.float32)[tf.newaxis]
    readable = (pixels >= low) & (pixels < high)
    weights = tf.where(readable[:, tf.newaxis], _bilinear(sources, scale, in_size), 0.0)
    weights /= tf.reduce_sum(weights, axis=-1, keepdims=True)
    return tf.where(inside[:, :, tf.newaxis], weights, 0.0) if black_outside else weights


def _sources(center: tf.Tensor, scale: tf.Tensor, out_size: int) -> tf.Tensor:
    """Returns where the middles of output pixels lie in the source, `[batch, out_size]`, borders not heeded."""
    # From the middle outwards, where float32 rounds least.
    outputs = tf.range(out_size, dtype=tf.float32) + (0.5 - out_size / 2)
    return center[:, tf.newaxis] + scale[:, tf.newaxis] * outputs


def _bilinear(sources: tf.Tensor, scale: tf.Tensor, in_size: int) -> tf.Tensor:
    """Returns the bilinear kernel around each source coordinate, `[batch, out_size, in_size]`, of any sum."""
    distances = tf.abs(sources[:, :, tf.newaxis] - (tf.range(in_size, dtype=tf.float32) + 0.5))
    widths = tf.maximum(1.0, tf.abs(scale))[:, tf.newaxis, tf.newaxis]
    return tf.maximum(0.0, 1.0 - distances / widths)


def _resize_weights(in_size: int, out_size: int) -> np.ndarray:
    """`interpolation_weights` of the whole axis, in float64 on the host: the same for all images."""
    sources = (np.arange(out_size) + 0.5) * (in_size / out_size)
    distances = np.abs(sources[:, np.newaxis] - (np.arange(in_size) + 0.5))
    weights = np.maximum(0.0, 1.0 - distances / max(1.0, in_size / out_size))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _multiply(images: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """Applies column weights, then row weights; a batch dimension of 1 is shared by all images.

    The order spares a transposition of the output: only the source and the intermediate (as high as the source)
    are transposed, and the last product writes `[batch, height, width, 3]` as it is wanted. 1.3 to 2.9 times
    faster than `tf.einsum` on a CPU, from 32 pixels to 96 and 224.
    """
    height, width = images.shape[1:3]
    out_height, out_width = rows.shape[1], columns.shape[1]
    by_column = tf.reshape(tf.transpose(images, [0, 2, 1, 3]), [-1, width, height * 3])
    by_column = tf.matmul(columns, tf.cast(by_column, tf.float32))
    by_row = tf.transpose(tf.reshape(by_column, [-1, out_width, height, 3]), [0, 2, 1, 3])
    by_row = tf.matmul(rows, tf.reshape(by_row, [-1, height, out_width * 3]))
    return tf.reshape(by_row, [-1, out_height, out_width, 3])


def reflect(coordinates: tf.Tensor, size: tf.Tensor | int) -> tf.Tensor:
    """Folds continuous coordinates into [0, size] by reflection at the edges; exact for those inside."""
    folded = tf.math.floormod(coordinates, 2.0 * size)
    return tf.where(folded <= size, folded, 2.0 * size - folded)
