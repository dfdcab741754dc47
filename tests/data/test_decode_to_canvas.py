"""Stored pictures on a canvas: their size, their pixels against Pillow's, in and outside of a graph."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tl_distributed.data.canvas import decode_to_canvas

IMAGE_SIZE, CANVAS = 32, 64


def smooth(height: int, width: int) -> Image.Image:
    down, across = np.linspace(0, 3, height)[:, None], np.linspace(0, 3, width)
    waves = [np.sin(down + across), np.cos(down * 2 - across), np.sin(across) * np.ones_like(down)]
    return Image.fromarray(np.uint8(np.round(np.stack(waves, axis=-1) * 120 + 128)))


def encoded(image: Image.Image, format_name: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **({"quality": 95, "subsampling": 0} if format_name == "JPEG" else {}))
    return buffer.getvalue()


decode = tf.function(
    lambda data: decode_to_canvas(data, image_size=IMAGE_SIZE, canvas_size=CANVAS),
    input_signature=[tf.TensorSpec([], tf.string)],
)


@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "BMP"])
@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((20, 30), (20, 30)),  # smaller: as it is
        ((32, 64), (32, 64)),
        ((64, 96), (32, 48)),  # the shorter side to the image size
        ((600, 400), (48, 32)),
        ((50, 400), (8, 64)),  # the longer side to the canvas
        ((16, 100), (10, 64)),
        ((1, 700), (1, 64)),
    ],
)
def test_pictures_keep_their_shape_on_the_canvas(format_name, shape, expected):
    data = encoded(smooth(*shape), format_name)
    canvas, sizes = (part.numpy() for part in decode(data))
    assert canvas.shape == (CANVAS, CANVAS, 3) and canvas.dtype == np.uint8
    height, width = expected
    assert sizes.tolist() == [height, width]
    assert not canvas[height:].any() and not canvas[:, width:].any()
    pillow = np.asarray(Image.open(io.BytesIO(data)).resize((width, height), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(canvas[:height, :width] - pillow).max() <= 1


@pytest.mark.parametrize("shape", [(32, 32), (20, 32), (32, 20), (64, 64), (40, 64)])
def test_a_canvas_may_be_as_small_as_its_pictures(shape):
    data = encoded(smooth(*shape), "PNG")
    canvas, (height, width) = tf.function(decode_to_canvas)(data, image_size=IMAGE_SIZE, canvas_size=IMAGE_SIZE)
    assert max(height, width) == IMAGE_SIZE and canvas.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
    expected = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), int)
    pillow = Image.open(io.BytesIO(data)).resize((int(width), int(height)), Image.Resampling.BILINEAR)
    expected[:height, :width] = np.asarray(pillow)
    assert np.abs(canvas.numpy() - expected).max() <= 1


@pytest.mark.parametrize("shape", [(33, 65), (64, 96), (97, 61), (600, 400), (50, 400)])
def test_noise_is_shrunk_as_pillow_does(shape):
    """The hardest picture for a filter: no pixel is like its neighbour."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8))
    canvas, (height, width) = (part.numpy() for part in decode(encoded(image, "PNG")))
    pillow = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(canvas[:height, :width] - pillow).max() <= 1


def test_without_a_graph_it_is_the_same():
    data = encoded(smooth(90, 70), "JPEG")
    for first, second in zip(decode(data), decode_to_canvas(data, image_size=32, canvas_size=64), strict=True):
        np.testing.assert_array_equal(first, second)


def test_what_is_no_picture_is_refused():
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(b"not a picture")


@pytest.mark.parametrize("shape", [(32, 48), (90, 70), (16, 100), (20, 20)])
def test_jpegs_that_are_known_to_be_such_give_the_same(shape):
    data = encoded(smooth(*shape), "JPEG")
    known = decode_to_canvas(data, image_size=IMAGE_SIZE, canvas_size=CANVAS, is_jpeg=True)
    for first, second in zip(decode(data), known, strict=True):
        np.testing.assert_array_equal(first, second)
