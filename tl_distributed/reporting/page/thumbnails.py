"""Small pictures inside a page."""

import base64
import io

import numpy as np
from PIL import Image

_SIDE_PIXELS = 112
_QUALITY = 78


def thumbnail_url(image: np.ndarray) -> str:
    """Returns `[height, width, 3] uint8` as a data URL: its longest side at most 112 pixels, 1 to 5 kB."""
    picture = Image.fromarray(image)
    picture.thumbnail((_SIDE_PIXELS, _SIDE_PIXELS))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
