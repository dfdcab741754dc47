"""Every format, mode and size that a folder may hold: the pixels that it shows, or one line that says why not."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from tl_distributed.data.decode import UnreadableImage, decode_image, decode_picture


def encode(image, format_name="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def decode(data, size=8, **options):
    return decode_image(data, size=size, fit="squash", **options)


def picture(data, size=8, **options):
    return decode_picture(data, size=size, fit="squash", **options)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def tiff(samples, *, bits=16, photometric=1, sample_format=1):
    """A TIFF of one strip of grey, written by hand: Pillow writes no 12 bits, nor white as zero."""
    height, width = samples.shape
    if bits == 12:  # two samples in three bytes
        pairs = samples.reshape(-1, 2).astype(int)
        bytes_of_pairs = [pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255]
        data = np.stack(bytes_of_pairs, axis=1).astype(np.uint8).tobytes()
    else:
        data = samples.astype("<u2").tobytes()
    entries = [
        (256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, height),
        (279, len(data)), (339, sample_format),
    ]  # fmt: skip
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", tag, 4, 1, v) for tag, v in entries)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory + bytes(4)


@pytest.mark.parametrize(
    ("format_name", "options"),
    [
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ],
)
def test_other_lossless_formats_keep_every_pixel(pixels, format_name, options):
    np.testing.assert_array_equal(decode(encode(Image.fromarray(pixels), format_name, **options)), pixels)


@pytest.mark.parametrize("format_name", ["WEBP", "AVIF", "GIF", "PNG", "TIFF"])
def test_first_frame_or_page_counts(format_name):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encode(frames[0], format_name, save_all=True, append_images=frames[1:])
    assert np.abs(decode(data).astype(int) - [255, 0, 0]).max() <= 4


def test_phones_jpeg_with_a_second_picture_gives_the_first():
    data = encode(Image.new("RGB", (8, 8), "red"), "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    assert np.abs(decode(data).astype(int) - [255, 0, 0]).max() <= 4


def test_cmyk_and_lab_tiffs_become_rgb(pixels):
    image = Image.fromarray(pixels).resize((8, 8))
    np.testing.assert_array_equal(
        decode(encode(image.convert("CMYK"), "TIFF")), np.asarray(image.convert("CMYK").convert("RGB"))
    )
    red = Image.new("RGB", (8, 8), "red")
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = encode(ImageCms.profileToProfile(red, *profiles, outputMode="LAB"), "TIFF")
    assert np.abs(decode(lab).astype(int) - [255, 0, 0]).max() <= 6  # a step of a* or b* is several of red


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_16_bit_tiff_keeps_its_upper_byte(mode):
    grey = np.random.default_rng(0).integers(0, 65536, (8, 8)).astype(np.uint16)
    image = Image.frombytes(mode, (8, 8), grey.astype(">u2" if mode.endswith("B") else "<u2").tobytes())
    np.testing.assert_array_equal(decode(encode(image, "TIFF"))[..., 1], grey >> 8)


def test_tiff_where_white_is_zero_is_no_negative():
    grey = np.random.default_rng(0).integers(0, 65536, (8, 8)).astype(np.uint16)
    np.testing.assert_array_equal(decode(tiff(grey, photometric=0))[..., 1], 255 - (grey >> 8))


def test_tiff_that_says_12_bits_keeps_the_upper_8_of_them():
    grey = np.random.default_rng(0).integers(0, 4096, (8, 8)).astype(np.uint16)
    result = picture(tiff(grey, bits=12))
    np.testing.assert_array_equal(result.pixels[..., 1], grey >> 4)
    assert not result.is_dark


@pytest.mark.parametrize("mode", ["F", "I"])
def test_samples_of_unknown_range_are_refused(mode):
    with pytest.raises(UnreadableImage, match="convert it to 8 or 16 bits"):
        decode(encode(Image.new("L", (8, 8), 77).convert(mode), "TIFF"))


def rgb_png_of_16_bits(samples):
    """A PNG of `[height, width, 3]` uint16 written by hand: Pillow writes none."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = samples.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("bits", [9, 12, 13, 16])
def test_16_bit_pictures_that_use_12_are_noticed(bits):
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 2**bits, (8, 8)).astype(np.uint16)
    grey[0, 0] = 2**bits - 1
    for data in (encode(Image.fromarray(grey)), tiff(grey), rgb_png_of_16_bits(np.repeat(grey[..., None], 3, axis=2))):
        result = picture(data)
        assert result.used_bits == bits and result.is_dark == (bits <= 12)
        np.testing.assert_array_equal(result.pixels[..., 2], grey >> 8)


