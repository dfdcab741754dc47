"""Image files and arrays of any shape to `[size, size, 3] uint8`, by Pillow."""

import dataclasses
import io
import warnings

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin, features

from tl_distributed.data.decode_settings import DecodeSettings
from tl_distributed.data.fit_rules import Fit
from tl_distributed.data.fitting import resize_image
from tl_distributed.data.picture_file import (
    PictureFile,
    UnreadableImage,
    format_of,
    orientation_of,
    without_metadata,
)
from tl_distributed.data.rgb import to_rgb
from tl_distributed.errors import one_line

EXTENSIONS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".avif",
)  # fmt: skip
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "AVIF")
FORMATS_IN_WORDS = "JPEG, PNG, BMP, GIF, WebP, TIFF or AVIF"
_OPTIONAL_FORMATS = ("WEBP", "AVIF")  # Pillow can be built without them
# Of a JPEG much larger than the goal, the decoder skips frequencies that the resize would average away;
# twice the goal stays for the resize to filter.
_DRAFT_FACTOR = 2
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
_DARK_BITS = 12  # cameras, scanners and X-ray devices deliver 12 bits in files of 16

# Both are global, for Pillow knows nothing narrower that threads may use. Its limit counts the pixels of the file, not
# those that are decoded, and is replaced by `max_megapixels`; its warnings are about metadata.
Image.MAX_IMAGE_PIXELS = None
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclasses.dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
      pixels: `[size, size, 3] uint8` RGB.
      width: Of the file in pixels, upright.
      height: Of the file in pixels, upright.
      used_bits: Of a file with 16 bits a sample, how many the largest value needs, 0 to 16; None of any other.
    """

    pixels: np.ndarray
    width: int
    height: int
    used_bits: int | None = None

    @property
    def is_dark(self) -> bool:
        """Whether 12 bits or fewer are in use of 16, so that the upper byte, which is kept, is nearly black."""
        return self.used_bits is not None and 0 < self.used_bits <= _DARK_BITS


def decode_image(
    data: bytes, *, size: int, fit: Fit, max_megapixels: float = DecodeSettings.max_megapixels
) -> np.ndarray:
    """Returns the pixels of `decode_picture`, `[size, size, 3] uint8` RGB; same arguments, and raises the same."""
    return decode_picture(data, size=size, fit=fit, max_megapixels=max_megapixels).pixels


def decode_picture(
    data: bytes, *, size: int, fit: Fit, max_megapixels: float = DecodeSettings.max_megapixels
) -> Picture:
    """Decodes the first frame or page of a JPEG, PNG, BMP, GIF, WebP, TIFF or AVIF, told by content.

    The camera's orientation is applied; of other metadata nothing is looked at. Transparent pixels are laid on
    white. 16-bit samples keep their upper byte. CMYK is converted without a colour profile.

    Args:
      data: The file.
      size: Height and width of the result in pixels.
      fit: As in `resize_image`.
      max_megapixels: Million pixels that the decoder may hold; a JPEG is decoded at a half, a quarter or an eighth
        where that is at least twice `size`.

    Raises:
      UnreadableImage: Another format, truncated, damaged, too large, or with samples whose range is unknown.
    """
    format_name = format_of(data)
    if format_name not in FORMATS:
        known = f", but {format_name}" if format_name else ""
        raise UnreadableImage(f"not a {FORMATS_IN_WORDS}{known}" if data else "empty file")
    if format_name in _OPTIONAL_FORMATS and format_name.lower() not in features.get_supported_modules():
        raise UnreadableImage(f"this Pillow cannot read {format_name}; install a newer one: pip install -U pillow")
    try:
        file = without_metadata(data, format_name)
        with _open(file.data, format_name) as image:
            full = image.size
            image.draft(None, (_DRAFT_FACTOR * size, _DRAFT_FACTOR * size))
            _check_size(full if file.is_held_whole else _held_size(image), full, max_megapixels)
            image.load()
            return _finish(image, file, full, size=size, fit=fit)
    except UnreadableImage:
        raise
    except Image.UnidentifiedImageError:
        raise UnreadableImage(f"damaged {format_name}: its header cannot be read") from None
    except (
        Exception
    ) as error:  # on damaged bytes Pillow raises nearly anything: OSError, SyntaxError, struct.error, ...
        raise UnreadableImage(f"damaged {format_name}: {one_line(error) or type(error).__name__}") from None


def resize_array(pixels: np.ndarray, *, size: int, fit: Fit) -> np.ndarray:
    """Turns `[height, width, 1, 3 or 4]` uint8 or uint16 into `[size, size, 3] uint8` as `decode_image` does."""
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.shape[-1] == 3 and pixels.shape[:2] == (size, size):
        return pixels
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    return resize_image(to_rgb(image)[0], size=size, fit=fit)


class _FirstPage(TiffImagePlugin.TiffImageFile):
    """A TIFF without what Pillow does to it for its metadata's sake: turning it, rewriting EXIF, walking all pages."""

    def _setup(self) -> None:
        for tag in (TiffImagePlugin.X_RESOLUTION, TiffImagePlugin.Y_RESOLUTION, TiffImagePlugin.RESOLUTION_UNIT):
            if tag in self.tag_v2:
                del self.tag_v2[tag]
        super()._setup()
        self._size = self.tag_v2[TiffImagePlugin.IMAGEWIDTH], self.tag_v2[TiffImagePlugin.IMAGELENGTH]

    def load_end(self) -> None:
        pass


def _open(data: bytes, format_name: str) -> Image.Image:
    if format_name == "TIFF":
        return _FirstPage(io.BytesIO(data))
    return Image.open(io.BytesIO(data), formats=(format_name,))


def _held_size(image: Image.Image) -> tuple[int, int]:
    """Returns the size in pixels of what the decoder holds: the image, or a tile of a TIFF that is larger than it."""
    tags = getattr(image, "tag_v2", {})
    width, height = (tags.get(tag, 0) for tag in (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH))
    return max(image.size, (width, height), key=lambda size: size[0] * size[1])


def _check_size(held: tuple[int, int], full: tuple[int, int], max_megapixels: float) -> None:
    megapixels = held[0] * held[1] / 1e6
    if megapixels > max_megapixels:
        raise UnreadableImage(
            f"{full[0]:,} x {full[1]:,} pixels are {megapixels:,.1f} megapixels to decode, "
            f"more than --max_megapixels={max_megapixels:g}; shrink it, or raise the flag if memory allows"
        )


def _finish(image: Image.Image, file: PictureFile, full: tuple[int, int], *, size: int, fit: Fit) -> Picture:
    """Makes a loaded image RGB, turns it upright and resizes it."""
    rgb, used_bits = to_rgb(image, has_16_bits=file.has_16_bits)
    orientation = file.orientation or _orientation(image)
    if orientation in _TURNS:
        rgb = rgb.transpose(_TURNS[orientation])
    width, height = full[::-1] if orientation in _SIDEWAYS else full
    pixels = resize_image(rgb, size=size, fit=fit)
    return Picture(pixels, width, height, used_bits)


def _orientation(image: Image.Image) -> int | None:
    """Returns the orientation that a WebP, AVIF or TIFF says, or None."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return image.tag_v2.get(ExifTags.Base.Orientation)
    return orientation_of(image.info.get("exif", b""), image.info.get("xmp", b""))
