"""Encoded pictures to canvases: images of one size, whose picture lies at the top left."""

import tensorflow as tf


def decode_to_canvas(
    file: tf.Tensor, *, image_size: int, canvas_size: int, is_jpeg: bool = False
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes a picture, makes it smaller where it is too large, and lays it on a canvas.

    A JPEG is decoded in full by the accurate transform, never at a half or a quarter: libjpeg's scaled transforms are
    another filter than an antialiased resize.

    Args:
      file: Scalar string, the bytes of a JPEG, PNG, WebP, BMP or GIF (its first frame), upright.
      image_size: What the shorter side has at most, in pixels; a larger picture is resized, bilinear and antialiased,
        as `fitting.resize_image` does.
      canvas_size: What the longer side has at most; height and width of the canvas.
      is_jpeg: Whether every file is a JPEG, and none has to be asked, which takes some 20 us of 800.

    Returns:
      `[canvas_size, canvas_size, 3] uint8`, black beyond the picture, and `[2] int32`, the picture's height and width.

    Raises:
      tf.errors.InvalidArgumentError: In the graph, for bytes that do not decode.
    """
    picture = _jpeg(file) if is_jpeg else tf.cond(tf.io.is_jpeg(file), lambda: _jpeg(file), lambda: _other(file))
    picture = tf.ensure_shape(picture, [None, None, 3])
    full = tf.shape(picture)[:2]
    height, width = full[0], full[1]
    fits = (tf.minimum(height, width) <= image_size) & (tf.maximum(height, width) <= canvas_size)

    def shrunk() -> tuple[tf.Tensor, tf.Tensor]:
        size = _shrunk_size(full, image_size=image_size, canvas_size=canvas_size)
        return _laid_on_canvas(_shrunk(picture, size), size, canvas_size), size

    return tf.cond(fits, lambda: (_laid_on_canvas(picture, full, canvas_size), full), shrunk)


def _jpeg(file: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_jpeg(file, channels=3, dct_method="INTEGER_ACCURATE")


def _other(file: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_image(file, channels=3, expand_animations=False)


def _laid_on_canvas(picture: tf.Tensor, size: tf.Tensor, canvas_size: int) -> tf.Tensor:
    """Returns a canvas by concatenations, which copy rows: to the right and below where the picture ends before."""
    height, width = size[0], size[1]
    picture_rows = tf.reshape(picture, [height, 3 * width])

    def with_right() -> tf.Tensor:
        return tf.concat([picture_rows, tf.zeros([height, 3 * (canvas_size - width)], tf.uint8)], axis=1)

    rows = tf.cond(width < canvas_size, with_right, lambda: picture_rows)

    def with_bottom() -> tf.Tensor:
        return tf.concat([rows, tf.zeros([canvas_size - height, 3 * canvas_size], tf.uint8)], axis=0)

    rows = tf.cond(height < canvas_size, with_bottom, lambda: rows)
    return tf.reshape(rows, [canvas_size, canvas_size, 3])


def _shrunk(picture: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    resized = tf.image.resize(picture, size, antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)


def _shrunk_size(full: tf.Tensor, *, image_size: int, canvas_size: int) -> tf.Tensor:
    """Returns height and width as a picture that is too large fits, at its aspect ratio."""
    sides = tf.cast(full, tf.float64)
    scale = tf.minimum(image_size / tf.reduce_min(sides), canvas_size / tf.reduce_max(sides))
    return tf.minimum(tf.cast(tf.maximum(tf.round(sides * scale), 1), tf.int32), canvas_size)
