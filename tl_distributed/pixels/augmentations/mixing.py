"""MixUp and CutMix, with labels that match the pixels exactly; the partner is the next image of the batch.

A batch of one image has no other partner than itself. Images of other replicas are out of reach, so the result
depends on how a global batch is cut into replicas.
"""

import dataclasses

import numpy as np

from tl_distributed.pixels.augmentation import Tensor, Uniforms, lerp, strength
from tl_distributed.pixels.boxes import Boxes, whole_number_below

ORDER, DRAWS = 90, (22, 23, 24, 25, 26)
_QUANTILE_INTERVALS = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """With both alphas above 0, each image is either blended or pasted, with equal chances.

    Attributes:
      mixup: Blend with weights from Beta(alpha, alpha) (Zhang et al. 2018).
      cutmix: Paste a box of the partner, its area from Beta(alpha, alpha) (Yun et al. 2019).
    """

    mixup: float | None = strength(
        "Alpha of MixUp's Beta distribution, 0 is off", none=0.0, strong=0.2, minimum=0, maximum=10
    )
    cutmix: float | None = strength(
        "Alpha of CutMix's Beta distribution, 0 is off", none=0.0, strong=1.0, minimum=0, maximum=10
    )


def mix(images: Tensor, labels: Tensor, uniforms: Uniforms, settings: Settings) -> tuple[Tensor, Tensor]:
    """The weight of a label is the share of its image in the mean pixel."""
    import tensorflow as tf

    image_size = images.shape[1]
    blend, boxes = mixing_parameters(uniforms, settings, image_size=image_size)
    own_share = blend * (1.0 - tf.cast(boxes.area(), tf.float32) / image_size**2)
    pixel_share = blend[:, None, None, None] * boxes.outside(image_size)
    return lerp(_next(images), images, pixel_share), lerp(_next(labels), labels, own_share[:, None])


def mixing_parameters(uniforms: Uniforms, settings: Settings, *, image_size: int) -> tuple[Tensor, Boxes]:
    """Draws how each image is mixed with its partner.

    Returns:
      The weight of the image outside of the box, `[batch] float32` (1 for CutMix), and the box that the partner fills
      (empty for MixUp).
    """
    import tensorflow as tf

    choice, mixup_weight, cutmix_weight, x, y = uniforms
    blend, cut_share = tf.ones_like(choice), tf.zeros_like(choice)
    if settings.mixup > 0:
        blend = beta_quantile(mixup_weight, settings.mixup)
    if settings.cutmix > 0:
        cut_share = 1.0 - beta_quantile(cutmix_weight, settings.cutmix)
    if settings.mixup > 0 and settings.cutmix > 0:
        is_mixup = choice < 0.5
        blend, cut_share = tf.where(is_mixup, blend, 1.0), tf.where(is_mixup, 0.0, cut_share)
    return blend, _cutmix_boxes(x, y, cut_share, image_size)


def _cutmix_boxes(x: Tensor, y: Tensor, share: Tensor, image_size: int) -> Boxes:
    """Squares of `share` of the area around a uniform pixel, clipped to the image, as in the paper's code."""
    import tensorflow as tf

    edge = tf.cast(tf.floor(image_size * tf.sqrt(share)), tf.int32)
    left, top = (whole_number_below(uniform, image_size) - edge // 2 for uniform in (x, y))
    return Boxes(*(tf.clip_by_value(side, 0, image_size) for side in (left, top, left + edge, top + edge)))


def beta_quantile(probabilities: Tensor, alpha: float) -> Tensor:
    """Returns the quantiles of Beta(alpha, alpha), `[batch] float32`, from a table made on the host."""
    import tensorflow as tf
    from scipy import special

    table = special.betaincinv(alpha, alpha, np.arange(_QUANTILE_INTERVALS + 1) / _QUANTILE_INTERVALS)
    table = tf.constant(table, tf.float32)
    positions = probabilities * _QUANTILE_INTERVALS
    before = tf.minimum(tf.floor(positions), _QUANTILE_INTERVALS - 1.0)
    index = tf.cast(before, tf.int32)
    return lerp(tf.gather(table, index), tf.gather(table, index + 1), positions - before)


def _next(values: Tensor) -> Tensor:
    import tensorflow as tf

    return tf.concat([values[1:], values[:1]], axis=0)
