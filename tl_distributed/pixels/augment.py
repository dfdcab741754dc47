"""Raw pixels to augmented pixels of the model's size: pure functions of (images, labels, seeds).

Everything is plain tensor arithmetic on static shapes, meant to run inside of the training step's XLA program; it
gives the same result without XLA. Which branches exist is decided when the program is traced: an
augmentation that is off leaves no operation behind.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

from tl_distributed.data.fit_rules import Fit
from tl_distributed.pixels.augment_settings import NAMED_AUGMENTATIONS, AugmentSettings
from tl_distributed.pixels.augmentation import SourceSize, View
from tl_distributed.pixels.augmentations import STAGES
from tl_distributed.pixels.fit import evaluation_view, fitted_view, picture_area
from tl_distributed.pixels.own_augmentation import OwnAugmentation
from tl_distributed.pixels.resample import resample
from tl_distributed.pixels.seeds import uniforms
from tl_distributed.pixels.turn import turn

__all__ = ["NAMED_AUGMENTATIONS", "AugmentSettings", "augment_batch"]


def augment_batch(
    images: tf.Tensor,
    labels: tf.Tensor,
    seeds: tf.Tensor,
    *,
    settings: AugmentSettings,
    image_size: int,
    num_classes: int,
    sizes: tf.Tensor | None = None,
    fit: Fit | None = None,
    targets: tf.Tensor | None = None,
    own: OwnAugmentation | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Augments a batch and brings it to the model's size.

    With everything off it is `fit.evaluation_view`. The order is rotation, what changes the source (colour), the rest
    of the geometry, what changes the output (erasing), one of one's own, mixing; see `augmentations`. MixUp and CutMix
    take the next image of the batch; without them each image depends on its own pixels and seed alone.

    Args:
      images: `[batch, height, width, 3] uint8` RGB; height and width are static.
      labels: `[batch] int32`, class indices.
      seeds: `[batch, 2] uint32`, see `per_image_seeds`.
      settings: Which augmentations, how strong; resolved.
      image_size: Edge of the output, in pixels.
      num_classes: Width of the labels returned.
      sizes: `[batch, 2] int32`, height and width of the picture at each image's top left, at least 1; `None` where the
        image is the picture, which costs nothing.
      fit: Of pictures with `sizes`: what of those that are not square is shown before it is changed, as in
        `fit.fitted_view`. A random resized crop is one of the whole picture, whatever the rule.
      targets: `[batch, num_classes] float32`, what the network is to answer, in place of one-hot `labels`.
      own: An augmentation of one's own.

    Returns:
      Images, `[batch, image_size, image_size, 3] float32` in [0, 255], and targets,
      `[batch, num_classes] float32`: of labels, rows that sum to 1 (one-hot unless images are mixed).
    """
    stages = stages_of(settings, seeds)
    view = None
    if stages["change_view"]:
        view = _random_view(stages["change_view"], images, seeds, sizes, fit=fit, image_size=image_size)
        if view.angle is not None:
            images = turn(images, view, sizes)
    for change in stages["change_source"]:
        images = change(images, sizes=sizes)
    if view is None:
        images = evaluation_view(images, sizes, fit=fit, image_size=image_size)
    else:
        area = None if sizes is None else picture_area(sizes, fit=fit)
        images = resample(images, view, image_size=image_size, area=area)
    for change in stages["change_output"]:
        images = change(images)
    if targets is None:
        targets = tf.one_hot(labels, num_classes, dtype=tf.float32)
    if own is not None:
        images, targets = own.apply(images, targets, seeds)
    for mix in stages["mix"]:
        images, targets = mix(images, targets)
    return images, targets


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


def _random_view(
    changes: Sequence[Callable], images: tf.Tensor, seeds: tf.Tensor, sizes: tf.Tensor | None, *, fit: Fit | None,
    image_size: int,
) -> View:  # fmt: skip
    if sizes is None:
        size = tuple(images.shape[1:3])
        return change_view(changes, whole_view(size, tf.shape(seeds)[:1]), size)
    height, width = tf.unstack(tf.cast(sizes, tf.float32), num=2, axis=1)
    return change_view(changes, fitted_view(sizes, fit=fit, image_size=image_size), (height, width))


def whole_view(source_size: tuple[int, int], batch: tf.Tensor) -> View:
    """Returns the view of all of each source; `batch` is `[1] int32`, how many."""
    span_y, span_x = (tf.fill(batch, float(size)) for size in source_size)
    return View(span_x / 2, span_y / 2, span_x, span_y, angle=None)


def change_view(changes: Sequence[Callable], view: View, source_size: SourceSize) -> View:
    """Changes a view in turn by the functions of the stage `change_view`, see `stages_of`."""
    for change in changes:
        view = change(view, source_size=source_size)
    return view
