"""How a picture of any shape becomes a square: one rule, from the build of a data set to the last prediction."""

import numpy as np
from PIL import Image

from tl_distributed.data.fit_rules import FITS, Fit


def resize_image(image: Image.Image, *, size: int, fit: Fit) -> np.ndarray:
    """Resizes an RGB image to `[size, size, 3] uint8`, bilinear and antialiased.

    Args:
      image: Of any height and width.
      size: Height and width of the result in pixels.
      fit: Of an image that is not square: "squash" changes its aspect ratio, "crop" cuts the largest centred square
        out, "pad" keeps all of it in the middle of black, as Keras's `pad_to_aspect_ratio` does.
    """
    if fit not in FITS:
        raise ValueError(f"fit {fit!r}: takes one of {', '.join(FITS)}")
    if fit == "pad" and image.width != image.height:
        return _padded(image, size)
    if fit == "crop" and image.width != image.height:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image)


def _padded(image: Image.Image, size: int) -> np.ndarray:
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    canvas = Image.new("RGB", (size, size))
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    canvas.paste(resized, ((size - width) // 2, (size - height) // 2))
    return np.asarray(canvas)
