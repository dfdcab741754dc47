"""Mirrors half of the images left to right."""

import dataclasses

from tl_distributed.pixels.augmentation import SourceSize, Uniforms, View, strength

ORDER, DRAWS = 50, (0,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    horizontal_flip: bool | None = strength("Mirror half of the images", none=False, basic=True, strong=True)


def change_view(view: View, uniforms: Uniforms, settings: Settings, source_size: SourceSize) -> View:
    import tensorflow as tf

    return view._replace(span_x=tf.where(uniforms[0] < 0.5, -view.span_x, view.span_x))
