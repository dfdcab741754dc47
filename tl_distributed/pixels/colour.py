"""Brightness, contrast and saturation, each image by its own amount; as `tf.image.adjust_*`, clipped to [0, 255]."""

import tensorflow as tf

from tl_distributed.pixels.augment_settings import AugmentSettings
from tl_distributed.pixels.seeds import Draw
from tl_distributed.pixels.views import symmetric

_MAX = 255.0


def random_colour(images: tf.Tensor, uniforms: tf.Tensor, *, settings: AugmentSettings) -> tf.Tensor:
    """Changes brightness, then contrast, then saturation, by random amounts.

    Args:
      images: `[batch, height, width, 3]` uint8 or float32 RGB in [0, 255].
      uniforms: `[batch, len(Draw)] float32`, see `all_uniforms`.
      settings: Strength of each.

    Returns:
      `[batch, height, width, 3] float32` in [0, 255].
    """
    images = tf.cast(images, tf.float32)
    if settings.brightness_fraction > 0:
        images = adjust_brightness(images, symmetric(uniforms[:, Draw.BRIGHTNESS], settings.brightness_fraction))
    if settings.contrast_fraction > 0:
        images = adjust_contrast(images, 1.0 + symmetric(uniforms[:, Draw.CONTRAST], settings.contrast_fraction))
    if settings.saturation_fraction > 0:
        images = adjust_saturation(images, 1.0 + symmetric(uniforms[:, Draw.SATURATION], settings.saturation_fraction))
    return images


def adjust_brightness(images: tf.Tensor, fractions: tf.Tensor) -> tf.Tensor:
    """Adds `fractions` (`[batch] float32`) times 255 and clips."""
    return tf.clip_by_value(images + _per_image(fractions) * _MAX, 0.0, _MAX)


def adjust_contrast(images: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Scales each channel's distance from its mean over the image by `factors` (`[batch] float32`) and clips."""
    means = tf.reduce_mean(images, axis=[1, 2], keepdims=True)
    return tf.clip_by_value(means + (images - means) * _per_image(factors), 0.0, _MAX)


def adjust_saturation(images: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Scales the HSV saturation by `factors` (`[batch] float32`, at least 0), up to full saturation.

    With hue and value fixed, the distance of each channel from the largest one is proportional to the saturation,
    (largest - smallest) / largest, so no conversion to HSV and back is needed. The factor stops
    where the smallest channel reaches 0.
    """
    largest = tf.reduce_max(images, axis=-1, keepdims=True)
    smallest = tf.reduce_min(images, axis=-1, keepdims=True)
    full_saturation = tf.math.divide_no_nan(largest, largest - smallest)  # grey: no distance to scale
    scale = tf.minimum(_per_image(factors), full_saturation)
    return tf.clip_by_value(largest - (largest - images) * scale, 0.0, _MAX)


def _per_image(values: tf.Tensor) -> tf.Tensor:
    return values[:, tf.newaxis, tf.newaxis, tf.newaxis]
