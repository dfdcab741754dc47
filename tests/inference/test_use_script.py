"""The script of an export sees a picture as `predict` does, whatever kind of picture it is."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from tl_distributed.data.decode import decode_image
from tl_distributed.data.fit_rules import FITS
from tl_distributed.inference.model_info import ModelInfo
from tl_distributed.inference.use_script import use_script

SIZE = 8
_ORIENTATION = 0x0112
FORMATS = {
    **dict.fromkeys(("RGB", "RGBA", "LA", "L", "P", "1", "16 bits"), "PNG"), "CMYK": "JPEG", "turned": "JPEG",
    **dict.fromkeys(("16 bits in a TIFF", "sideways L", "sideways 16 bits"), "TIFF"),
}  # fmt: skip


def picture(kind: str) -> bytes:
    """Returns a file of 49 x 30 pixels, a quarter of it red, which is transparent where the kind knows that."""
    pixels = np.zeros((30, 49, 4), np.uint8)
    pixels[:, :24], pixels[:12, :24, 3] = (200, 30, 30, 255), 0
    pixels[:, 24:] = (30, 160, 90, 255)
    image, buffer, options = Image.fromarray(pixels), io.BytesIO(), {}
    if kind == "P":
        image = image.convert("RGB").quantize(4)
        options["transparency"] = image.getpixel((0, 0))
    elif kind == "turned":
        exif = Image.Exif()
        exif[_ORIENTATION] = 6  # to be turned by a quarter
        image, options = image.convert("RGB"), {"exif": exif}
    elif "16 bits" in kind:
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        image = image.convert(kind.split()[-1], dither=Image.Dither.NONE)
    if kind.startswith("sideways"):
        options["tiffinfo"] = {_ORIENTATION: 5}
    image.save(buffer, FORMATS[kind], **options)
    return buffer.getvalue()


def script_pixels(path, fit, monkeypatch) -> np.ndarray:
    """Runs the script of an ONNX export up to the model: what comes before needs Pillow alone."""
    script = use_script("onnx", ModelInfo(("a", "b"), fit, (SIZE, SIZE, 3)), 2)
    before = script.partition("probabilities = ")[0].replace("import onnxruntime\n", "")
    monkeypatch.setattr(sys, "argv", ["script", str(path)])
    names = {"__file__": "model.onnx.py"}
    exec(before, names)
    return names["pixels"]


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("kind", FORMATS)
def test_pixels_are_those_of_predict(kind, fit, tmp_path, monkeypatch):
    path = tmp_path / "picture"
    path.write_bytes(picture(kind))
    pixels = script_pixels(path, fit, monkeypatch)
    expected = decode_image(path.read_bytes(), size=SIZE, fit=fit)
    assert (pixels.shape, pixels.dtype) == ((1, SIZE, SIZE, 3), np.uint8)
    np.testing.assert_allclose(pixels[0].astype(int), expected.astype(int), atol=2)


@pytest.mark.parametrize(
    ("dtype", "options"), [(np.float32, {}), (np.int32, {}), (np.uint16, {"tiffinfo": {262: 0}})]
)  # the last: zero is white
def test_grey_of_another_kind_ends_with_a_line(dtype, options, tmp_path, monkeypatch):
    path = tmp_path / "picture.tif"
    Image.fromarray(np.full((9, 9), 90, dtype)).save(path, **options)
    with pytest.raises(SystemExit, match=r"picture\.tif: grey samples of an unusual kind"):
        script_pixels(path, "crop", monkeypatch)
