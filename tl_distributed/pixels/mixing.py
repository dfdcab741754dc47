"""Augmentations in output pixels: random erasing, MixUp and CutMix, with labels that match the pixels exactly."""

import numpy as np
import tensorflow as tf

from tl_distributed.pixels.augment_settings import AugmentSettings
from tl_distributed.pixels.boxes import Boxes, random_box_size
from tl_distributed.pixels.seeds import Draw

_ERASE_AREA_RANGE = (0.02, 0.33)
_ERASE_ASPECT_RANGE = (0.3, 1 / 0.3)
_QUANTILE_INTERVALS = 4096


def random_erasing(images: tf.Tensor, uniforms: tf.Tensor, *, settings: AugmentSettings) -> tf.Tensor:
    """Paints a random box in one random colour into a share of the images (Zhong et al. 2017).

    One colour a box, not one a pixel: noise would cost as much as all other augmentations together.

    Args:
      images: `[batch, size, size, 3] float32` in [0, 255].
      uniforms: `[batch, len(Draw)] float32`, see `all_uniforms`.
      settings: `random_erasing_probability`; 0 returns the images.
    """
    if settings.random_erasing_probability == 0:
        return images
    image_size = images.shape[1]
    boxes = erasing_boxes(uniforms, image_size=image_size, probability=settings.random_erasing_probability)
    colours = tf.floor(uniforms[:, Draw.ERASE_RED : Draw.ERASE_BLUE + 1] * 256.0)
    return _lerp(colours[:, tf.newaxis, tf.newaxis, :], images, boxes.outside(image_size))


def erasing_boxes(uniforms: tf.Tensor, *, image_size: int, probability: float) -> Boxes:
    """Draws the box to erase of each image; an image to be left alone gets an empty one."""
    sizes = random_box_size(
        uniforms[:, Draw.ERASE_AREA],
        uniforms[:, Draw.ERASE_ASPECT],
        width=image_size,
        height=image_size,
        area_range=_ERASE_AREA_RANGE,
        aspect_range=_ERASE_ASPECT_RANGE,
    )
    erased = uniforms[:, Draw.ERASE] < probability
    width, height = (tf.where(erased, tf.cast(tf.round(size), tf.int32), 0) for size in sizes)
    left = _whole_number_below(uniforms[:, Draw.ERASE_X], image_size - width + 1)
    top = _whole_number_below(uniforms[:, Draw.ERASE_Y], image_size - height + 1)
    return Boxes(left, top, left + width, top + height)


def mix_images(
    images: tf.Tensor, labels: tf.Tensor, uniforms: tf.Tensor, *, settings: AugmentSettings
) -> tuple[tf.Tensor, tf.Tensor]:
    """Applies MixUp or CutMix to each image; its partner is the next image of the batch.

    A batch of one image has no other partner than itself. Images of other replicas are out of reach, so the result
    depends on how a global batch is cut into replicas.

    Args:
      images: `[batch, size, size, 3] float32`.
      labels: `[batch, num_classes] float32`, rows that sum to 1.
      uniforms: `[batch, len(Draw)] float32`, see `all_uniforms`.
      settings: `mixup` and `cutmix`; both 0 returns the images and labels.

    Returns:
      Images and labels, of the same shapes. The weight of a label is the share of its image in the mean pixel.
    """
    if not settings.mixes_images:
        return images, labels
    image_size = images.shape[1]
    blend, boxes = mixing_parameters(uniforms, settings=settings, image_size=image_size)
    own_share = blend * (1.0 - tf.cast(boxes.area(), tf.float32) / image_size**2)
    pixel_share = blend[:, tf.newaxis, tf.newaxis, tf.newaxis] * boxes.outside(image_size)
    return _lerp(_next(images), images, pixel_share), _lerp(_next(labels), labels, own_share[:, tf.newaxis])


def mixing_parameters(uniforms: tf.Tensor, *, settings: AugmentSettings, image_size: int) -> tuple[tf.Tensor, Boxes]:
    """Draws how each image is mixed with its partner.

    Returns:
      The weight of the image outside of the box, `[batch] float32` (1 for CutMix), and the box that the partner fills
      (empty for MixUp).
    """
    batch = tf.shape(uniforms)[:1]
    blend, cut_share = tf.ones(batch), tf.zeros(batch)
    is_mixup = uniforms[:, Draw.MIX_CHOICE] < 0.5
    if settings.mixup > 0:
        weights = beta_quantile(uniforms[:, Draw.MIXUP_WEIGHT], settings.mixup)
        blend = tf.where(is_mixup, weights, 1.0) if settings.cutmix > 0 else weights
    if settings.cutmix > 0:
        shares = 1.0 - beta_quantile(uniforms[:, Draw.CUTMIX_WEIGHT], settings.cutmix)
        cut_share = tf.where(is_mixup, 0.0, shares) if settings.mixup > 0 else shares
    return blend, _cutmix_boxes(uniforms, cut_share, image_size)


def _cutmix_boxes(uniforms: tf.Tensor, share: tf.Tensor, image_size: int) -> Boxes:
    """Squares of `share` of the area around a uniform pixel, clipped to the image, as in the paper's code."""
    edge = tf.cast(tf.floor(image_size * tf.sqrt(share)), tf.int32)
    left = _whole_number_below(uniforms[:, Draw.CUTMIX_X], image_size) - edge // 2
    top = _whole_number_below(uniforms[:, Draw.CUTMIX_Y], image_size) - edge // 2
    return Boxes(*(tf.clip_by_value(side, 0, image_size) for side in (left, top, left + edge, top + edge)))


def beta_quantile(probabilities: tf.Tensor, alpha: float) -> tf.Tensor:
    """Returns the quantiles of Beta(alpha, alpha), `[batch] float32`, from a table made on the host."""
    from scipy import special

    table = special.betaincinv(alpha, alpha, np.arange(_QUANTILE_INTERVALS + 1) / _QUANTILE_INTERVALS)
    table = tf.constant(table, tf.float32)
    positions = probabilities * _QUANTILE_INTERVALS
    before = tf.minimum(tf.floor(positions), _QUANTILE_INTERVALS - 1.0)
    index = tf.cast(before, tf.int32)
    return _lerp(tf.gather(table, index), tf.gather(table, index + 1), positions - before)


def _next(values: tf.Tensor) -> tf.Tensor:
    return tf.concat([values[1:], values[:1]], axis=0)


def _lerp(first: tf.Tensor, second: tf.Tensor, share_of_second: tf.Tensor) -> tf.Tensor:
    return first * (1.0 - share_of_second) + second * share_of_second


def _whole_number_below(uniforms: tf.Tensor, limit: tf.Tensor | int) -> tf.Tensor:
    """Maps [0, 1) to the whole numbers 0 to limit - 1, equally likely; `[batch] int32`."""
    limit = tf.cast(limit, tf.float32)
    return tf.cast(tf.minimum(tf.floor(uniforms * limit), limit - 1.0), tf.int32)  # 0.99999994 * limit may round up
