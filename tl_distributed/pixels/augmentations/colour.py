"""Brightness, contrast and saturation, each image by its own amount; as `tf.image.adjust_*`, clipped to [0, 255]."""

import dataclasses

from tl_distributed.pixels.augmentation import Tensor, Uniforms, strength, symmetric

ORDER, DRAWS = 70, (11, 12, 13)
_MAX = 255.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    brightness_fraction: float | None = strength(
        "Largest change of brightness, as a share of 255", none=0.0, strong=0.2, minimum=0, maximum=1
    )
    contrast_fraction: float | None = strength("Largest change of contrast", none=0.0, strong=0.2, minimum=0, maximum=1)
    saturation_fraction: float | None = strength(
        "Largest change of saturation", none=0.0, strong=0.2, minimum=0, maximum=1
    )


def change_source(images: Tensor, uniforms: Uniforms, settings: Settings, sizes: Tensor | None) -> Tensor:
    """Changes brightness, then contrast, then saturation."""
    import tensorflow as tf

    images = tf.cast(images, tf.float32)
    brightness, contrast, saturation = uniforms
    if settings.brightness_fraction > 0:
        images = adjust_brightness(images, symmetric(brightness, settings.brightness_fraction))
    if settings.contrast_fraction > 0:
        images = adjust_contrast(images, 1.0 + symmetric(contrast, settings.contrast_fraction), sizes)
    if settings.saturation_fraction > 0:
        images = adjust_saturation(images, 1.0 + symmetric(saturation, settings.saturation_fraction))
    return images


def adjust_brightness(images: Tensor, fractions: Tensor) -> Tensor:
    """Adds `fractions` (`[batch] float32`) times 255 and clips."""
    return _clip(images + _per_image(fractions) * _MAX)


def adjust_contrast(images: Tensor, factors: Tensor, sizes: Tensor | None = None) -> Tensor:
    """Scales each channel's distance from its mean over the picture by `factors` (`[batch] float32`) and clips.

    `sizes`, `[batch, 2] int32`, are heights and widths of pictures at the top left of `images`; `None` for all of them.
    """
    import tensorflow as tf

    means = tf.reduce_mean(images, axis=[1, 2], keepdims=True) if sizes is None else _means_inside(images, sizes)
    return _clip(means + (images - means) * _per_image(factors))


def _means_inside(images: Tensor, sizes: Tensor) -> Tensor:
    import tensorflow as tf

    height, width = (sizes[:, axis, None, None, None] for axis in (0, 1))
    inside = (tf.range(images.shape[1])[:, None, None] < height) & (tf.range(images.shape[2])[:, None] < width)
    sums = tf.reduce_sum(tf.where(inside, images, 0.0), axis=[1, 2], keepdims=True)
    return sums / tf.cast(height * width, tf.float32)


def adjust_saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Scales the HSV saturation by `factors` (`[batch] float32`, at least 0), up to full saturation.

    With hue and value fixed, the distance of each channel from the largest one is proportional to the saturation,
    (largest - smallest) / largest, so no conversion to HSV and back is needed. The factor stops
    where the smallest channel reaches 0.
    """
    import tensorflow as tf

    largest = tf.reduce_max(images, axis=-1, keepdims=True)
    smallest = tf.reduce_min(images, axis=-1, keepdims=True)
    full_saturation = tf.math.divide_no_nan(largest, largest - smallest)  # grey: no distance to scale
    scale = tf.minimum(_per_image(factors), full_saturation)
    return _clip(largest - (largest - images) * scale)


def _clip(images: Tensor) -> Tensor:
    import tensorflow as tf

    return tf.clip_by_value(images, 0.0, _MAX)


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]
