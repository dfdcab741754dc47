"""Builds the model of a run: a backbone of the table or one of your own, its weights, its head.

Importing this module imports no TensorFlow, so that a backbone can be registered before the flags are read.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any

from tl_distributed.errors import UserError
from tl_distributed.models.backbones import BACKBONES, NORMALIZATIONS, Backbone
from tl_distributed.models.construction import construct
from tl_distributed.models.hub import build_from_preset
from tl_distributed.models.hub_configs import without_warnings
from tl_distributed.models.hub_files import is_hub
from tl_distributed.models.plugins import function_of, is_own
from tl_distributed.models.settings import ModelSettings

_LOG = logging.getLogger(__name__)
_NAMED_WEIGHTS = ("none", "imagenet", "own")
_BUILD_FUNCTIONS: dict[str, Callable[[int], Any]] = {}  # of registered backbones, by name


def register_backbone(backbone: Backbone, build_function: Callable[[int], Any]) -> None:
    """Adds a backbone of one's own to the table.

    Args:
      backbone: Its row; `name` must be new.
      build_function: Maps an image side in pixels to a `keras.Model`, functional or subclassed, from normalised images
        `[batch, size, size, 3] float32` to features of rank 4, 3 (tokens) or 2.

    Raises:
      ValueError: The name is taken, or the normalisation unknown.
    """
    if backbone.name in BACKBONES:
        raise ValueError(f"the backbone {backbone.name} exists already")
    if backbone.normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization {backbone.normalization!r} is not one of {', '.join(NORMALIZATIONS)}")
    BACKBONES[backbone.name] = backbone
    _BUILD_FUNCTIONS[backbone.name] = build_function


def build_backbone(
    backbone: Backbone, *, image_size: int, weights: str, normalize: Callable[[Any], Any] | None = None
) -> Any:
    """Builds the network without a head and without pooling.

    Layer names do not depend on what the process built before, and the model's name is the backbone's.

    Args:
      backbone: Row of the table.
      image_size: Image side in pixels.
      weights: "none" for random weights, "imagenet" for the ones that Keras downloads, "own" for those that the
        function of one's own returns. Weights of a file are `weights.load_backbone_weights`'s part.
      normalize: Put before a backbone of one's own, a part of it from then on.

    Returns:
      `keras.Model` from `[batch, image_size, image_size, 3] float32`, normalised as `backbone.normalization`
      says, to features of rank 4 (`baseline_cnn`: rank 2; one's own: rank 2, 3 or 4).

    Raises:
      UserError: An image too small, or no ImageNet weights for this backbone.
      DownloadError: The weights could not be downloaded.
    """
    if image_size < backbone.minimum_size:
        raise UserError(
            f"--image_size={image_size}: {backbone.name} takes at least {backbone.minimum_size} pixels a side"
        )
    if weights not in _NAMED_WEIGHTS:
        raise ValueError(f"weights must be none, imagenet or own, not {weights!r}")
    if weights == "imagenet" and not backbone.has_imagenet_weights:
        raise UserError(
            f"--weights=imagenet: there are none for {backbone.name}; use --weights=none, or --weights=PATH of a run"
        )
    build_function = _BUILD_FUNCTIONS.get(backbone.name)
    if build_function is None and is_own(backbone.name):
        build_function = function_of("backbone", backbone.name)
    if is_hub(backbone.name):
        build_function = functools.partial(build_from_preset, backbone.name, load_weights=weights == "own")
    return construct(backbone, build_function, image_size, weights, normalize)


def build_model(
    settings: ModelSettings,
    backbone: Backbone,
    *,
    image_size: int,
    num_classes: int,
    load_weights: bool,
    why_new_head: Callable[[str], str],
) -> Any:
    """Builds the classifier; call it under the strategy's scope.

    Args:
      settings: Resolved.
      backbone: The row of `settings.backbone`.
      image_size: Image side in pixels.
      num_classes: Number of logits.
      load_weights: Whether to load the pretrained weights; a run that goes on has them in its checkpoint.
      why_new_head: Given the file of `--weights=PATH`, returns why its head is of no use here, or nothing.

    Returns:
      A `keras.Model` from normalised float32 images `[batch, image_size, image_size, 3]` to `[batch, num_classes]`
      float32 logits.

    Raises:
      UserError: Weights that cannot be had or do not fit.
    """
    from tl_distributed.models.batch_norm import set_batch_norm_momentum
    from tl_distributed.models.freezing import came_frozen
    from tl_distributed.models.heads import build_classifier, head_layers
    from tl_distributed.models.own_networks import ends_in_logits, refuse_what_cannot_be_saved
    from tl_distributed.models.precision import of_other_precision
    from tl_distributed.models.weights import load_backbone_weights, load_head_weights

    weights = settings.weights if load_weights else "none"
    named = weights in _NAMED_WEIGHTS
    normalize = function_of("normalization", settings.normalization) if is_own(settings.normalization) else None
    backbone_model = build_backbone(
        backbone, image_size=image_size, weights=weights if named else "none", normalize=normalize
    )
    if frozen := came_frozen(backbone_model, settings.transfer):
        _LOG.warning("--backbone=%s: %s.", settings.backbone, frozen)
    if other := of_other_precision(backbone_model):
        _LOG.warning("--backbone=%s: %s.", settings.backbone, other)
    if not named:
        _LOG.info("%s", load_backbone_weights(backbone_model, weights))
    if settings.batch_norm_momentum:
        set_batch_norm_momentum(backbone_model, settings.batch_norm_momentum)
    if settings.head == "own":
        classifier = ends_in_logits(backbone_model, num_classes, flag=f"--backbone={settings.backbone}")
        if settings.transfer in ("frozen", "two_phase") and not any(layer.weights for layer in head_layers(classifier)):
            raise UserError(
                f"--transfer={settings.transfer}: --backbone={settings.backbone} is a single layer, of which the head "
                "cannot train alone; use --transfer=full"
            )
        refuse_what_cannot_be_saved(classifier, f"--backbone={settings.backbone}")
        return classifier
    classifier = build_classifier(
        backbone_model,
        num_classes=num_classes,
        pooling=settings.pooling,
        head_units=settings.head_units,
        dropout=settings.dropout,
    )
    if is_own(settings.backbone) or settings.backbone in _BUILD_FUNCTIONS:
        refuse_what_cannot_be_saved(classifier, f"--backbone={settings.backbone}")
    if is_hub(settings.backbone):
        with without_warnings():
            refuse_what_cannot_be_saved(classifier, f"--backbone={settings.backbone}")
    if not named:
        reset = (lambda _: "--reset_head") if settings.reset_head else why_new_head
        _LOG.info("%s", load_head_weights(classifier, weights, reset))
    return classifier
