"""Image files and arrays of any shape to `[size, size, 3] uint8`, by Pillow."""

import contextlib
import dataclasses
import io
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin, features

from tl_distributed.data.decode_settings import DecodeSettings
from tl_distributed.data.decoded_bytes import DecodedBytes
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
_HELD_BYTES_PER_PIXEL = 8  # Pillow takes 4 a pixel, and as many while it turns or converts a picture
_COUNTED_BYTES = 2**17  # a picture that holds less is not counted, which would take a tenth of its time
# Formats and modes that TensorFlow's decoders make the same pixels of; not CMYK, nor anything transparent.
_TENSORFLOW_FORMATS, _TENSORFLOW_MODES = ("JPEG", "PNG", "BMP", "GIF", "WEBP"), ("RGB", "L", "P", "1")
_UPRIGHT = (None, 1)
_DARK_BITS = 12  # cameras, scanners and X-ray devices deliver 12 bits in files of 16

# Both are global, for Pillow knows nothing narrower that threads may use. Its limit counts the pixels of the file, not
# those that are decoded, and is replaced by `max_megapixels`; its warnings are about metadata.
Image.MAX_IMAGE_PIXELS = None
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclasses.dataclass(frozen=True)
class LoadedPicture:
    """A picture that a decoder holds.

    Attributes:
      image: Mode RGB, upright; of a large JPEG a half, a quarter or an eighth in size.
      width: Of the file in pixels, upright.
      height: Of the file in pixels, upright.
      used_bits: Of a file with 16 bits a sample, how many the largest value needs, 0 to 16; None of any other.
      is_plain: Whether TensorFlow's decoders should make the same pixels of the file: by its format and mode, and since
        nothing of it asks to be turned, laid on white or cut to 8 bits.
    """

    image: Image.Image
    width: int
    height: int
    used_bits: int | None = None
    is_plain: bool = False

    @property
    def is_dark(self) -> bool:
        """Whether 12 bits or fewer are in use of 16, so that the upper byte, which is kept, is nearly black."""
        return is_dark(self.used_bits)


@dataclasses.dataclass(frozen=True)
class Picture:
    """A decoded and fitted picture: `pixels [size, size, 3] uint8` RGB; else as in `LoadedPicture`."""

    pixels: np.ndarray
    width: int
    height: int
    used_bits: int | None = None

    @property
    def is_dark(self) -> bool:
        """As in `LoadedPicture`."""
        return is_dark(self.used_bits)


def is_dark(used_bits: int | None) -> bool:
    """Tells whether a picture of 16 bits a sample that uses so many is nearly black in its upper byte."""
    return used_bits is not None and 0 < used_bits <= _DARK_BITS


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
      UnreadableImage: As `load_picture`.
    """
    with load_picture(data, size=size, max_megapixels=max_megapixels) as loaded:
        pixels = resize_image(loaded.image, size=size, fit=fit)
        return Picture(pixels, loaded.width, loaded.height, loaded.used_bits)


@contextlib.contextmanager
def load_picture(
    data: bytes, *, size: int, max_megapixels: float = DecodeSettings.max_megapixels, held: DecodedBytes | None = None
) -> Iterator[LoadedPicture]:
    """Decodes as `decode_picture` does, before the fitting.

    Args:
      data: The file.
      size: Height and width in pixels that will be wanted.
      max_megapixels: As in `decode_picture`.
      held: Waits until the decoders that share it may hold the picture, and counts it as held within the context.

    Raises:
      UnreadableImage: Another format, truncated, damaged, too large, or with samples whose range is unknown.
    """
    format_name = format_of(data)
    if format_name not in FORMATS:
        known = f", but {format_name}" if format_name else ""
        raise UnreadableImage(f"not a {FORMATS_IN_WORDS}{known}" if data else "empty file")
    if format_name in _OPTIONAL_FORMATS and format_name.lower() not in features.get_supported_modules():
        raise UnreadableImage(f"this Pillow cannot read {format_name}; install a newer one: pip install -U pillow")
    with contextlib.ExitStack() as stack:
        try:
            file = without_metadata(data, format_name)
            image = stack.enter_context(_open(file.data, format_name))
            full = image.size
            image.draft(None, (_DRAFT_FACTOR * size, _DRAFT_FACTOR * size))
            width, height = full if file.is_held_whole else _held_size(image)
            _check_size((width, height), full, max_megapixels)
            held_bytes = width * height * _HELD_BYTES_PER_PIXEL
            if held is not None and held_bytes > _COUNTED_BYTES:
                stack.enter_context(held.hold(held_bytes))
            image.load()
            loaded = _finish(image, file, full)
        except UnreadableImage:
            raise
        except Image.UnidentifiedImageError:
            raise UnreadableImage(f"damaged {format_name}: its header cannot be read") from None
        except (
            Exception
        ) as error:  # on damaged bytes Pillow raises nearly anything: OSError, SyntaxError, struct.error, ...
            raise UnreadableImage(f"damaged {format_name}: {one_line(error) or type(error).__name__}") from None
        yield loaded


def rgb_of_array(pixels: np.ndarray) -> Image.Image:
    """Turns `[height, width, 1, 3 or 4]` uint8 or uint16 into an RGB image as `decode_image` does."""
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    return to_rgb(Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))[0]


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
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return image.size
    width, height = (image.tag_v2.get(tag, 0) for tag in (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH))
    return max(image.size, (width, height), key=lambda size: size[0] * size[1])


def _check_size(held: tuple[int, int], full: tuple[int, int], max_megapixels: float) -> None:
    megapixels = held[0] * held[1] / 1e6
    if megapixels > max_megapixels:
        raise UnreadableImage(
            f"{full[0]:,} x {full[1]:,} pixels are {megapixels:,.1f} megapixels to decode, "
            f"more than --max_megapixels={max_megapixels:g}; shrink it, or raise the flag if memory allows"
        )


def _finish(image: Image.Image, file: PictureFile, full: tuple[int, int]) -> LoadedPicture:
    """Makes a loaded image RGB and turns it upright."""
    orientation = file.orientation or _orientation(image)
    is_plain = (
        image.format in _TENSORFLOW_FORMATS
        and image.mode in _TENSORFLOW_MODES
        and "transparency" not in image.info
        and orientation in _UPRIGHT
        and not file.has_16_bits
    )
    rgb, used_bits = to_rgb(image, has_16_bits=file.has_16_bits)
    if orientation in _TURNS:
        rgb = rgb.transpose(_TURNS[orientation])
    width, height = full[::-1] if orientation in _SIDEWAYS else full
    return LoadedPicture(rgb, width, height, used_bits, is_plain)


def _orientation(image: Image.Image) -> int | None:
    """Returns the orientation that a WebP, AVIF or TIFF says, or None."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return image.tag_v2.get(ExifTags.Base.Orientation)
    return orientation_of(image.info.get("exif", b""), image.info.get("xmp", b""))
