"""The model that a config describes: backbone, its weights, head."""

import logging

import keras

from tl_distributed.config import Config
from tl_distributed.models.backbones import build_backbone, get_backbone
from tl_distributed.models.batch_norm import set_batch_norm_momentum
from tl_distributed.models.heads import build_classifier
from tl_distributed.models.weights import load_backbone_weights

_LOG = logging.getLogger(__name__)


def build_model(config: Config, *, num_classes: int, load_weights: bool) -> keras.Model:
    """Builds the classifier of a resolved config; call it under the strategy's scope.

    Args:
      config: Resolved.
      num_classes: Number of logits.
      load_weights: Whether to load the pretrained weights; a run that goes on has them in its checkpoint.

    Returns:
      A model from normalised float32 images `[batch, image_size, image_size, 3]` to `[batch, num_classes]`
      float32 logits.

    Raises:
      UserError: Weights that cannot be had or do not fit.
    """
    weights = config.weights if load_weights else "none"
    named = weights in ("none", "imagenet")
    backbone_model = build_backbone(
        get_backbone(config.backbone),
        image_size=config.image_size,
        weights=weights if named else "none",
    )
    if not named:
        _LOG.info("%s", load_backbone_weights(backbone_model, weights))
    if config.batch_norm_momentum:
        set_batch_norm_momentum(backbone_model, config.batch_norm_momentum)
    return build_classifier(
        backbone_model,
        num_classes=num_classes,
        pooling=config.pooling,
        head_units=config.head_units,
        dropout=config.dropout,
    )
