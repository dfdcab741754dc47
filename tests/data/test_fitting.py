"""Fitting: what of a picture that is not square is kept, and that a data set says how it was done."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image
from toy_dataset import write_toy_dataset

from tl_distributed.data.fit_rules import FITS
from tl_distributed.data.fitting import resize_image
from tl_distributed.data.records import read_manifest
from tl_distributed.errors import UserError


def striped(width: int, height: int) -> Image.Image:
    """Red at the left or upper third, green in the middle, blue at the end."""
    along = np.arange(max(width, height)) * 3 // max(width, height)
    line = np.eye(3, dtype=np.uint8)[along] * 255
    pixels = np.broadcast_to(line, (height, width, 3)) if width >= height else np.repeat(line[:, None], width, axis=1)
    return Image.fromarray(np.ascontiguousarray(pixels))


@pytest.mark.parametrize("upright", [False, True])
def test_what_each_rule_keeps_of_three_stripes(upright):
    image = striped(*((10, 30) if upright else (30, 10)))
    squashed, cropped, padded = (resize_image(image, size=9, fit=fit) for fit in ("squash", "crop", "pad"))
    if upright:
        squashed, cropped, padded = (pixels.transpose(1, 0, 2) for pixels in (squashed, cropped, padded))
    red, green, blue = np.eye(3) * 255
    assert [squashed[4, column].tolist() for column in (1, 4, 7)] == [red.tolist(), green.tolist(), blue.tolist()]
    assert (cropped == green).all()
    assert not padded[:3].any() and not padded[6:].any()
    np.testing.assert_array_equal(padded[3:6, 4], np.tile(green, (3, 1)))
    np.testing.assert_array_equal(padded[4, [0, 8]], [red, blue])


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (8, 8), (7, 9)])
def test_every_rule_gives_the_asked_size_and_leaves_squares_alone(fit, shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    fitted = resize_image(Image.fromarray(pixels), size=8, fit=fit)
    assert fitted.shape == (8, 8, 3) and fitted.dtype == np.uint8
    if shape == (8, 8):
        np.testing.assert_array_equal(fitted, pixels)


def test_unknown_rule_is_a_defect_of_the_caller():
    with pytest.raises(ValueError, match="fit 'stretch': takes one of squash, crop, pad"):
        resize_image(Image.new("RGB", (2, 2)), size=2, fit="stretch")


def rewritten(folder, change) -> str:
    path = folder / "dataset.json"
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))
    return str(folder)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({}, "squash"),
        ({"source": {}}, "squash"),
        ({"source": {"resize": "bilinear, antialiased, centred square"}}, "crop"),
        ({"source": {"resize": "bilinear, antialiased, squashed to a square"}}, "squash"),
    ],
)
def test_data_sets_of_before_say_it_in_words(tmp_path, source, expected):
    def as_before(raw):
        del raw["fit"]
        raw["details"] = source

    write_toy_dataset(tmp_path / "set", counts={"train": 3}, schema_version=1)
    assert read_manifest(rewritten(tmp_path / "set", as_before)).fit == expected


def test_a_rule_of_a_later_version_is_refused(tmp_path):
    write_toy_dataset(tmp_path / "set", counts={"train": 3})
    with pytest.raises(UserError, match="fit 'blur' is none of squash, crop, pad"):
        read_manifest(rewritten(tmp_path / "set", lambda raw: raw.update(fit="blur")))


def test_the_digest_is_that_of_before_the_rule_was_stored(tmp_path):
    """A run of before resumes: its config.json holds the digest of a manifest without the entry."""
    write_toy_dataset(tmp_path / "set", counts={"train": 3}, schema_version=1)
    raw = json.loads((tmp_path / "set" / "dataset.json").read_text())
    before = {name: value for name, value in raw.items() if name != "fit"}
    text = json.dumps(before, indent=2) + "\n"
    assert read_manifest(str(tmp_path / "set")).digest() == hashlib.sha256(text.encode()).hexdigest()