def test_8_bit_and_black_pictures_are_not_called_dark():
    assert picture(encode(Image.new("L", (8, 8), 3))).used_bits is None
    assert not picture(encode(Image.fromarray(np.zeros((8, 8), np.uint16)))).is_dark


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_size_of_the_file_is_told_upright_and_before_a_draft(format_name):
    image = Image.new("RGB", (640, 480))
    exif = image.getexif()
    exif[0x0112] = 8
    result = picture(encode(image, format_name, exif=exif))
    assert (result.width, result.height) == (480, 640) and result.pixels.shape == (8, 8, 3)


def test_limit_is_on_decoded_pixels():
    wide = Image.new("L", (1200, 1000), 90)  # 1.2 megapixels
    assert decode(encode(wide, "JPEG"), max_megapixels=0.1).shape == (8, 8, 3)  # decoded at an eighth
    with pytest.raises(UnreadableImage, match=r"1,200 x 1,000 pixels are 1\.2 meg.*more than --max_megapixels=0\.1"):
        decode(encode(wide, "JPEG"), size=1000, max_megapixels=0.1)
    for format_name in ("PNG", "BMP", "GIF", "WEBP", "TIFF", "AVIF"):
        data = encode(wide, format_name)
        assert decode(data, max_megapixels=1.2).shape == (8, 8, 3)
        with pytest.raises(UnreadableImage, match="--max_megapixels=1;"):
            decode(data, max_megapixels=1)


def test_jpeg_that_its_decoder_holds_whole_counts_whole():
    with pytest.raises(UnreadableImage, match="--max_megapixels=1;"):
        decode(encode(Image.new("L", (1200, 1000)), "JPEG", progressive=True), max_megapixels=1)


def claim(format_name):
    """A small file that claims 60,000 x 60,000 pixels."""
    data = bytearray(
        encode(Image.new("L", (8, 8)), format_name, **({"progressive": True} if format_name == "JPEG" else {}))
    )
    if format_name == "JPEG":
        struct.pack_into(">HH", data, data.index(b"\xff\xc2") + 5, 60000, 60000)
    elif format_name == "PNG":
        struct.pack_into(">II", data, 16, 60000, 60000)
    elif format_name == "BMP":
        struct.pack_into("<ii", data, 18, 60000, 60000)
    elif format_name == "GIF":
        struct.pack_into("<HH", data, 6, 60000, 60000)
    else:
        at = data.index(struct.pack("<HHII", 256, 4, 1, 8))
        struct.pack_into("<I", data, at + 8, 60000)
        struct.pack_into("<I", data, at + 20, 60000)
    return bytes(data)


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "BMP", "GIF", "TIFF"])
def test_claimed_size_is_refused_before_memory_is_taken(format_name):
    if format_name == "PNG":  # the header has a checksum
        data = bytearray(claim("PNG"))
        struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    else:
        data = claim(format_name)
    with pytest.raises(UnreadableImage, match=r"60,000 x 60,000 pixels are 3,600\.0 megapixels"):
        decode(bytes(data))


@pytest.mark.parametrize("format_name", ["WEBP", "AVIF"])
def test_format_that_this_pillow_lacks_is_said(format_name, monkeypatch):
    data = encode(Image.new("L", (8, 8)), format_name)
    monkeypatch.setattr(features, "get_supported_modules", lambda: ["jpg", "zlib"])
    with pytest.raises(UnreadableImage, match=f"this Pillow cannot read {format_name}; install a newer one"):
        decode(data)


def test_tile_that_is_larger_than_its_tiff_is_refused():
    data = bytearray(encode(Image.new("L", (8, 8)), "TIFF", compression="tiff_lzw"))
    at = data.index(struct.pack("<H", 278))  # rows a strip, and the bytes of the strip, become the sides of a tile
    struct.pack_into("<HHII", data, at, 322, 4, 1, 40000)
    struct.pack_into("<HHII", data, at + 12, 323, 4, 1, 40000)
    with pytest.raises(UnreadableImage, match=r"1,600\.0 megapixels"):
        decode(bytes(data))


def test_nothing_of_pillows_own_reaches_the_screen():
    """Once, in a process of its own: pytest catches warnings."""
    code = """
import io
from PIL import Image
from tl_distributed.data.decode import decode_image
buffer = io.BytesIO()
Image.new("L", (10000, 10000)).save(buffer, "PNG", compress_level=1)
decode_image(buffer.getvalue(), size=8, fit="squash")
palette = Image.new("P", (8, 8))
palette.putpalette(bytes(768))
palette.info["transparency"] = bytes(3)
buffer = io.BytesIO()
palette.save(buffer, "PNG")
decode_image(buffer.getvalue(), size=8, fit="squash")
buffer = io.BytesIO()
Image.new("L", (8, 8)).save(buffer, "TIFF")
data = bytearray(buffer.getvalue())
at = data.index((279).to_bytes(2, "little"))
data[at : at + 2] = (282).to_bytes(2, "little")
data[at + 8 : at + 12] = b"\\xff\\xff\\xff\\x7f"
data[at + 2] = 5
decode_image(bytes(data), size=8, fit="squash")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
