"""`preview.png`: a few pictures of each class as they are stored, to see at a glance what was understood."""

import io
import os
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_prep.index import Index
from tl_distributed.data.fitting import resize_image
from tl_distributed.data.storing import StorageRule
from tl_distributed.errors import printable

PREVIEW_FILE = "preview.png"
_MOST_CLASSES, _PER_CLASS = 20, 8
_LARGEST, _GAP, _CAPTION_HEIGHT, _CAPTION_LETTERS = 96, 4, 16, 60  # pixels, but for the letters


def write_preview(
    folder: str, class_names: Sequence[str], order: np.ndarray, index: Index, read: Callable[[np.ndarray], list[bytes]],
    rule: StorageRule,
) -> None:  # fmt: skip
    """Writes the sheet: of up to 20 classes, spread evenly over all, up to eight pictures of train in a row.

    Args:
      folder: Local, of the build.
      class_names: In order of label.
      order: Indices of the images of train, in the order of its records.
      index: Of all images.
      read: Returns the stored bytes of some.
      rule: By which they are stored; one that is not square is fitted as it is when it is read.
    """
    size = rule.image_size
    side = min(size, _LARGEST)
    classes = np.unique(np.linspace(0, len(class_names) - 1, min(len(class_names), _MOST_CLASSES)).round().astype(int))
    row_height = _CAPTION_HEIGHT + side + _GAP
    width = max(_PER_CLASS * (side + _GAP) + _GAP, 320)
    sheet = Image.new("RGB", (width, row_height * len(classes) + _GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for row, label in enumerate(classes.tolist()):
        members = index.with_class(order, label)
        top = _GAP + row * row_height
        _write(
            draw, font, (_GAP, top), f"{printable(class_names[label])[:_CAPTION_LETTERS]}  ({len(members):,} in train)"
        )
        for column, stored in enumerate(read(members[:_PER_CLASS])):
            image = _fitted(stored, rule, side)
            sheet.paste(image, (_GAP + column * (side + _GAP), top + _CAPTION_HEIGHT))
    path = os.path.join(folder, PREVIEW_FILE)
    sheet.save(path, "PNG")
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _fitted(stored: bytes, rule: StorageRule, side: int) -> Image.Image:
    if rule.storage == "pixels":
        image = Image.frombytes("RGB", (rule.image_size, rule.image_size), stored)
    else:
        image = Image.open(io.BytesIO(stored)).convert("RGB")
    return Image.fromarray(resize_image(image, size=side, fit=rule.fit))


def _write(draw: ImageDraw.ImageDraw, font: object, place: tuple[int, int], text: str) -> None:
    """Writes text; a letter that the font cannot encode becomes a question mark, one without glyph an empty box."""
    try:
        draw.text(place, text, "black", font)
    except UnicodeEncodeError:  # Pillow's bitmap font, where it was built without FreeType, knows Latin-1 only
        draw.text(place, text.encode("latin-1", "replace").decode("latin-1"), "black", font)
