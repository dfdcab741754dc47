"""`preview.png`: a few pictures of each class as they are stored, to see at a glance what was understood."""

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_prep.spill import PixelFile
from tl_distributed.errors import printable

PREVIEW_FILE = "preview.png"
_MOST_CLASSES, _PER_CLASS = 20, 8
_LARGEST, _GAP, _CAPTION_HEIGHT, _CAPTION_LETTERS = 96, 4, 16, 60  # pixels, but for the letters


def write_preview(
    folder: str, class_names: Sequence[str], order: np.ndarray, labels: np.ndarray, pixel_file: PixelFile, size: int
) -> None:
    """Writes the sheet: of up to 20 classes, spread evenly over all, up to eight pictures of train in a row.

    Args:
      folder: Local, of the build.
      class_names: In order of label.
      order: Indices of the images of train, in the order of its records.
      labels: `[n]` class indices of all images.
      pixel_file: Their pixels, `[size, size, 3] uint8` each.
      size: Height and width of the stored images.
    """
    side = min(size, _LARGEST)
    classes = np.unique(np.linspace(0, len(class_names) - 1, min(len(class_names), _MOST_CLASSES)).round().astype(int))
    row_height = _CAPTION_HEIGHT + side + _GAP
    width = max(_PER_CLASS * (side + _GAP) + _GAP, 320)
    sheet = Image.new("RGB", (width, row_height * len(classes) + _GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for row, label in enumerate(classes.tolist()):
        members = order[labels[order] == label]
        top = _GAP + row * row_height
        _write(
            draw, font, (_GAP, top), f"{printable(class_names[label])[:_CAPTION_LETTERS]}  ({len(members):,} in train)"
        )
        for column, pixels in enumerate(pixel_file.read(members[:_PER_CLASS])):
            image = Image.frombytes("RGB", (size, size), pixels)
            image = image if side == size else image.resize((side, side), Image.Resampling.BILINEAR)
            sheet.paste(image, (_GAP + column * (side + _GAP), top + _CAPTION_HEIGHT))
    path = os.path.join(folder, PREVIEW_FILE)
    sheet.save(path, "PNG")
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _write(draw: ImageDraw.ImageDraw, font: object, place: tuple[int, int], text: str) -> None:
    """Writes text; a letter that the font cannot encode becomes a question mark, one without glyph an empty box."""
    try:
        draw.text(place, text, "black", font)
    except UnicodeEncodeError:  # Pillow's bitmap font, where it was built without FreeType, knows Latin-1 only
        draw.text(place, text.encode("latin-1", "replace").decode("latin-1"), "black", font)
