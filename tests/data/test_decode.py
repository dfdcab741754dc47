"""Image files to RGB arrays: against NumPy and tf.image."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from tl_distributed.data.decode import UnreadableImage, decode_image, rgb_of_array


def encode(image, format_name="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def decode(data, size=8, crop=False):
    return decode_image(data, size=size, fit="crop" if crop else "squash")


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def smooth(height, width):
    """A picture of slow waves, as photographs are on the scale of a pixel: [height, width, 3] uint8."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(y / 17 + phase) * np.cos(x / 23 - phase) for phase in (0, 1, 2)]
    return np.uint8(127.5 + 120 * np.stack(waves, axis=-1))


@pytest.mark.parametrize("format_name", ["PNG", "BMP"])
def test_lossless_formats_keep_every_pixel(pixels, format_name):
    np.testing.assert_array_equal(decode(encode(Image.fromarray(pixels), format_name)), pixels)


def test_jpeg_equals_tensorflows_decoder():
    import tensorflow as tf

    data = encode(Image.fromarray(smooth(32, 32)), "JPEG", quality=90)
    expected = tf.io.decode_jpeg(data, dct_method="INTEGER_ACCURATE").numpy().astype(int)
    assert np.abs(decode(data, size=32).astype(int) - expected).max() <= 2


def test_gif_gives_its_first_frame():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode(data), np.full((8, 8, 3), [255, 0, 0]))


def test_grey_palette_and_one_bit_become_rgb(pixels):
    grey = pixels[..., 0]
    np.testing.assert_array_equal(decode(encode(Image.fromarray(grey))), np.repeat(grey[..., None], 3, axis=2))
    palette = Image.fromarray(grey % 4).convert("P")
    np.testing.assert_array_equal(decode(encode(palette)), np.asarray(palette.convert("RGB")))
    bits = grey > 127
    np.testing.assert_array_equal(decode(encode(Image.fromarray(bits)))[..., 1], np.where(bits, 255, 0))


def test_16_bit_grey_keeps_its_upper_byte():
    grey = np.random.default_rng(0).integers(0, 65536, (8, 8)).astype(np.uint16)
    np.testing.assert_array_equal(decode(encode(Image.fromarray(grey)))[..., 2], grey >> 8)


@pytest.mark.parametrize("alpha", [0, 255])
def test_fourth_byte_of_a_bmp_that_nobody_filled_is_no_transparency(pixels, alpha):
    """With a mask for it in the header, as screenshots and some cameras write it; every viewer shows the picture."""
    rows = np.dstack([pixels[::-1, :, ::-1], np.full((8, 8), alpha, np.uint8)]).tobytes()
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, 8, 8, 1, 32, 3, len(rows), 0, 0, 0, 0) + masks + b"BGRs" + bytes(48)
    data = struct.pack("<2sIHHI", b"BM", 14 + len(header) + len(rows), 0, 0, 14 + len(header)) + header + rows
    np.testing.assert_array_equal(decode(data), pixels)


def test_transparency_is_laid_on_white(pixels):
    alpha = np.random.default_rng(1).integers(0, 256, (8, 8, 1), dtype=np.uint8)
    alpha[0, :4], alpha[0, 4:] = 0, 255
    result = decode(encode(Image.fromarray(np.concatenate([pixels, alpha], axis=2)))).astype(float)
    share = alpha / 255
    np.testing.assert_allclose(result, pixels * share + 255 * (1 - share), atol=1.01)
    see_through = Image.fromarray(np.uint8([[0, 1]])).convert("P")
    see_through.putpalette([255, 0, 0, 0, 0, 255])
    data = encode(see_through, transparency=0)
    np.testing.assert_array_equal(decode(data, size=2)[0], [[255, 255, 255], [0, 0, 255]])


def test_cmyk_jpeg_becomes_rgb():
    colours = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # cyan none, magenta and yellow full: red
    assert np.abs(decode(encode(colours, "JPEG", quality=95)).astype(int) - [255, 0, 0]).max() <= 6


def test_camera_orientation_is_applied(pixels):
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees clockwise
    np.testing.assert_array_equal(decode(encode(image, exif=exif)), np.rot90(pixels, -1))


@pytest.mark.parametrize("crop", [False, True])
@pytest.mark.parametrize("shape", [(96, 96), (64, 100), (11, 7)])
def test_resize_equals_tensorflows_antialiased_bilinear(shape, crop):
    import tensorflow as tf

    image = smooth(*shape)
    if crop:
        side = min(shape)
        top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
        expected_from = image[top : top + side, left : left + side]
    else:
        expected_from = image
    expected = tf.image.resize(expected_from, (24, 24), antialias=True).numpy()
    assert np.abs(decode(encode(Image.fromarray(image)), size=24, crop=crop) - expected).max() <= 1.5


def test_large_jpeg_is_as_if_decoded_whole():
    import tensorflow as tf

    data = encode(Image.fromarray(smooth(600, 800)), "JPEG", quality=95)
    whole = tf.io.decode_jpeg(data, dct_method="INTEGER_ACCURATE")
    expected = tf.image.resize(whole, (32, 32), antialias=True).numpy()
    difference = np.abs(decode(data, size=32) - expected)
    assert difference.mean() < 0.75 and difference.max() < 4


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "AVIF"])
def test_truncated_file_is_unreadable(format_name):
    data = encode(Image.fromarray(smooth(64, 64)), format_name)
    with pytest.raises(UnreadableImage):
        decode(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "but a pointer of Git LFS .git lfs pull"),
        (b"hello, I am a text", "not a JPEG, PNG, BMP, GIF, WebP, TIFF or AVIF"),
        (b"II*\0" + bytes(40), "damaged TIFF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "but HEIC"),
        (b"<!DOCTYPE html><title>404</title>", "but HTML"),
    ],
)
def test_other_files_are_unreadable(data, words):
    with pytest.raises(UnreadableImage, match=words):
        decode(data)


def test_arrays_of_other_sources_become_rgb(pixels):
    grey = pixels[..., :1]
    np.testing.assert_array_equal(rgb_of_array(grey), np.repeat(grey, 3, axis=2))
    wide = pixels.astype(np.uint16) * 256 + 99
    np.testing.assert_array_equal(rgb_of_array(wide), pixels)
