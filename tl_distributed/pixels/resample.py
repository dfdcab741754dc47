"""Resizing, cropping, zooming, shifting and flipping as one separable resampling; rotation as one gather.

Coordinates are continuous: pixel `k` of an axis covers [k, k + 1) and has its centre at k + 0.5. What an output
image shows is a `View` of its source, so any chain of such operations reads the source once and blurs it once.

Without rotation the two axes separate, and each is a matrix `[out, in]` of bilinear weights
`max(0, 1 - |source - pixel|)`: two matrix products an image. That compiles under XLA and is an order of
magnitude faster there than `tf.image.resize`. On GPUs that multiply float32 as TensorFloat-32 (TensorFlow's default
since Ampere) the weights have 10 bits, an error of up to about 0.1 on [0, 255]; everywhere else results agree with
`tf.image.resize` to 1e-3.

Borders: a coordinate outside of the image is reflected at the image's edge (b a | a b c | c b), so no black
appears. Inside the image this is `tf.image.resize` to the last pixel.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

_BYTE = 0xFF


class View(NamedTuple):
    """The part of each source image that the output shows; all `[batch] float32`.

    Attributes:
      center_x, center_y: Middle of the view, in source pixels.
      span_x, span_y: Size of the view, in source pixels; negative mirrors that axis.
      angle: Radians by which the content turns counter-clockwise on the screen, or None for no rotation.
    """

    center_x: tf.Tensor
    center_y: tf.Tensor
    span_x: tf.Tensor
    span_y: tf.Tensor
    angle: tf.Tensor | None


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


def resample(images: tf.Tensor, view: View, *, image_size: int) -> tf.Tensor:
    """Shows each image's view as a square of `image_size` pixels.

    A rotated view is read by one bilinear gather from the source where the source is at most as large as the
    output. Otherwise the source is turned at its own size first, because shrinking needs the antialiasing
    of the matrices. The rotating gather reads 8-bit pixels, so float images are rounded for it.

    Args:
      images: `[batch, height, width, 3]` uint8, or float32 in [0, 255]; height and width are static.
      view: What to show of each image.
      image_size: Edge of the output, in pixels.

    Returns:
      `[batch, image_size, image_size, 3] float32` in [0, 255].
    """
    height, width = images.shape[1:3]
    if view.angle is not None:
        if height <= image_size and width <= image_size:
            return _gather_rotated(images, view, out_height=image_size, out_width=image_size)
        images = _turn_source(images, view, image_size=image_size)
    rows = interpolation_weights(view.center_y, view.span_y, in_size=height, out_size=image_size)
    columns = interpolation_weights(view.center_x, view.span_x, in_size=width, out_size=image_size)
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
    # From the middle outwards, where float32 rounds least.
    outputs = tf.range(out_size, dtype=tf.float32) + (0.5 - out_size / 2)
    sources = _reflect(center[:, tf.newaxis] + scale[:, tf.newaxis] * outputs, in_size)
    distances = tf.abs(sources[:, :, tf.newaxis] - (tf.range(in_size, dtype=tf.float32) + 0.5))
    widths = tf.maximum(1.0, tf.abs(scale))[:, tf.newaxis, tf.newaxis]
    weights = tf.maximum(0.0, 1.0 - distances / widths)
    return weights / tf.reduce_sum(weights, axis=-1, keepdims=True)


def _resize_weights(in_size: int, out_size: int) -> np.ndarray:
    """`interpolation_weights` of the whole axis, in float64 on the host: the same for all images."""
    sources = (np.arange(out_size) + 0.5) * (in_size / out_size)
    distances = np.abs(sources[:, np.newaxis] - (np.arange(in_size) + 0.5))
    weights = np.maximum(0.0, 1.0 - distances / max(1.0, in_size / out_size))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _multiply(images: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """Applies column weights, then row weights; a batch dimension of 1 is shared by all images.

    The order spares a transposition of the output: only the source and the intermediate (as high as the source)
    are transposed, and the last product writes `[batch, height, width, 3]` as it is wanted. 1.4 to 2.7 times
    faster than `tf.einsum` on a CPU, from 32 pixels to 224.
    """
    height, width = images.shape[1:3]
    out_height, out_width = rows.shape[1], columns.shape[1]
    by_column = tf.reshape(tf.transpose(images, [0, 2, 1, 3]), [-1, width, height * 3])
    by_column = tf.matmul(columns, tf.cast(by_column, tf.float32))
    by_row = tf.transpose(tf.reshape(by_column, [-1, out_width, height, 3]), [0, 2, 1, 3])
    by_row = tf.matmul(rows, tf.reshape(by_row, [-1, height, out_width * 3]))
    return tf.reshape(by_row, [-1, out_height, out_width, 3])


def _reflect(coordinates: tf.Tensor, size: int) -> tf.Tensor:
    """Folds continuous coordinates into [0, size] by reflection at the edges; exact for those inside."""
    folded = tf.math.floormod(coordinates, 2.0 * size)
    return tf.where(folded <= size, folded, 2.0 * size - folded)


def _gather_rotated(images: tf.Tensor, view: View, *, out_height: int, out_width: int) -> tf.Tensor:
    """Reads a rotated view by bilinear interpolation, without antialiasing.

    A step along an output axis is a step along the turned axis of the view.
    """
    cosine, sine = (function(view.angle)[:, tf.newaxis, tf.newaxis] for function in (tf.cos, tf.sin))
    scale_x, scale_y = (
        (span / size)[:, tf.newaxis, tf.newaxis] for span, size in ((view.span_x, out_width), (view.span_y, out_height))
    )
    across = (tf.range(out_width, dtype=tf.float32) + (0.5 - out_width / 2))[tf.newaxis, tf.newaxis, :]
    down = (tf.range(out_height, dtype=tf.float32) + (0.5 - out_height / 2))[tf.newaxis, :, tf.newaxis]
    x = view.center_x[:, tf.newaxis, tf.newaxis] + scale_x * (cosine * across - sine * down)
    y = view.center_y[:, tf.newaxis, tf.newaxis] + scale_y * (sine * across + cosine * down)
    return bilinear_gather(images, x, y)


def _turn_source(images: tf.Tensor, view: View, *, image_size: int) -> tf.Tensor:
    """Turns each source about the middle of its view, such that the unrotated view then shows it rotated.

    The turn is a rotation of the *output*, so in source pixels it is sheared where the view's two scales differ.
    """
    height, width = images.shape[1:3]
    cosine, sine = (function(view.angle)[:, tf.newaxis, tf.newaxis] for function in (tf.cos, tf.sin))
    center_x, center_y = (center[:, tf.newaxis, tf.newaxis] for center in (view.center_x, view.center_y))
    anisotropy = (view.span_x / view.span_y)[:, tf.newaxis, tf.newaxis]
    across = (tf.range(width, dtype=tf.float32) + 0.5)[tf.newaxis, tf.newaxis, :] - center_x
    down = (tf.range(height, dtype=tf.float32) + 0.5)[tf.newaxis, :, tf.newaxis] - center_y
    x = center_x + cosine * across - sine * anisotropy * down
    y = center_y + sine / anisotropy * across + cosine * down
    return bilinear_gather(images, x, y)


def bilinear_gather(images: tf.Tensor, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Reads images at arbitrary coordinates, bilinearly, reflected at the edges.

    The four 8-bit neighbours of a pixel are packed into one 32-bit word first: one gather instead of four, which
    is what costs on a CPU.

    Args:
      images: `[batch, height, width, 3]` uint8, or float in [0, 255], which is rounded.
      x, y: `[batch, out_height, out_width] float32` continuous coordinates, in source pixels.

    Returns:
      `[batch, out_height, out_width, 3] float32` in [0, 255].
    """
    height, width = images.shape[1:3]
    out_height, out_width = x.shape[1:3]
    left, toward_right = _split_coordinate(x, width)
    top, toward_bottom = _split_coordinate(y, height)
    indices = tf.reshape(top * width + left, [-1, out_height * out_width])
    quads = tf.gather(tf.reshape(_pack_quads(images), [-1, height * width, 3]), indices, axis=1, batch_dims=1)
    quads = tf.bitcast(tf.reshape(quads, [-1, out_height, out_width, 3]), tf.uint32)
    top_left, top_right, bottom_left, bottom_right = (_byte_of(quads, index) for index in range(4))
    upper = top_left + (top_right - top_left) * toward_right[..., tf.newaxis]
    lower = bottom_left + (bottom_right - bottom_left) * toward_right[..., tf.newaxis]
    return upper + (lower - upper) * toward_bottom[..., tf.newaxis]


