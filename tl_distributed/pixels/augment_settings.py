"""Which augmentations there are, what each is in the named sets, and how strong a run has them.

An augmentation is declared here once: its flag, its range, its strength in each set. No TensorFlow: for `--help` and
checks.
"""

import dataclasses
from typing import Any

from tl_distributed.settings.flags import check_values, setting

PIXELS = "Pixels and augmentation"
_NAMES = ("none", "basic", "strong")


def _strength(help_text: str, *, none: Any, basic: Any = None, strong: Any = None, **limits: float) -> Any:
    """Declares an augmentation: its strength in each named set, where `None` is as in `none`, which is off."""
    field = setting(None, f"{help_text}; by default as --augment says.", topic=PIXELS, **limits)
    strengths = {"none": none, "basic": none if basic is None else basic, "strong": none if strong is None else strong}
    return dataclasses.field(default=None, metadata={**field.metadata, "strengths": strengths})


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """Strength of each augmentation; at what it has in the set `none` it is off and costs nothing.

    Random amounts are uniform over the range given unless said otherwise. What draws them takes settings after
    `resolved`; before, `None` is the strength of the named set.

    Attributes:
      augment: The named set.
      horizontal_flip: Mirror half of the images left to right.
      crop_padding_pixels: Shift the view by a whole number of source pixels in [-n, n] along each axis, as padding
        by n (reflected) and cropping back to the source's size does.
      resized_crop_min_area: Show a box of [this, 1] of the source's area and an aspect ratio (log-uniform) in
        [3/4, 4/3], anywhere inside of the image (Szegedy et al. 2015).
      width_shift_fraction: Shift sideways by a fraction of the view in [-f, f].
      height_shift_fraction: The same up or down.
      zoom_fraction: Scale the size of the view by [1 - f, 1 + f].
      rotation_degrees: Turn about the middle of the view by [-d, d] degrees.
      brightness_fraction: Add [-f, f] times 255, as `tf.image.adjust_brightness`.
      contrast_fraction: Scale the distance from each channel's mean by [1 - f, 1 + f], as `tf.image.adjust_contrast`.
      saturation_fraction: Scale the HSV saturation by [1 - f, 1 + f], as `tf.image.adjust_saturation`.
      random_erasing_probability: Share of images in which a box of 2 % to 33 % of the area and an aspect ratio
        (log-uniform) in [0.3, 3.3] is painted in one random colour (Zhong et al. 2017).
      mixup: Blend each image with another one, with weights from Beta(alpha, alpha) (Zhang et al. 2018); this is alpha.
      cutmix: Paste a box of another image, its area from Beta(alpha, alpha) (Yun et al. 2019). With both alphas above
        0, each image is either blended or pasted, with equal chances.
    """

    augment: str = setting("basic", "Named set of augmentations.", topic=PIXELS, choices=_NAMES)
    horizontal_flip: bool | None = _strength("Mirror half of the images", none=False, basic=True, strong=True)
    crop_padding_pixels: int | None = _strength(
        "Pad by this many source pixels, crop back", none=0, basic=4, minimum=0, maximum=4096
    )
    resized_crop_min_area: float | None = _strength(
        "Smallest share of the area that a random resized crop keeps, 1 is off",
        none=1.0, strong=0.35, minimum=0.01, maximum=1,
    )  # fmt: skip
    width_shift_fraction: float | None = _strength(
        "Largest horizontal shift, as a share of the width", none=0.0, minimum=0, maximum=0.9
    )
    height_shift_fraction: float | None = _strength(
        "Largest vertical shift, as a share of the height", none=0.0, minimum=0, maximum=0.9
    )
    zoom_fraction: float | None = _strength(
        "Largest zoom in or out, as a share of the size", none=0.0, minimum=0, maximum=0.9
    )
    rotation_degrees: float | None = _strength(
        "Largest rotation either way", none=0.0, strong=10.0, minimum=0, maximum=180
    )
    brightness_fraction: float | None = _strength(
        "Largest change of brightness, as a share of 255", none=0.0, strong=0.2, minimum=0, maximum=1
    )
    contrast_fraction: float | None = _strength(
        "Largest change of contrast", none=0.0, strong=0.2, minimum=0, maximum=1
    )
    saturation_fraction: float | None = _strength(
        "Largest change of saturation", none=0.0, strong=0.2, minimum=0, maximum=1
    )
    random_erasing_probability: float | None = _strength(
        "Share of images in which a rectangle is erased", none=0.0, strong=0.25, minimum=0, maximum=1
    )
    mixup: float | None = _strength(
        "Alpha of MixUp's Beta distribution, 0 is off", none=0.0, strong=0.2, minimum=0, maximum=10
    )
    cutmix: float | None = _strength(
        "Alpha of CutMix's Beta distribution, 0 is off", none=0.0, strong=1.0, minimum=0, maximum=10
    )

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

    @property
    def is_off(self) -> bool:
        """Whether images are shown as they are."""
        return all(getattr(self, name) == field.metadata["strengths"]["none"] for name, field in AUGMENTATIONS.items())

    @property
    def changes_geometry(self) -> bool:
        """Whether an image is ever shown other than whole and upright."""
        return (
            self.horizontal_flip
            or self.crop_padding_pixels > 0
            or self.resized_crop_min_area < 1
            or self.width_shift_fraction > 0
            or self.height_shift_fraction > 0
            or self.zoom_fraction > 0
            or self.rotation_degrees > 0
        )

    @property
    def changes_colour(self) -> bool:
        return self.brightness_fraction > 0 or self.contrast_fraction > 0 or self.saturation_fraction > 0

    @property
    def mixes_images(self) -> bool:
        """Whether labels are mixtures of two classes."""
        return self.mixup > 0 or self.cutmix > 0

    def strengths(self) -> dict[str, Any]:
        """Returns each augmentation's strength by name, whatever named set it came from."""
        return {name: getattr(self, name) for name in AUGMENTATIONS}


AUGMENTATIONS = {  # every augmentation's field, by name
    field.name: field for field in dataclasses.fields(AugmentSettings) if "strengths" in field.metadata
}
NAMED_AUGMENTATIONS = {name: AugmentSettings(augment=name).resolved() for name in _NAMES}
