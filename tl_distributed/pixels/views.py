"""Draws which part of its source each image shows: flip, crops, shifts, zoom and rotation as one `View`."""

import math

import tensorflow as tf

from tl_distributed.pixels.augment_settings import AugmentSettings
from tl_distributed.pixels.boxes import random_box_size
from tl_distributed.pixels.resample import View
from tl_distributed.pixels.seeds import Draw

_CROP_ASPECT_RANGE = (3 / 4, 4 / 3)


def random_view(uniforms: tf.Tensor, *, settings: AugmentSettings, height: int, width: int) -> View:
    """Draws a view for each image.

    The box of the random resized crop comes first; the padded crop moves it by whole source pixels, the shifts by
    fractions of its size, and zoom and rotation act about its middle. The flip mirrors what is then seen.

    Args:
      uniforms: `[batch, len(Draw)] float32`, see `all_uniforms`.
      settings: Strength of each augmentation.
      height, width: Size of the source, in pixels.
    """
    span_x, span_y = tf.fill(tf.shape(uniforms)[:1], float(width)), tf.fill(tf.shape(uniforms)[:1], float(height))
    center_x, center_y = span_x / 2, span_y / 2
    if settings.resized_crop_min_area < 1:
        span_x, span_y = random_box_size(
            uniforms[:, Draw.RESIZED_CROP_AREA],
            uniforms[:, Draw.RESIZED_CROP_ASPECT],
            width=width,
            height=height,
            area_range=(settings.resized_crop_min_area, 1.0),
            aspect_range=_CROP_ASPECT_RANGE,
        )
        center_x = span_x / 2 + uniforms[:, Draw.RESIZED_CROP_X] * (width - span_x)
        center_y = span_y / 2 + uniforms[:, Draw.RESIZED_CROP_Y] * (height - span_y)
    if settings.crop_padding_pixels > 0:
        center_x += _whole_shift(uniforms[:, Draw.PADDED_CROP_X], settings.crop_padding_pixels)
        center_y += _whole_shift(uniforms[:, Draw.PADDED_CROP_Y], settings.crop_padding_pixels)
    if settings.width_shift_fraction > 0:
        center_x += symmetric(uniforms[:, Draw.SHIFT_X], settings.width_shift_fraction) * span_x
    if settings.height_shift_fraction > 0:
        center_y += symmetric(uniforms[:, Draw.SHIFT_Y], settings.height_shift_fraction) * span_y
    if settings.zoom_fraction > 0:
        factor = 1.0 + symmetric(uniforms[:, Draw.ZOOM], settings.zoom_fraction)
        span_x, span_y = span_x * factor, span_y * factor
    if settings.horizontal_flip:
        span_x = tf.where(uniforms[:, Draw.FLIP] < 0.5, -span_x, span_x)
    angle = None
    if settings.rotation_degrees > 0:
        angle = symmetric(uniforms[:, Draw.ROTATION], math.radians(settings.rotation_degrees))
    return View(center_x, center_y, span_x, span_y, angle)


def symmetric(uniforms: tf.Tensor, limit: float) -> tf.Tensor:
    """Maps [0, 1) to [-limit, limit)."""
    return (2.0 * uniforms - 1.0) * limit


def _whole_shift(uniforms: tf.Tensor, limit: int) -> tf.Tensor:
    """Maps [0, 1) to the whole numbers -limit to limit, equally likely."""
    return tf.floor(uniforms * (2 * limit + 1)) - limit