def _split_coordinate(coordinates: tf.Tensor, size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the pixel before each coordinate, int32, and the way to the next one, float32 in [0, 1)."""
    pixels = tf.clip_by_value(_reflect(coordinates, size) - 0.5, 0.0, size - 1.0)
    before = tf.floor(pixels)
    return tf.cast(before, tf.int32), pixels - before


def _pack_quads(images: tf.Tensor) -> tf.Tensor:
    """Returns `[batch, height, width, 3] int32`: a pixel and its right, lower and lower right neighbours' bytes."""
    if images.dtype != tf.uint8:
        images = tf.cast(tf.round(images), tf.uint8)
    pixels = tf.cast(images, tf.uint32)
    pixels = tf.concat([pixels, pixels[:, -1:]], axis=1)
    pixels = tf.concat([pixels, pixels[:, :, -1:]], axis=2)
    words = pixels[:, :-1, :-1]
    for index, neighbour in enumerate((pixels[:, :-1, 1:], pixels[:, 1:, :-1], pixels[:, 1:, 1:]), start=1):
        words = tf.bitwise.bitwise_or(words, tf.bitwise.left_shift(neighbour, tf.constant(8 * index, tf.uint32)))
    return tf.bitcast(words, tf.int32)  # gathers of uint32 have no GPU kernel


def _byte_of(words: tf.Tensor, index: int) -> tf.Tensor:
    shifted = tf.bitwise.right_shift(words, tf.constant(8 * index, tf.uint32))
    return tf.cast(tf.cast(tf.bitwise.bitwise_and(shifted, tf.constant(_BYTE, tf.uint32)), tf.int32), tf.float32)
