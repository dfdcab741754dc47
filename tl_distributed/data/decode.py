"""Image files and arrays of any shape to `[size, size, 3] uint8`, by Pillow."""

import io

import numpy as np
from PIL import Image, ImageOps

EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif")
FORMATS = ("JPEG", "PNG", "BMP", "GIF")
# Of a JPEG much larger than the goal, the decoder skips frequencies that the resize would average away;
# twice the goal stays for the resize to filter.
_DRAFT_FACTOR = 2


class UnreadableImage(ValueError):
    """The bytes are no image of the four formats, or are damaged; the message says how."""


def decode_image(data: bytes, *, size: int, crop_to_aspect_ratio: bool) -> np.ndarray:
    """Decodes the first frame of a JPEG, PNG, BMP or GIF to `[size, size, 3] uint8` RGB.

    The camera's orientation (EXIF) is applied. Transparent pixels are laid on white. 16-bit grey keeps its
    upper byte. CMYK is converted without a colour profile.

    Args:
      data: The file.
      size: Height and width of the result in pixels.
      crop_to_aspect_ratio: As in `resize_image`.

    Raises:
      UnreadableImage: Another format, truncated, damaged, or of a size that only an attack has.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.draft(None, (_DRAFT_FACTOR * size, _DRAFT_FACTOR * size))
            image.load()
            upright = ImageOps.exif_transpose(image)
            return resize_image(_to_rgb(upright), size=size, crop_to_aspect_ratio=crop_to_aspect_ratio)
    except Image.UnidentifiedImageError:
        known = "empty file" if not data else "not a JPEG, PNG, BMP or GIF"
        raise UnreadableImage(known) from None
    except Image.DecompressionBombError as error:
        raise UnreadableImage(str(error)) from None
    except (
        Exception
    ) as error:  # on damaged bytes Pillow raises nearly anything: OSError, SyntaxError, struct.error, ...
        raise UnreadableImage(f"{error or type(error).__name__}") from None


def resize_image(image: Image.Image, *, size: int, crop_to_aspect_ratio: bool) -> np.ndarray:
    """Resizes an RGB image to `[size, size, 3] uint8`, bilinear and antialiased.

    Args:
      image: Of any height and width.
      size: Height and width of the result in pixels.
      crop_to_aspect_ratio: Whether to cut the largest centred square first; otherwise the image is squashed.
    """
    if crop_to_aspect_ratio and image.width != image.height:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image)


def resize_array(pixels: np.ndarray, *, size: int, crop_to_aspect_ratio: bool) -> np.ndarray:
    """Turns `[height, width, 1, 3 or 4]` uint8 or uint16 into `[size, size, 3] uint8` as `decode_image` does."""
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.shape[-1] == 3 and pixels.shape[:2] == (size, size):
        return pixels
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    return resize_image(_to_rgb(image), size=size, crop_to_aspect_ratio=crop_to_aspect_ratio)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would cut off at 255
        pixels = np.asarray(image).astype(np.int64)
        return Image.fromarray(np.clip(pixels >> 8, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
