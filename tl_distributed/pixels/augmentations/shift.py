"""Shifts the view sideways, up and down by shares of its own size."""

import dataclasses

from tl_distributed.pixels.augmentation import SourceSize, Uniforms, View, strength, symmetric

ORDER, DRAWS = 30, (7, 8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    width_shift_fraction: float | None = strength(
        "Largest horizontal shift, as a share of the width", none=0.0, minimum=0, maximum=0.9
    )
    height_shift_fraction: float | None = strength(
        "Largest vertical shift, as a share of the height", none=0.0, minimum=0, maximum=0.9
    )


def change_view(view: View, uniforms: Uniforms, settings: Settings, source_size: SourceSize) -> View:
    if settings.width_shift_fraction > 0:
        shift = symmetric(uniforms[0], settings.width_shift_fraction) * view.span_x
        view = view._replace(center_x=view.center_x + shift)
    if settings.height_shift_fraction > 0:
        shift = symmetric(uniforms[1], settings.height_shift_fraction) * view.span_y
        view = view._replace(center_y=view.center_y + shift)
    return view
