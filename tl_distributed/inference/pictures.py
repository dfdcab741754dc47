"""A picture file as a model takes it: stored, read and fitted as the pictures were that it was trained on."""

import dataclasses

import numpy as np
import tensorflow as tf

from tl_distributed.data.canvas import decode_to_canvas
from tl_distributed.data.decode import UnreadableImage, decode_image
from tl_distributed.data.decode_settings import DecodeSettings
from tl_distributed.data.fit_rules import Fit
from tl_distributed.data.picture_files import open_file
from tl_distributed.data.records import MOST_CANVAS
from tl_distributed.data.storage import Storage
from tl_distributed.data.storing import StorageRule
from tl_distributed.errors import one_line
from tl_distributed.pixels.fit import evaluation_view


@dataclasses.dataclass(frozen=True)
class PictureRule:
    """How the file of a picture becomes the square that a model takes.

    Attributes:
      size: Height and width of the square in pixels.
      fit: What becomes of a picture that is not square, as in `fitting.resize_image`.
      storage: Of the data set that the model was trained on, as in `DatasetInfo`.
      stored_size: Its `image_size`, where `storage` is not "pixels".
    """

    size: int
    fit: Fit
    storage: Storage = "pixels"
    stored_size: int = 0


def prepare_picture(
    path: str, rule: PictureRule, *, max_megapixels: float = DecodeSettings.max_megapixels
) -> np.ndarray:
    """Returns the image file at `path`, on any file system, as `[size, size, 3] uint8`.

    Pixels are those that training's evaluation sees of the same file in a data set, whatever its storage.

    Args:
      path: Of a file.
      rule: The model's.
      max_megapixels: Million pixels that the picture may hold once decoded.

    Raises:
      UnreadableImage: The file cannot be read or decoded.
    """
    try:
        with open_file(path) as file:
            data = file.read()
    except (OSError, tf.errors.OpError) as error:
        cause = getattr(error, "message", None) or getattr(error, "strerror", None) or error
        raise UnreadableImage(f"cannot be read ({cause})") from None
    if rule.storage == "pixels":
        return decode_image(data, size=rule.size, fit=rule.fit, max_megapixels=max_megapixels)
    stored = StorageRule(
        storage=rule.storage, image_size=rule.stored_size, fit=rule.fit, seed=0, max_megapixels=max_megapixels
    ).store_file(data)
    try:
        # As wide as any data set's: the data set of the model may hold no picture as long as this one.
        canvas, sizes = decode_to_canvas(
            tf.constant(stored.image), image_size=rule.stored_size, canvas_size=MOST_CANVAS * rule.stored_size
        )
    except tf.errors.OpError as error:
        raise UnreadableImage(f"TensorFlow cannot decode it ({one_line(error)})") from None
    return fitted_squares(canvas[tf.newaxis], sizes[tf.newaxis], size=rule.size, fit=rule.fit)[0]


def fitted_squares(
    images: np.ndarray | tf.Tensor, sizes: np.ndarray | tf.Tensor | None, *, size: int, fit: Fit | None
) -> np.ndarray:
    """Returns pictures on canvases as `[n, size, size, 3] uint8`, the pixels that evaluation sees.

    Args:
      images: `[n, height, width, 3] uint8`.
      sizes: `[n, 2] int32`, heights and widths on canvases; of `None`, images are returned as they are.
      size: Edge of the squares, in pixels.
      fit: As in `PictureRule`; for canvases alone.
    """
    if sizes is None:
        return np.asarray(images)
    return tf.cast(evaluation_view(images, sizes, image_size=size, fit=fit), tf.uint8).numpy()
