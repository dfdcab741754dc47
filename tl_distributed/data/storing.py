"""What of a picture is stored: its fitted pixels, a JPEG of the whole, or the file as it was."""

import dataclasses
import hashlib
import io
import struct

import numpy as np
from PIL import Image

from tl_distributed.data.decode import LoadedPicture, UnreadableImage, load_picture, rgb_of_array
from tl_distributed.data.decode_settings import DecodeSettings
from tl_distributed.data.decoded_bytes import DecodedBytes
from tl_distributed.data.fit_rules import Fit
from tl_distributed.data.fitting import resize_image
from tl_distributed.data.picture_file import format_of
from tl_distributed.data.storage import Storage

CONTENT_HASH = "BLAKE2b-128 of the pixels at the stored size, keyed by the seed"
HASH_BYTES = 16
_HELD_BYTES = 2**28  # of decoded pixels in all threads, but for one picture that is larger
_JPEG = {"format": "JPEG", "quality": 95, "subsampling": 0}  # 4:4:4: colours at full resolution
_MOST_JPEG_SIDE = 65_500
_COMPARED_FORMATS = ("BMP", "GIF")  # without loss, and of more kinds than TensorFlow's decoders know
_PHOTOGRAPH_BYTES = 2**21  # of a file whose size is not known before it is read


@dataclasses.dataclass(frozen=True)
class Stored:
    """A picture as its record holds it.

    Attributes:
      image: Raw pixels, or a file.
      height: In pixels, of the stored picture.
      width: Likewise.
      content: `HASH_BYTES` that are the same for equal pixels.
      source_size: (width, height) in pixels of the source's picture, upright; (0, 0) where that is what is stored.
      used_bits: As in `LoadedPicture`.
    """

    image: bytes
    height: int
    width: int
    content: bytes
    source_size: tuple[int, int] = (0, 0)
    used_bits: int | None = None


class StorageRule:
    """Makes `Stored` of pictures; from any thread."""

    def __init__(
        self, *, storage: Storage, image_size: int, fit: Fit, seed: int,
        max_megapixels: float = DecodeSettings.max_megapixels,
    ):  # fmt: skip
        """Sets the rule.

        Args:
          storage: As in `DatasetInfo`.
          image_size: Likewise.
          fit: Likewise; followed here for "pixels" alone.
          seed: Key of the hash of the contents.
          max_megapixels: Million pixels that a decoder may hold.
        """
        self.storage, self.image_size, self.fit, self.seed = storage, image_size, fit, seed
        self._max_megapixels = max_megapixels
        self._held = DecodedBytes(_HELD_BYTES)

    def __reduce__(self) -> tuple:
        return _rule_of, (self.storage, self.image_size, self.fit, self.seed, self._max_megapixels)

    @property
    def most_bytes(self) -> int:
        """About the bytes that `Stored.image` of an ordinary photograph has at most."""
        if self.storage == "original":
            return _PHOTOGRAPH_BYTES
        return 3 * self.image_size**2 // (1 if self.storage == "pixels" else 4)

    def store_file(self, data: bytes) -> Stored:
        """Stores a picture's file.

        Raises:
          UnreadableImage: As `load_picture`.
        """
        with load_picture(data, size=self.image_size, max_megapixels=self._max_megapixels, held=self._held) as loaded:
            if self.storage == "original" and loaded.is_plain:
                stored = self._kept(data, loaded)
            else:
                stored = self._made(loaded.image)
            size, bits = (loaded.width, loaded.height), loaded.used_bits
        if stored.image is data and not self._tensorflow_decodes(data, stored):
            with load_picture(data, size=self.image_size, max_megapixels=self._max_megapixels) as loaded:
                stored = self._made(loaded.image)
        return dataclasses.replace(stored, source_size=size, used_bits=bits)

    def store_array(self, pixels: np.ndarray) -> Stored:
        """Stores a picture that a source holds as `[height, width, 1, 3 or 4]` uint8 or uint16."""
        height, width, channels = pixels.shape
        if self.storage == "pixels" and (height, width, channels, pixels.dtype) == (
            self.image_size, self.image_size, 3, np.uint8,
        ):  # fmt: skip
            return self._raw(np.ascontiguousarray(pixels))
        return self._made(rgb_of_array(pixels))

    def _made(self, image: Image.Image) -> Stored:
        if self.storage == "pixels":
            return self._raw(resize_image(image, size=self.image_size, fit=self.fit))
        image = shrunk(image, self.image_size)
        if max(image.size) > _MOST_JPEG_SIDE:
            raise UnreadableImage(f"{image.width:,} x {image.height:,} pixels: a JPEG has at most {_MOST_JPEG_SIDE:,}")
        buffer = io.BytesIO()
        image.save(buffer, **_JPEG)
        return Stored(buffer.getvalue(), image.height, image.width, self._hash_of(image))

    def _raw(self, pixels: np.ndarray) -> Stored:
        data = pixels.tobytes()
        return Stored(data, self.image_size, self.image_size, self._hash(data))

    def _kept(self, data: bytes, loaded: LoadedPicture) -> Stored:
        return Stored(data, loaded.height, loaded.width, self._hash_of(shrunk(loaded.image, self.image_size)))

    def _tensorflow_decodes(self, data: bytes, stored: Stored) -> bool:
        """Tells whether TensorFlow makes the same picture of the file; what it refuses, readers cannot have.

        It takes the numbers in a BMP's palette for grey, and heeds neither its masks nor its compression, so there the
        pixels are compared; elsewhere the size.
        """
        import tensorflow as tf

        try:
            with tf.device("/cpu:0"):
                pixels = tf.io.decode_image(data, channels=3, expand_animations=False).numpy()
        except tf.errors.OpError:
            return False
        if pixels.shape != (stored.height, stored.width, 3):
            return False
        if format_of(data) not in _COMPARED_FORMATS:
            return True
        return self._hash_of(shrunk(Image.fromarray(pixels), self.image_size)) == stored.content

    def _hash_of(self, image: Image.Image) -> bytes:
        return self._hash(struct.pack("<II", *image.size) + image.tobytes())

    def _hash(self, content: bytes) -> bytes:
        return hashlib.blake2b(content, digest_size=HASH_BYTES, key=self.seed.to_bytes(8, "little")).digest()


def shrunk(image: Image.Image, size: int) -> Image.Image:
    """Returns the image with its shorter side `size`, bilinear and antialiased; one that is smaller stays as it is."""
    short, long = sorted(image.size)
    if short <= size:
        return image
    other = round(long * size / short)
    goal = (size, other) if image.width <= image.height else (other, size)
    return image.resize(goal, Image.Resampling.BILINEAR)


def _rule_of(storage: Storage, image_size: int, fit: Fit, seed: int, max_megapixels: float) -> StorageRule:
    return StorageRule(storage=storage, image_size=image_size, fit=fit, seed=seed, max_megapixels=max_megapixels)
