"""Settings of what the backbone is shown of an image, beside augmentation."""

import dataclasses

from tl_distributed.data.fit_rules import FITS
from tl_distributed.pixels.augmentation import PIXELS
from tl_distributed.settings.flags import setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixelSettings:
    """Flags of the image that the backbone sees."""

    image_size: int = setting(
        0, "Side in pixels that the backbone sees; 0 is the backbone's own.", topic=PIXELS, minimum=0, maximum=2048
    )
    fit: str = setting(
        "auto",
        "What becomes of a picture that is not square, where the data set stores it whole: crop its largest centred "
        "square, pad it with black, or squash it; auto is as the data set says.",
        topic=PIXELS,
        choices=("auto", *FITS),
    )
    augmentation: str = setting(
        "",
        "MODULE:FUNCTION of your own, after the built-in augmentations: a pure function of images "
        "[batch, side, side, 3] float32 in [0, 255], targets [batch, classes] float32 and uniforms [batch, 16] float32 "
        "in [0, 1) that returns images and targets; it is compiled with the rest.",
        topic=PIXELS,
    )
