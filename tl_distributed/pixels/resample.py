"""Resizing, cropping, zooming, shifting and flipping as one separable resampling; rotation as one gather before it.

Coordinates are continuous: pixel `k` of an axis covers [k, k + 1) and has its centre at k + 0.5. What an output
image shows is a `View` of its source, so a chain of crops, zooms and shifts interpolates, and blurs, once.

Without rotation the two axes separate, and each is a matrix `[out, in]` of bilinear weights
`max(0, 1 - |source - pixel|)`: two matrix products an image. That compiles under XLA and runs five times faster there,
on a CPU, than `tf.image.resize`. On GPUs that multiply float32 as TensorFloat-32 (TensorFlow's default since Ampere)
the weights have 10 bits, an error of up to about 0.1 on [0, 255]; everywhere else results agree with
`tf.image.resize` to 1e-3.

Borders: a coordinate outside of the image is reflected at the image's edge (b a | a b c | c b), so no black
appears. Inside the image this is `tf.image.resize` to the last pixel.
"""

import itertools

import numpy as np
import tensorflow as tf

from tl_distributed.pixels.augmentation import View

_CUBIC_REACH = 2  # pixels beyond the edge that cubic convolution may read


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
    """Shows each image's view, without its rotation (see `turn`), as a square of `image_size` pixels.

    Args:
      images: `[batch, height, width, 3]` uint8, or float32 in [0, 255]; height and width are static.
      view: What to show of each image.
      image_size: Edge of the output, in pixels.

    Returns:
      `[batch, image_size, image_size, 3] float32` in [0, 255].
    """
    height, width = images.shape[1:3]
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


def _reflect(coordinates: tf.Tensor, size: int) -> tf.Tensor:
    """Folds continuous coordinates into [0, size] by reflection at the edges; exact for those inside."""
    folded = tf.math.floormod(coordinates, 2.0 * size)
    return tf.where(folded <= size, folded, 2.0 * size - folded)


def turn(images: tf.Tensor, view: View) -> tf.Tensor:
    """Turns each image about the middle of its view, at its own size, so that `resample` then shows it rotated.

    Turning the source, usually the smaller image, instead of the output costs 49 times fewer gathered pixels from
    32 to 224. Cubic interpolation keeps what a second bilinear one would blur. The turn is a rotation of
    the *output*, so in source pixels it is sheared where the view's two scales differ.

    Args:
      images: `[batch, height, width, 3] uint8`; height and width are static, at least 2.
      view: Its middle, spans and angle.

    Returns:
      `[batch, height, width, 3] float32` in [0, 255].
    """
    height, width = images.shape[1:3]
    cosine, sine = (function(view.angle)[:, tf.newaxis, tf.newaxis] for function in (tf.cos, tf.sin))
    center_x, center_y = (center[:, tf.newaxis, tf.newaxis] for center in (view.center_x, view.center_y))
    anisotropy = (view.span_x / view.span_y)[:, tf.newaxis, tf.newaxis]
    across = (tf.range(width, dtype=tf.float32) + 0.5)[tf.newaxis, tf.newaxis, :] - center_x
    down = (tf.range(height, dtype=tf.float32) + 0.5)[tf.newaxis, :, tf.newaxis] - center_y
    x = center_x + cosine * across - sine * anisotropy * down
    y = center_y + sine / anisotropy * across + cosine * down
    return cubic_gather(images, x, y)


def cubic_gather(images: tf.Tensor, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Reads images at arbitrary coordinates by cubic convolution (Keys 1981, a = -0.5), reflected at the edges.

    The 8-bit values of 2 x 2 neighbours are packed into one 32-bit word first: 4 gathers instead of 16, and gathers
    are what costs on a CPU.

    Args:
      images: `[batch, height, width, 3] uint8`; height and width are at least 2.
      x, y: `[batch, out_height, out_width] float32` continuous coordinates, in source pixels.

    Returns:
      `[batch, out_height, out_width, 3] float32`, clipped to [0, 255].
    """
    height, width = images.shape[1:3]
    out_height, out_width = x.shape[1:3]
    left, column_weights = _cubic_taps(x, width)
    top, row_weights = _cubic_taps(y, height)
    padded = _mirrored(_mirrored(images, axis=1), axis=2)
    stride = width + 2 * _CUBIC_REACH - 1
    words = tf.reshape(_pack_quads(padded), [-1, (height + 2 * _CUBIC_REACH - 1) * stride, 3])
    first = tf.reshape(top * stride + left, [-1, out_height * out_width])
    total = 0.0
    for down, across in itertools.product((0, 2), (0, 2)):
        quads = tf.gather(words, first + (down * stride + across), axis=1, batch_dims=1)
        quads = tf.reshape(quads, [-1, out_height, out_width, 3])
        for index in range(4):
            weight = row_weights[down + index // 2] * column_weights[across + index % 2]
            total += _byte_of(quads, index) * weight[..., tf.newaxis]
    return tf.clip_by_value(total, 0.0, 255.0)


def _mirrored(images: tf.Tensor, axis: int) -> tf.Tensor:
    """Pads one axis symmetrically, as `tf.pad` does, which has no kernel for bytes on GPUs."""
    before, after = [slice(None)] * 4, [slice(None)] * 4
    before[axis], after[axis] = slice(None, _CUBIC_REACH), slice(-_CUBIC_REACH, None)
    edges = [tf.reverse(images[tuple(edge)], [axis]) for edge in (before, after)]
    return tf.concat([edges[0], images, edges[1]], axis)


def _cubic_taps(coordinates: tf.Tensor, size: int) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
    """Returns the first of the four pixels around each coordinate (int32, in the padded image) and their weights."""
    pixels = _reflect(coordinates, size) - 0.5
    before = tf.floor(pixels)
    t = pixels - before
    weights = (
        ((-0.5 * t + 1.0) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1.0,
        ((-1.5 * t + 2.0) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    )
    return tf.cast(before, tf.int32) + (_CUBIC_REACH - 1), weights


def _pack_quads(images: tf.Tensor) -> tf.Tensor:
    """Packs each pixel with its right, lower and lower right neighbours: `[batch, height - 1, width - 1, 3] int32`."""
    pixels = tf.cast(images, tf.int32)
    words = pixels[:, :-1, :-1]
    for index, neighbour in enumerate((pixels[:, :-1, 1:], pixels[:, 1:, :-1], pixels[:, 1:, 1:]), start=1):
        words = tf.bitwise.bitwise_or(words, tf.bitwise.left_shift(neighbour, 8 * index))
    return words


def _byte_of(words: tf.Tensor, index: int) -> tf.Tensor:
    return tf.cast(tf.bitwise.bitwise_and(tf.bitwise.right_shift(words, 8 * index), 0xFF), tf.float32)
