"""What the step needs to know beyond the model."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras

from tl_distributed.bank.layout import FeatureLayout
from tl_distributed.data.fit_rules import DEFAULT_FIT, Fit
from tl_distributed.models.layer_depths import rate_multipliers
from tl_distributed.pixels.augment_settings import AugmentSettings
from tl_distributed.settings.config import Config


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepSettings:
    """What the step needs to know beyond the model; see `Config` for units and ranges.

    Attributes:
      features: Of the rows of a bank, which the step is given in place of images; `None` for images.
      rate_multipliers: Factor on the rate of each trainable variable, by the `id` of Keras's variable: a tail that is
        trained from a bank has them in an order of its own.
      fit: Of pictures that are stored whole, see `pixels.fit`.
      class_weights: Of each class, in order of label, 0 or more; `None` where all count alike.
      focal_gamma: Exponent of the focal loss; `None` for cross-entropy.
    """

    features: FeatureLayout | None
    augment: AugmentSettings
    image_size: int
    normalization: str
    num_classes: int
    global_batch_size: int
    label_smoothing: float
    weight_decay: float
    rate_multipliers: Mapping[int, float]
    clip_norm: float
    ema_decay: float
    all_reduce_dtype: str
    gradient_buckets: int
    seed: int
    class_weights: tuple[float, ...] | None
    focal_gamma: float | None
    fit: Fit = DEFAULT_FIT

    def rate_multiplier(self, variable: Any) -> float:
        """Returns the factor on the learning rate of a Keras variable."""
        return self.rate_multipliers[id(variable)]


def step_settings(
    config: Config,
    model: keras.Model,
    *,
    normalization: str,
    num_classes: int,
    features: FeatureLayout | None,
    class_weights: tuple[float, ...] | None = None,
    fit: Fit = DEFAULT_FIT,
) -> StepSettings:
    """Returns the settings of a step, the same for every command that trains.

    Args:
      config: Resolved.
      model: The whole classifier, its layers frozen for the phase.
      normalization: Of the backbone.
      num_classes: Of the data set.
      features: Of the rows of a bank; `None` for images.
      class_weights: Of `class_weights.resolve_class_weights`.
      fit: Of the run.
    """
    return StepSettings(
        features=features,
        augment=config.augment_settings(),
        image_size=config.image_size,
        normalization=normalization,
        num_classes=num_classes,
        global_batch_size=config.global_batch_size,
        label_smoothing=config.label_smoothing,
        weight_decay=config.weight_decay,
        rate_multipliers=rate_multipliers(model, config.layer_decay),
        clip_norm=config.clip_norm,
        ema_decay=config.ema_decay,
        all_reduce_dtype=config.all_reduce_dtype,
        gradient_buckets=config.gradient_buckets,
        seed=config.seed,
        fit=fit,
        class_weights=class_weights,
        focal_gamma=config.focal_gamma if config.loss == "focal" else None,
    )
