"""Scales the size of the view by [1 - f, 1 + f] about its middle."""

import dataclasses

from tl_distributed.pixels.augmentation import SourceSize, Uniforms, View, strength, symmetric

ORDER, DRAWS = 40, (9,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    zoom_fraction: float | None = strength(
        "Largest zoom in or out, as a share of the size", none=0.0, minimum=0, maximum=0.9
    )


def change_view(view: View, uniforms: Uniforms, settings: Settings, source_size: SourceSize) -> View:
    factor = 1.0 + symmetric(uniforms[0], settings.zoom_fraction)
    return view._replace(span_x=view.span_x * factor, span_y=view.span_y * factor)
