"""A picture file as a model takes it: the same decoding and fitting as at the build of the data set."""

import numpy as np
import tensorflow as tf

from tl_distributed.data.decode import UnreadableImage, decode_image
from tl_distributed.data.decode_settings import DecodeSettings
from tl_distributed.data.fit_rules import Fit
from tl_distributed.data.picture_files import open_file


def prepare_picture(
    path: str, *, size: int, fit: Fit, max_megapixels: float = DecodeSettings.max_megapixels
) -> np.ndarray:
    """Returns the image file at `path`, on any file system, as `[size, size, 3] uint8`.

    Args:
      path: Of a file.
      size: Height and width in pixels of the images that the model takes.
      fit: The model's rule, as in `fitting.resize_image`.
      max_megapixels: Million pixels that the picture may hold once decoded.

    Raises:
      UnreadableImage: The file cannot be read or decoded.
    """
    try:
        with open_file(path) as file:
            return decode_image(file.read(), size=size, fit=fit, max_megapixels=max_megapixels)
    except (OSError, tf.errors.OpError) as error:
        cause = getattr(error, "message", None) or getattr(error, "strerror", None) or error
        raise UnreadableImage(f"cannot be read ({cause})") from None
