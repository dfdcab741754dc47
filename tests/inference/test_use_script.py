"""The script of an export sees a picture as `predict` does, whatever kind of picture it is."""

import io
import sys

import numpy as np
import pytest
from PIL import Image, ImageOps

from tl_distributed.data.decode import decode_image
from tl_distributed.data.fit_rules import FITS
from tl_distributed.inference.model_info import ModelInfo
from tl_distributed.inference.use_script import use_script

SIZE = 8
FORMATS = {**dict.fromkeys(("RGB", "RGBA", "LA", "L", "P", "1"), "PNG"), "CMYK": "JPEG", "turned": "JPEG"}


def picture(kind: str) -> bytes:
    """Returns a file of 48 x 24 pixels, a quarter of it red, which is transparent where the kind knows that."""
    pixels = np.zeros((24, 48, 4), np.uint8)
    pixels[:, :24], pixels[:12, :24, 3] = (200, 30, 30, 255), 0
    pixels[:, 24:] = (30, 160, 90, 255)
    image, buffer, options = Image.fromarray(pixels), io.BytesIO(), {}
    if kind == "P":
        image = image.convert("RGB").quantize(4)
        options["transparency"] = image.getpixel((0, 0))
    elif kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by a quarter
        image, options = image.convert("RGB"), {"exif": exif}
    else:
        image = image.convert(kind, dither=Image.Dither.NONE)
    image.save(buffer, FORMATS[kind], **options)
    return buffer.getvalue()


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("kind", FORMATS)
def test_pixels_are_those_of_predict(kind, fit, tmp_path, monkeypatch):
    path = tmp_path / "picture"
    path.write_bytes(picture(kind))
    lines = use_script("onnx", ModelInfo(("a", "b"), fit, (SIZE, SIZE, 3)), 2).splitlines()
    monkeypatch.setattr(sys, "argv", ["script", str(path)])
    names = {"np": np, "sys": sys, "Image": Image, "ImageOps": ImageOps}
    exec("\n".join(line for line in lines if line.startswith(("picture =", "pixels ="))), names)
    expected = decode_image(path.read_bytes(), size=SIZE, fit=fit)
    np.testing.assert_allclose(names["pixels"][0].astype(int), expected.astype(int), atol=2)
