"""What the files of `augmentations` are written with. No TensorFlow: for `--help` and checks."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from tl_distributed.settings.flags import setting

PIXELS = "Pixels and augmentation"
NAMED_SETS = ("none", "basic", "strong")
Tensor = Any  # a `tf.Tensor`
SourceSize = tuple[Any, Any]  # height and width in pixels: two numbers for all images, or `[batch] float32` each
Uniforms = Sequence[Tensor]  # `[batch] float32` in [0, 1) for each of an augmentation's draws


class View(NamedTuple):
    """The part of each source image that the output shows; all `[batch] float32`.

    Attributes:
      center_x, center_y: Middle of the view, in source pixels.
      span_x, span_y: Size of the view, in source pixels; negative mirrors that axis.
      angle: Radians by which the content turns counter-clockwise on the screen, or None for no rotation.
    """

    center_x: Tensor
    center_y: Tensor
    span_x: Tensor
    span_y: Tensor
    angle: Tensor | None


def strength(help_text: str, *, none: Any, basic: Any = None, strong: Any = None, **limits: float) -> Any:
    """Declares the flag of an augmentation: its strength in each named set; `None` is as in `none`, which is off."""
    field = setting(None, f"{help_text}; by default as --augment says.", topic=PIXELS, **limits)
    strengths = {"none": none, "basic": none if basic is None else basic, "strong": none if strong is None else strong}
    return dataclasses.field(default=None, metadata={**field.metadata, "strengths": strengths})


def symmetric(uniforms: Tensor, limit: float) -> Tensor:
    """Maps [0, 1) to [-limit, limit)."""
    return (2.0 * uniforms - 1.0) * limit


def lerp(first: Tensor, second: Tensor, share_of_second: Tensor) -> Tensor:
    """Blends two tensors linearly."""
    return first * (1.0 - share_of_second) + second * share_of_second
