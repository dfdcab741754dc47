"""What the step needs to know beyond the model."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras

from tl_distributed.bank.layout import FeatureLayout
from tl_distributed.data.fit_rules import DEFAULT_FIT, Fit
from tl_distributed.models.layer_depths import rate_multipliers
from tl_distributed.pixels.augment_settings import AugmentSettings
from tl_distributed.pixels.own_augmentation import OwnAugmentation
from tl_distributed.settings.config import Config
from tl_distributed.training.tasks import Classification, Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepSettings:
    """What the step needs to know beyond the model; see `Config` for units and ranges.

    Attributes:
      features: Of the rows of a bank, which the step is given in place of images; `None` for images.
      rate_multipliers: Factor on the rate of each trainable variable, by the `id` of Keras's variable: a tail that is
        trained from a bank has them in an order of its own.
      fit: Of pictures that are stored whole, see `pixels.fit`.
      task: What is learnt.
      own_augmentation: Of one's own, see `pixels.own_augmentation`; `None` without.
    """

    features: FeatureLayout | None
    augment: AugmentSettings
    image_size: int
    normalization: str
    num_classes: int
    global_batch_size: int
    weight_decay: float
    rate_multipliers: Mapping[int, float]
    clip_norm: float
    ema_decay: float
    all_reduce_dtype: str
    gradient_buckets: int
    seed: int
    task: Task
    fit: Fit = DEFAULT_FIT
    own_augmentation: OwnAugmentation | None = None

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
    task: Task | None = None,
    fit: Fit = DEFAULT_FIT,
) -> StepSettings:
    """Returns the settings of a step, the same for every command that trains.

    Args:
      config: Resolved.
      model: The whole classifier, its layers frozen for the phase.
      normalization: Of the backbone.
      num_classes: Of the data set.
      features: Of the rows of a bank; `None` for images.
      task: Of `task_choice.choose_task`; `None` for plain classification.
      fit: Of the run.
    """
    return StepSettings(
        features=features,
        augment=config.augment_settings(),
        image_size=config.image_size,
        normalization=normalization,
        num_classes=num_classes,
        global_batch_size=config.global_batch_size,
        weight_decay=config.weight_decay,
        rate_multipliers=rate_multipliers(model, config.layer_decay),
        clip_norm=config.clip_norm,
        ema_decay=config.ema_decay,
        all_reduce_dtype=config.all_reduce_dtype,
        gradient_buckets=config.gradient_buckets,
        seed=config.seed,
        fit=fit,
        task=task or Classification(),
        own_augmentation=config.own_augmentation(),
    )
