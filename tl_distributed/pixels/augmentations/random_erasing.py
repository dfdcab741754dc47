"""Paints a random box in one random colour into a share of the images (Zhong et al. 2017).

One colour a box, not one a pixel: noise would cost as much as all other augmentations together.
"""

import dataclasses

from tl_distributed.pixels.augmentation import Tensor, Uniforms, lerp, strength
from tl_distributed.pixels.boxes import Boxes, random_box_size, whole_number_below

ORDER, DRAWS = 80, (14, 15, 16, 17, 18, 19, 20, 21)
_AREA_RANGE = (0.02, 0.33)  # as shares of the image's
_ASPECT_RANGE = (0.3, 1 / 0.3)  # log-uniform


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    random_erasing_probability: float | None = strength(
        "Share of images in which a rectangle is erased", none=0.0, strong=0.25, minimum=0, maximum=1
    )


def change_output(images: Tensor, uniforms: Uniforms, settings: Settings) -> Tensor:
    import tensorflow as tf

    *where, red, green, blue = uniforms
    image_size = images.shape[1]
    boxes = erasing_boxes(where, image_size=image_size, probability=settings.random_erasing_probability)
    colours = tf.floor(tf.stack([red, green, blue], axis=-1) * 256.0)
    return lerp(colours[:, None, None, :], images, boxes.outside(image_size))


def erasing_boxes(uniforms: Uniforms, *, image_size: int, probability: float) -> Boxes:
    """Draws the box to erase of each image; an image to be left alone gets an empty one."""
    import tensorflow as tf

    chance, area, aspect, x, y = uniforms
    sizes = random_box_size(
        area, aspect, width=image_size, height=image_size, area_range=_AREA_RANGE, aspect_range=_ASPECT_RANGE
    )
    width, height = (tf.where(chance < probability, tf.cast(tf.round(size), tf.int32), 0) for size in sizes)
    left, top = whole_number_below(x, image_size - width + 1), whole_number_below(y, image_size - height + 1)
    return Boxes(left, top, left + width, top + height)
