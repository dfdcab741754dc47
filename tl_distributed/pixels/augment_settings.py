"""Which augmentations a run uses and how strong they are; imports no TensorFlow, for `--help` and checks."""

import dataclasses

from tl_distributed.commandline import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """Strength of each augmentation; at 0 (at 1.0 for `resized_crop_min_area`) it is off and costs nothing.

    Random amounts are uniform over the range given unless said otherwise.

    Attributes:
      horizontal_flip: Mirror half of the images left to right.
      crop_padding_pixels: Shift the view by a whole number of source pixels in [-n, n] along each axis, as padding
        by n (reflected) and cropping back to the source's size does.
      resized_crop_min_area: Show a box of [this, 1] of the source's area and an aspect ratio (log-uniform) in
        [3/4, 4/3], anywhere inside of the image (Szegedy et al. 2015).
      width_shift_fraction: Shift sideways by a fraction of the view in [-f, f], at most 1.
      height_shift_fraction: The same up or down.
      zoom_fraction: Scale the size of the view by [1 - f, 1 + f], less than 1.
      rotation_degrees: Turn about the middle of the view by [-d, d] degrees, at most 180.
      brightness_fraction: Add [-f, f] times 255, at most 1, as `tf.image.adjust_brightness`.
      contrast_fraction: Scale the distance from each channel's mean by [1 - f, 1 + f], at most 1, as
        `tf.image.adjust_contrast`.
      saturation_fraction: Scale the HSV saturation by [1 - f, 1 + f], at most 1, as `tf.image.adjust_saturation`.
      random_erasing_probability: Share of images in which a box of 2 % to 33 % of the area and an aspect ratio
        (log-uniform) in [0.3, 3.3] is painted in one random colour (Zhong et al. 2017).
      mixup_alpha: Blend each image with another one, with weights from Beta(alpha, alpha) (Zhang et al. 2018).
      cutmix_alpha: Paste a box of another image, its area from Beta(alpha, alpha) (Yun et al. 2019). With both
        alphas above 0, each image is either blended or pasted, with equal chances.
    """

    horizontal_flip: bool
    crop_padding_pixels: int
    resized_crop_min_area: float
    width_shift_fraction: float
    height_shift_fraction: float
    zoom_fraction: float
    rotation_degrees: float
    brightness_fraction: float
    contrast_fraction: float
    saturation_fraction: float
    random_erasing_probability: float
    mixup_alpha: float
    cutmix_alpha: float

    def __post_init__(self):
        """Raises `UserError`, naming the setting, for a value outside of its range."""
        for name, upper in _UPPER_BOUNDS.items():
            value = getattr(self, name)
            if not 0 <= value <= upper:  # also refuses NaN
                raise UserError(f"--{_FLAGS.get(name, name)}={value:g}: takes 0 (off) to {upper:g}")
        if not 0 < self.resized_crop_min_area <= 1:
            raise UserError(f"--resized_crop_min_area={self.resized_crop_min_area:g}: takes above 0 to 1 (off)")

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
        return self.mixup_alpha > 0 or self.cutmix_alpha > 0


_UPPER_BOUNDS = {
    "crop_padding_pixels": 4096,
    "width_shift_fraction": 1.0,
    "height_shift_fraction": 1.0,
    "zoom_fraction": 0.99,
    "rotation_degrees": 180.0,
    "brightness_fraction": 1.0,
    "contrast_fraction": 1.0,
    "saturation_fraction": 1.0,
    "random_erasing_probability": 1.0,
    "mixup_alpha": 100.0,
    "cutmix_alpha": 100.0,
}
_FLAGS = {"mixup_alpha": "mixup", "cutmix_alpha": "cutmix"}  # where the flag's name is not the field's

_NONE = AugmentSettings(
    horizontal_flip=False,
    crop_padding_pixels=0,
    resized_crop_min_area=1.0,
    width_shift_fraction=0.0,
    height_shift_fraction=0.0,
    zoom_fraction=0.0,
    rotation_degrees=0.0,
    brightness_fraction=0.0,
    contrast_fraction=0.0,
    saturation_fraction=0.0,
    random_erasing_probability=0.0,
    mixup_alpha=0.0,
    cutmix_alpha=0.0,
)

NAMED_AUGMENTATIONS = {
    "none": _NONE,
    "basic": dataclasses.replace(_NONE, horizontal_flip=True, crop_padding_pixels=4),
    "strong": dataclasses.replace(
        _NONE,
        horizontal_flip=True,
        resized_crop_min_area=0.35,
        rotation_degrees=10.0,
        brightness_fraction=0.2,
        contrast_fraction=0.2,
        saturation_fraction=0.2,
        random_erasing_probability=0.25,
        mixup_alpha=0.2,
        cutmix_alpha=1.0,
    ),
}
