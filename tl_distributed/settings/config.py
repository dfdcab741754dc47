"""The settings of a run, composed of what the rooms declare beside their code: flat, as the flags are, and frozen.

No TensorFlow here: a wrong flag is refused before any device is touched.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import TypeVar

from tl_distributed.bank.settings import BankSettings, why_nothing_to_bank
from tl_distributed.data.settings import DataSettings
from tl_distributed.errors import UserError
from tl_distributed.models.plugins import function_of, is_own
from tl_distributed.models.settings import ModelSettings
from tl_distributed.pixels.augment_settings import AugmentSettings
from tl_distributed.pixels.own_augmentation import OwnAugmentation
from tl_distributed.pixels.settings import PixelSettings
from tl_distributed.runtime.settings import RuntimeSettings
from tl_distributed.settings.recipes import expand_recipes
from tl_distributed.training.settings import OptimizationSettings, RunSettings

_Part = TypeVar("_Part")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(  # the last one's flags come first: so a dataclass orders the fields of its bases
    RunSettings,
    DataSettings,
    RuntimeSettings,
    OptimizationSettings,
    AugmentSettings,
    PixelSettings,
    BankSettings,
    ModelSettings,
):
    """Settings of one training run. `None` means: resolved from other settings (`resolved`).

    A room is handed its own part of them: `config.part(RuntimeSettings)`.
    """

    @staticmethod
    def expand_arguments(arguments: Sequence[str]) -> list[str]:
        """Puts the flags of `--recipe=NAME` in its place (`flags.parse_arguments` asks for it)."""
        return expand_recipes(arguments)

    def part(self, kind: type[_Part]) -> _Part:
        """Returns the settings of one room, of a class that is one of the bases."""
        return kind(**{field.name: getattr(self, field.name) for field in dataclasses.fields(kind)})

    def validate(self) -> None:
        """Raises `UserError` for combinations that cannot be meant; single values are checked by their flag."""
        for kind in (ModelSettings, BankSettings, RuntimeSettings, OptimizationSettings, RunSettings):
            self.part(kind).validate()
        self._check_own_augmentation()
        self._check_bank()
        backbone, transfer = self.backbone_row(), self.transfer_and_weights()[0]
        if self.image_size and self.image_size < backbone.minimum_size:
            raise UserError(
                f"--image_size={self.image_size}: {self.backbone} takes {backbone.minimum_size} pixels or more"
            )
        if self.layer_decay != 1 and transfer == "frozen":
            raise UserError(
                f"--layer_decay={self.layer_decay:g} has no effect with --transfer=frozen; drop one of them"
            )
        if self.virtual_devices and self.global_batch_size % self.virtual_devices and self.strategy != "one_device":
            raise UserError(
                f"--global_batch_size={self.global_batch_size} does not divide by "
                f"--virtual_devices={self.virtual_devices}"
            )

    def _check_own_augmentation(self) -> None:
        if self.augmentation and not is_own(self.augmentation):
            raise UserError(
                f"--augmentation={self.augmentation}: takes MODULE:FUNCTION of your own; --augment is the named set"
            )
        self.own_augmentation()
        if self.augmentation and self.bank_views:
            raise UserError(f"--bank_views={self.bank_views} banks no --augmentation of your own; drop one of them")

    def _check_bank(self) -> None:
        reason = self.why_nothing_to_bank()
        if self.feature_bank == "on" and reason:
            raise UserError(f"--feature_bank=on: {reason}")
        if self.bank_views and self.augment_settings().is_off:
            raise UserError(f"--bank_views={self.bank_views} has no effect without augmentation; drop it")

    def resolved(self, *, native_size: int) -> "Config":
        """Returns the config with every `None` and every "0 is automatic" of the model filled in.

        Args:
          native_size: Side in pixels of the data set's images, taken by backbones without a size of their own.
        """
        transfer, weights = self.transfer_and_weights()
        return dataclasses.replace(
            self,
            weights=weights,
            transfer=transfer,
            batch_norm=self.batch_norm_mode(),
            image_size=self.image_size or self.backbone_row().default_size or native_size,
            workdir=self.workdir
            or f"runs/{self.recipe or re.sub(r'[^.A-Za-z0-9_-]+', '_', f'{self.backbone}_{transfer}')}",
            **self.augment_settings().strengths(),
        )

    def augment_settings(self) -> AugmentSettings:
        """Returns the named set with the flags that were given put over it."""
        return self.part(AugmentSettings).resolved()

    def why_nothing_to_bank(self) -> str:
        """Returns why the settings leave no features to bank, or nothing where they do."""
        if self.augmentation:
            return f"--augmentation={self.augmentation} changes the images in every epoch"
        transfer, _ = self.transfer_and_weights()
        return why_nothing_to_bank(transfer, self.augment_settings(), bank_views=self.bank_views)

    def own_augmentation(self) -> OwnAugmentation | None:
        """Returns the augmentation of one's own, whose module is imported; `None` without."""
        if not self.augmentation:
            return None
        return OwnAugmentation(function_of("augmentation", self.augmentation), self.augmentation)

    def _may_name_modules(self) -> dict[str, str | tuple[str, ...]]:
        return {**super()._may_name_modules(), "task": self.task, "augmentation": self.augmentation}
