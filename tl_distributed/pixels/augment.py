"""Raw pixels to augmented pixels of the model's size: pure functions of (images, labels, seeds).

Everything is plain tensor arithmetic on static shapes, meant to run inside of the training step's XLA program; it
gives the same result without XLA. Which branches exist is decided when the program is traced: an
augmentation that is off leaves no operation behind.
"""

import tensorflow as tf

from tl_distributed.pixels.augment_settings import NAMED_AUGMENTATIONS, AugmentSettings
from tl_distributed.pixels.colour import random_colour
from tl_distributed.pixels.mixing import mix_images, random_erasing
from tl_distributed.pixels.resample import resample, resize_batch, turn
from tl_distributed.pixels.seeds import all_uniforms
from tl_distributed.pixels.views import random_view

__all__ = ["NAMED_AUGMENTATIONS", "AugmentSettings", "augment_batch", "resize_batch"]


def augment_batch(
    images: tf.Tensor,
    labels: tf.Tensor,
    seeds: tf.Tensor,
    *,
    settings: AugmentSettings,
    image_size: int,
    num_classes: int,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Augments a batch and brings it to the model's size.

    The order is rotation, colour, the rest of the geometry, erasing, mixing. Rotation and colour work on the source,
    usually the smaller image: 49 times fewer pixels from 32 to 224. MixUp and CutMix take the next image of the batch;
    without them each image depends on its own pixels and seed alone.

    Args:
      images: `[batch, height, width, 3] uint8` RGB; height and width are static.
      labels: `[batch] int32`, class indices.
      seeds: `[batch, 2] uint32`, see `per_image_seeds`.
      settings: Which augmentations, how strong.
      image_size: Edge of the output, in pixels.
      num_classes: Width of the labels returned.

    Returns:
      Images, `[batch, image_size, image_size, 3] float32` in [0, 255], and labels,
      `[batch, num_classes] float32`, rows that sum to 1 (one-hot unless images are mixed).
    """
    height, width = images.shape[1:3]
    uniforms = all_uniforms(seeds)
    view = random_view(uniforms, settings=settings, height=height, width=width)
    if settings.rotation_degrees > 0:
        images = turn(images, view)
    if settings.changes_colour:
        images = random_colour(images, uniforms, settings=settings)
    if settings.changes_geometry:
        images = resample(images, view, image_size=image_size)
    else:
        images = resize_batch(images, image_size=image_size)
    soft_labels = tf.one_hot(labels, num_classes, dtype=tf.float32)
    images = random_erasing(images, uniforms, settings=settings)
    return mix_images(images, soft_labels, uniforms, settings=settings)
