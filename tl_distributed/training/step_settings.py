"""What the step takes from a run's settings; the same for every command that trains."""

from typing import Any

from tl_distributed.config import Config
from tl_distributed.data.feature_bank import FeatureLayout
from tl_distributed.models.backbones import get_backbone
from tl_distributed.models.layer_depths import rate_multipliers
from tl_distributed.training.step import StepSettings


def step_settings(config: Config, model: Any, *, num_classes: int, features: FeatureLayout | None) -> StepSettings:
    """Returns the settings of a step.

    Args:
      config: Resolved.
      model: The whole classifier, its layers frozen for the phase.
      num_classes: Of the data set.
      features: Of the rows of a bank; `None` for images.
    """
    return StepSettings(
        features=features,
        augment=config.augment_settings(),
        image_size=config.image_size,
        normalization=get_backbone(config.backbone).normalization,
        num_classes=num_classes,
        global_batch_size=config.global_batch_size,
        label_smoothing=config.label_smoothing,
        weight_decay=config.weight_decay,
        rate_multipliers=tuple(rate_multipliers(model, config.layer_decay)),
        clip_norm=config.clip_norm,
        ema_decay=config.ema_decay,
        all_reduce_dtype=config.all_reduce_dtype,
        seed=config.seed,
    )
