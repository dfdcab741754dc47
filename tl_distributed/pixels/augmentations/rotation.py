"""Turns the image about the middle of its view by [-d, d] degrees."""

import dataclasses
import math

from tl_distributed.pixels.augmentation import SourceSize, Uniforms, View, strength, symmetric

ORDER, DRAWS = 60, (10,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    rotation_degrees: float | None = strength(
        "Largest rotation either way", none=0.0, strong=10.0, minimum=0, maximum=180
    )


def change_view(view: View, uniforms: Uniforms, settings: Settings, source_size: SourceSize) -> View:
    return view._replace(angle=symmetric(uniforms[0], math.radians(settings.rotation_degrees)))
