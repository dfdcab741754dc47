"""The strengths of all augmentations, and what they are in the named sets. No TensorFlow: for `--help` and checks."""

import dataclasses
from types import ModuleType
from typing import Any

from tl_distributed.pixels.augmentation import NAMED_SETS, PIXELS
from tl_distributed.pixels.augmentations import MODULES
from tl_distributed.settings.flags import check_values, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class _NamedSet:
    augment: str = setting("basic", "Named set of augmentations.", topic=PIXELS, choices=NAMED_SETS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentSettings(  # a dataclass takes the fields of its last base first
    *(module.Settings for module in reversed(MODULES)), _NamedSet
):
    """The named set, and the strength of each augmentation: flat, the fields of all `augmentations`.

    What draws them takes settings after `resolved`; before, `None` is the strength of the named set.
    """

    def __post_init__(self) -> None:
        """Raises `UserError`, naming the flag, for a strength outside of its range."""
        check_values(self, AUGMENTATIONS.values())

    def resolved(self) -> "AugmentSettings":
        """Returns the settings with every `None` filled in from the named set."""
        filled = {
            name: field.metadata["strengths"][self.augment]
            for name, field in AUGMENTATIONS.items()
            if getattr(self, name) is None
        }
        return dataclasses.replace(self, **filled)

    def switched_on(self) -> list[ModuleType]:
        """Returns the augmentations that are not off, in the order in which they work."""
        found = (module for module in MODULES if any(map(self._is_on, module.Settings.__dataclass_fields__)))
        return sorted(found, key=lambda module: module.ORDER)

    def _is_on(self, name: str) -> bool:
        return getattr(self, name) != AUGMENTATIONS[name].metadata["strengths"]["none"]

    @property
    def is_off(self) -> bool:
        """Whether images are shown as they are."""
        return not self.switched_on()

    @property
    def mixes_images(self) -> bool:
        """Whether labels are mixtures of two classes."""
        return bool(self.flags_against_mixing())

    def flags_against_mixing(self) -> list[str]:
        """Returns the flags that switch off what mixes images, as far as it is on."""
        mixing = (module for module in self.switched_on() if hasattr(module, "mix"))
        names = (name for module in mixing for name in module.Settings.__dataclass_fields__ if self._is_on(name))
        return [f"--{name}={AUGMENTATIONS[name].metadata['strengths']['none']:g}" for name in names]

    def strengths(self) -> dict[str, Any]:
        """Returns each augmentation's strength by name, whatever named set it came from."""
        return {name: getattr(self, name) for name in AUGMENTATIONS}


AUGMENTATIONS = {  # every augmentation's field, by name
    field.name: field for field in dataclasses.fields(AugmentSettings) if "strengths" in field.metadata
}
NAMED_AUGMENTATIONS = {name: AugmentSettings(augment=name).resolved() for name in NAMED_SETS}
