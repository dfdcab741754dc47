"""Encoded pictures to canvases: images of one size, whose picture lies at the top left."""

import tensorflow as tf


def decode_to_canvas(file: tf.Tensor, *, image_size: int, canvas_size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes a picture, makes it smaller where it is too large, and lays it on a canvas.

    A JPEG is decoded in full by the accurate transform, never at a half or a quarter: libjpeg's scaled transforms are
    another filter than an antialiased resize.

    Args:
      file: Scalar string, the bytes of a JPEG, PNG, WebP, BMP or GIF (its first frame), upright.
      image_size: What the shorter side has at most, in pixels; a larger picture is resized, bilinear and antialiased,
        as `fitting.resize_image` does.
      canvas_size: What the longer side has at most; height and width of the canvas.

    Returns:
      `[canvas_size, canvas_size, 3] uint8`, black beyond the picture, and `[2] int32`, the picture's height and width.

    Raises:
      tf.errors.InvalidArgumentError: In the graph, for bytes that do not decode.
    """
    picture = tf.cond(
        tf.io.is_jpeg(file),
        lambda: tf.io.decode_jpeg(file, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_image(file, channels=3, expand_animations=False),
    )
    picture = tf.ensure_shape(picture, [None, None, 3])
    full = tf.shape(picture)[:2]
    size = _fitted(full, image_size=image_size, canvas_size=canvas_size)
    picture = tf.cond(tf.reduce_all(size == full), lambda: picture, lambda: _resized(picture, size))
    return _laid_on_canvas(picture, size, canvas_size), size


def _laid_on_canvas(picture: tf.Tensor, size: tf.Tensor, canvas_size: int) -> tf.Tensor:
    """Returns a canvas by two concatenations, which copy rows."""
    height, row_bytes = size[0], 3 * canvas_size
    rows = tf.reshape(picture, [height, 3 * size[1]])
    rows = tf.concat([rows, tf.zeros([height, row_bytes - 3 * size[1]], tf.uint8)], axis=1)
    rows = tf.concat([rows, tf.zeros([canvas_size - height, row_bytes], tf.uint8)], axis=0)
    return tf.reshape(rows, [canvas_size, canvas_size, 3])


def _fitted(full: tf.Tensor, *, image_size: int, canvas_size: int) -> tf.Tensor:
    """Returns height and width as they fit, at the picture's aspect ratio."""
    sides = tf.cast(full, tf.float64)
    scale = tf.minimum(image_size / tf.reduce_min(sides), canvas_size / tf.reduce_max(sides))
    fitted = tf.cast(tf.maximum(tf.round(sides * scale), 1), tf.int32)
    return tf.where(scale < 1, tf.minimum(fitted, canvas_size), full)


def _resized(picture: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    resized = tf.image.resize(picture, size, antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)
