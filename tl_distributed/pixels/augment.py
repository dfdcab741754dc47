"""Raw pixels to augmented pixels of the model's size: pure functions of (images, labels, seeds).

Everything is plain tensor arithmetic on static shapes, meant to run inside of the training step's XLA program; it
gives the same result without XLA. Which branches exist is decided when the program is traced: an
augmentation that is off leaves no operation behind.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

from tl_distributed.pixels.augment_settings import NAMED_AUGMENTATIONS, AugmentSettings
from tl_distributed.pixels.augmentation import View
from tl_distributed.pixels.augmentations import STAGES
from tl_distributed.pixels.resample import resample, resize_batch, turn
from tl_distributed.pixels.seeds import uniforms

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

    The order is rotation, what changes the source (colour), the rest of the geometry, what changes the output
    (erasing), mixing; see `augmentations`. MixUp and CutMix take the next image of the batch; without them each
    image depends on its own pixels and seed alone.

    Args:
      images: `[batch, height, width, 3] uint8` RGB; height and width are static.
      labels: `[batch] int32`, class indices.
      seeds: `[batch, 2] uint32`, see `per_image_seeds`.
      settings: Which augmentations, how strong; resolved.
      image_size: Edge of the output, in pixels.
      num_classes: Width of the labels returned.

    Returns:
      Images, `[batch, image_size, image_size, 3] float32` in [0, 255], and labels,
      `[batch, num_classes] float32`, rows that sum to 1 (one-hot unless images are mixed).
    """
    stages = stages_of(settings, seeds)
    source_size = tuple(images.shape[1:3])
    view = random_view(stages["change_view"], seeds, source_size) if stages["change_view"] else None
    if view is not None and view.angle is not None:
        images = turn(images, view)
    for change in stages["change_source"]:
        images = change(images)
    if view is None:
        images = resize_batch(images, image_size=image_size)
    else:
        images = resample(images, view, image_size=image_size)
    for change in stages["change_output"]:
        images = change(images)
    labels = tf.one_hot(labels, num_classes, dtype=tf.float32)
    for mix in stages["mix"]:
        images, labels = mix(images, labels)
    return images, labels


def stages_of(settings: AugmentSettings, seeds: tf.Tensor) -> Mapping[str, Sequence[Callable]]:
    """Returns the functions of each stage in order, what they draw and the settings filled in: the rest is arguments.

    Args:
      settings: Resolved.
      seeds: `[batch, 2] uint32`, see `per_image_seeds`.
    """
    modules = settings.switched_on()
    stages: dict[str, list[Callable]] = {stage: [] for stage in STAGES}
    if not modules:
        return stages
    columns = uniforms(seeds, 1 + max(draw for module in modules for draw in module.DRAWS))
    for module in modules:
        own = [columns[:, draw] for draw in module.DRAWS]
        for stage in STAGES:
            if hasattr(module, stage):
                stages[stage].append(functools.partial(getattr(module, stage), uniforms=own, settings=settings))
    return stages


def random_view(changes: Sequence[Callable], seeds: tf.Tensor, source_size: tuple[int, int]) -> View:
    """Draws a view for each image: the whole source, changed in turn.

    Args:
      changes: Of the stage `change_view`, see `stages_of`.
      seeds: `[batch, 2] uint32`.
      source_size: Height and width of the sources, in pixels.
    """
    span_y, span_x = (tf.fill(tf.shape(seeds)[:1], float(size)) for size in source_size)
    view = View(span_x / 2, span_y / 2, span_x, span_y, angle=None)
    for change in changes:
        view = change(view, source_size=source_size)
    return view
