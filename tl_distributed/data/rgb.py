"""Decoded images of every mode that Pillow knows to 8-bit RGB."""

import numpy as np
from PIL import Image, ImageCms, TiffImagePlugin

from tl_distributed.data.picture_file import UnreadableImage

_ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")
_WHITE_IS_ZERO = 0  # of a TIFF's photometric interpretation


def to_rgb(image: Image.Image, *, has_16_bits: bool = False) -> tuple[Image.Image, int | None]:
    """Converts a loaded image to mode RGB; what is transparent is laid on white.

    Args:
      image: As a plug-in of Pillow loaded it.
      has_16_bits: Whether the file has 16 bits a sample where the mode does not show it any more (RGB, LA).

    Returns:
      The image, and of a file with 16 bits a sample how many its largest value needs, 0 to 16; None of any other.

    Raises:
      UnreadableImage: Samples whose range is unknown: floating point, 32 bits.
    """
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        kind = "floating-point" if image.mode == "F" else "signed or 32-bit"
        raise UnreadableImage(f"{kind} samples, whose black and white nobody knows; convert it to 8 or 16 bits")
    if image.mode.startswith("I"):
        return _upper_byte(image)
    tags = getattr(image, "tag_v2", {})
    has_16_bits |= 16 in tags.get(TiffImagePlugin.BITSPERSAMPLE, ())
    return _eight_bit_rgb(image), _used_bits(image) if has_16_bits else None


def _upper_byte(image: Image.Image) -> tuple[Image.Image, int | None]:
    """Keeps the upper byte of grey; Pillow's own conversion would cut off at 255."""
    values = np.asarray(image).astype(np.int64)
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0]  # 12 where the header says so: not dark
    used_bits = int(values.max()).bit_length() if bits == 16 else None
    grey = np.clip(values >> (bits - 8), 0, 255).astype(np.uint8)
    if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == _WHITE_IS_ZERO:  # Pillow heeds it up to 8 bits
        grey, used_bits = 255 - grey, None
    return Image.fromarray(grey).convert("RGB"), used_bits


def _used_bits(image: Image.Image) -> int:
    extremes = image.getextrema()
    bands = extremes[: 3 if image.mode.startswith("RGB") else 1] if len(image.getbands()) > 1 else [extremes]
    return 8 + int(max(high for _, high in bands)).bit_length()


def _eight_bit_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        assert converted is not None  # as it is not in place
        return converted
    if image.format == "BMP" and image.mode == "RGBA" and image.getextrema()[3] == (0, 0):
        return image.convert("RGB")  # most programs leave the fourth byte of a BMP at 0, and viewers pass over it
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        if image.mode == "La":  # Pillow takes it to RGBA only in two steps
            image = image.convert("LA")
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
