"""Shifts the view by whole source pixels, as padding (reflected) and cropping back to the source's size does."""

import dataclasses

from tl_distributed.pixels.augmentation import SourceSize, Uniforms, View, strength

ORDER, DRAWS = 20, (1, 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    crop_padding_pixels: int | None = strength(
        "Pad by this many source pixels, crop back", none=0, basic=4, minimum=0, maximum=4096
    )


def change_view(view: View, uniforms: Uniforms, settings: Settings, source_size: SourceSize) -> View:
    """Moves by -n to n pixels along each axis, equally likely."""
    import tensorflow as tf

    limit = settings.crop_padding_pixels
    x, y = (tf.floor(uniform * (2 * limit + 1)) - limit for uniform in uniforms)
    return view._replace(center_x=view.center_x + x, center_y=view.center_y + y)
