"""Random boxes of a given area and aspect ratio that always fit, and masks of boxes."""

import math
from typing import NamedTuple

from tl_distributed.pixels.augmentation import Tensor


class Boxes(NamedTuple):
    """Boxes in whole pixels, right and bottom exclusive; all `[batch] int32`."""

    left: Tensor
    top: Tensor
    right: Tensor
    bottom: Tensor

    def outside(self, image_size: int) -> Tensor:
        """Returns `[batch, image_size, image_size, 1] float32`, 0 inside of the box and 1 outside.

        A pixel is outside if its row is, or if its row is not and its column is: a matrix product over the two
        cases. XLA stores the result of one, where it would else place each box anew for each pixel.
        """
        import tensorflow as tf

        pixels = tf.range(image_size)[tf.newaxis]
        columns = (pixels < self.left[:, tf.newaxis]) | (pixels >= self.right[:, tf.newaxis])
        rows = (pixels < self.top[:, tf.newaxis]) | (pixels >= self.bottom[:, tf.newaxis])
        by_row = tf.cast(tf.stack([rows, ~rows], axis=-1), tf.float32)
        by_column = tf.cast(tf.stack([tf.ones_like(columns), columns], axis=1), tf.float32)
        return tf.matmul(by_row, by_column)[..., tf.newaxis]

    def area(self) -> Tensor:
        """Returns `[batch] int32`, pixels inside of the box."""
        return (self.right - self.left) * (self.bottom - self.top)


def random_box_size(
    area_uniform: Tensor,
    aspect_uniform: Tensor,
    *,
    width: Tensor | int,
    height: Tensor | int,
    area_range: tuple[float, float],
    aspect_range: tuple[float, float],
) -> tuple[Tensor, Tensor]:
    """Draws the width and height of boxes that fit into an image.

    The usual recipe draws until a box fits, which no compiled program can. Here the area is drawn first, uniformly,
    and then the aspect ratio, log-uniformly, among those with which a box of that area fits. An image so long
    that no box of the wanted area and aspect ratio fits gets the largest that does.

    Args:
      area_uniform, aspect_uniform: `[batch] float32` in [0, 1).
      width, height: Size of the image, in pixels: one for all, or `[batch] float32`.
      area_range: Smallest and largest share of the image's area, in (0, 1].
      aspect_range: Smallest and largest width / height.

    Returns:
      Width and height in pixels, `[batch] float32`, not rounded.
    """
    import tensorflow as tf

    low_aspect, high_aspect = aspect_range
    smaller = min if isinstance(width, int) else tf.minimum
    largest = smaller(smaller(1.0, high_aspect * height / width), width / (height * low_aspect))
    low_area, high_area = (smaller(area, largest) for area in area_range)
    area = (low_area + area_uniform * (high_area - low_area)) * (width * height)
    low = tf.maximum(math.log(low_aspect), tf.math.log(area / (height * height)))
    high = tf.minimum(math.log(high_aspect), tf.math.log(width * width / area))
    aspect = tf.exp(low + aspect_uniform * tf.maximum(high - low, 0.0))
    box_width, box_height = tf.sqrt(area * aspect), tf.sqrt(area / aspect)
    # Rounding alone can exceed the image where the only aspect ratio that fits fills it.
    return tf.minimum(box_width, tf.cast(width, tf.float32)), tf.minimum(box_height, tf.cast(height, tf.float32))


def whole_number_below(uniforms: Tensor, limit: Tensor | int) -> Tensor:
    """Maps [0, 1) to the whole numbers 0 to limit - 1, equally likely; `[batch] int32`."""
    import tensorflow as tf

    limit = tf.cast(limit, tf.float32)
    return tf.cast(tf.minimum(tf.floor(uniforms * limit), limit - 1.0), tf.int32)  # 0.99999994 * limit may round up
