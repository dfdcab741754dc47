"""Shows a box of random area and aspect ratio, anywhere inside of the image (Szegedy et al. 2015)."""

import dataclasses

from tl_distributed.pixels.augmentation import SourceSize, Uniforms, View, strength
from tl_distributed.pixels.boxes import random_box_size

ORDER, DRAWS = 10, (3, 4, 5, 6)
_ASPECT_RANGE = (3 / 4, 4 / 3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    resized_crop_min_area: float | None = strength(
        "Smallest share of the area that a random resized crop keeps, 1 is off",
        none=1.0, strong=0.35, minimum=0.01, maximum=1,
    )  # fmt: skip


def change_view(view: View, uniforms: Uniforms, settings: Settings, source_size: SourceSize) -> View:
    """Puts the box in place of the whole image: its area is uniform, its aspect ratio log-uniform."""
    area, aspect, x, y = uniforms
    height, width = source_size
    span_x, span_y = random_box_size(
        area,
        aspect,
        width=width,
        height=height,
        area_range=(settings.resized_crop_min_area, 1.0),
        aspect_range=_ASPECT_RANGE,
    )
    return view._replace(
        center_x=span_x / 2 + x * (width - span_x),
        center_y=span_y / 2 + y * (height - span_y),
        span_x=span_x,
        span_y=span_y,
    )
