"""Metadata never decides over pixels: broken, huge or lying, it is left out, and only the orientation is read."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tl_distributed.data.decode import decode_image, decode_picture

SIDE = 16
MISTYPED = (0x011A, 2, 4, b"72\0\0")  # the resolution, a fraction, as text
TURNED = (0x0112, 3, 1, struct.pack("<HH", 6, 0))


@pytest.fixture
def pixels():
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    return np.uint8(np.stack([8 * y, 8 * x, 4 * (x + y)], axis=-1))


def encode(image, format_name, **options):
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def decode(data):
    return decode_image(data, size=SIDE, fit="squash")


def exif(*entries, order="<"):
    """An EXIF block of (tag, type, count, four bytes of value) entries."""
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}IH", 8, len(entries))
    return b"Exif\0\0" + head + b"".join(struct.pack(f"{order}HHI", *e[:3]) + e[3] for e in entries) + b"\0\0\0\0"


def jpeg_with(pixels, *segments):
    """A JPEG with (marker, body) segments behind its first two bytes."""
    data = encode(Image.fromarray(pixels), "JPEG", quality=95)
    extra = b"".join(bytes((255, marker)) + struct.pack(">H", len(body) + 2) + body for marker, body in segments)
    return data[:2] + extra + data[2:]


def png_with(pixels, *chunks):
    """A PNG with (type, body) chunks behind its header."""
    data = encode(Image.fromarray(pixels), "PNG")
    extra = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return data[:33] + extra + data[33:]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_turns_as_exif_says(pixels, orientation, order):
    value = struct.pack(f"{order}HH", orientation, 0)
    rows, columns = {
        1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
        5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom"),
    }[orientation]  # fmt: skip
    # The standard names where the stored row 0 and column 0 belong; this undoes it by flips alone.
    upright = pixels
    if rows in ("left", "right"):
        upright = upright.transpose(1, 0, 2)
        rows, columns = columns, rows
    upright = upright[::-1] if rows == "bottom" else upright
    upright = upright[:, ::-1] if columns == "right" else upright
    block = exif((0x010F, 2, 4, b"cam\0"), (0x0112, 3, 1, value), order=order)
    np.testing.assert_array_equal(decode(png_with(pixels, (b"eXIf", block[6:]))), upright)


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP"])
def test_mistyped_exif_tag_keeps_the_orientation(pixels, format_name):
    image = Image.fromarray(pixels)
    options = {"lossless": True} if format_name == "WEBP" else {}
    if format_name == "PNG":
        data = png_with(pixels, (b"eXIf", exif(TURNED, MISTYPED)[6:]))
    else:
        data = encode(image, format_name, exif=exif(TURNED, MISTYPED), **options)
    plain = decode(encode(image, format_name, **options))
    assert np.abs(decode(data).astype(int) - np.rot90(plain, -1)).max() <= (6 if format_name == "JPEG" else 0)


def test_mistyped_tags_of_a_tiff_do_not_refuse_it(pixels):
    data = bytearray(encode(Image.fromarray(pixels), "TIFF", tiffinfo={0x0112: 6, 282: 72.0, 283: 72.0, 296: 3}))
    for tag in (282, 283):
        at = data.index(struct.pack("<HHI", tag, 5, 1))
        struct.pack_into("<HHI4s", data, at, tag, 2, 4, b"72\0\0")
    np.testing.assert_array_equal(decode(bytes(data)), np.rot90(pixels, -1))


def test_mistyped_exif_of_an_avif_is_left_out(pixels):
    image = Image.fromarray(pixels)
    data = encode(image, "AVIF", exif=exif((0x0112, 3, 1, struct.pack("<HH", 1, 0)), (0x010F, 2, 4, b"cam\0"))[6:])
    start = data.index(b"II*\0")
    damaged = data.replace(struct.pack("<HHI", 0x010F, 2, 4), struct.pack("<HHI", 0x0112, 5, 1))
    assert damaged != data and start
    np.testing.assert_array_equal(decode(damaged), decode(encode(image, "AVIF")))


@pytest.mark.parametrize(
    "block",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\x7f",
        b"Exif\0\0no tiff at all",
        exif((0x0112, 2, 4, b"6\0\0\0")),
        exif((0x0112, 3, 1, struct.pack("<HH", 99, 0))),
        exif(TURNED)[:18],
    ],
)
def test_broken_exif_means_as_stored(pixels, block):
    np.testing.assert_array_equal(decode(jpeg_with(pixels, (0xE1, block))), decode(jpeg_with(pixels)))
    np.testing.assert_array_equal(decode(png_with(pixels, (b"eXIf", block[6:]))), pixels)


def test_orientation_of_xmp_counts_where_exif_has_none(pixels):
    xmp = b'<rdf:Description tiff:Orientation="3"/>'
    upside_down = decode(jpeg_with(pixels, (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp)))
    np.testing.assert_array_equal(upside_down, np.rot90(decode(jpeg_with(pixels)), 2))
    text = b"XML:com.adobe.xmp\0\0\0\0\0" + xmp
    np.testing.assert_array_equal(decode(png_with(pixels, (b"iTXt", text))), np.rot90(pixels, 2))


@pytest.mark.parametrize("is_compressed", [False, True])
def test_orientation_in_imagemagicks_profile_counts(pixels, is_compressed):
    block = exif(TURNED)
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n{len(block):8}\n{block.hex()}\n", zip=is_compressed)
    data = encode(Image.fromarray(pixels), "PNG", pnginfo=info)
    np.testing.assert_array_equal(decode(data), np.rot90(pixels, -1))


LONG = b"x" * 3_000_000


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (b"tEXt", b"Comment\0" + LONG),
        (b"zTXt", b"Comment\0\0" + zlib.compress(LONG)),
        (b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(LONG)),
        (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + LONG),
        (b"iCCP", b"profile\0\0" + zlib.compress(LONG)),
        (b"iCCP", b"profile\0\0no zlib"),
        (b"pHYs", b"short"),
        (b"cHRM", b""),
        (b"acTL", b""),
        (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(50_000_000))),
    ],
)
def test_chunks_of_a_png_that_are_no_pixels_are_not_looked_at(pixels, kind, body):
    np.testing.assert_array_equal(decode(png_with(pixels, (kind, body))), pixels)


def test_checksum_of_a_text_does_not_matter(pixels):
    data = png_with(pixels, (b"tEXt", b"Comment\0hello"))
    np.testing.assert_array_equal(decode(data.replace(b"hello", b"hullo")), pixels)


@pytest.mark.parametrize(
    "segment",
    [
        (0xE2, b"ICC_PROFILE\0\1\1" + bytes(60_000)),
        (0xE2, b"MPF\0no directory"),
        (0xED, b"Photoshop 3.0\x008BIM\x04\x04"),
        (0xE1, b"Exif\0\0" + bytes(60_000)),
        (0xE0, b"JFIF\0"),
        (0xEE, b"Adobe"),
        (0xFE, b"a comment"),
    ],
)
def test_segments_of_a_jpeg_that_are_no_pixels_are_not_looked_at(pixels, segment):
    np.testing.assert_array_equal(decode(jpeg_with(pixels, *[segment] * 20)), decode(jpeg_with(pixels)))


def test_adobes_marker_still_tells_the_colours():
    """Whether three channels are RGB or YCbCr stands in this marker alone; it is metadata that decides pixels."""
    colours = Image.new("RGB", (SIDE, SIDE), (200, 30, 90))
    data = encode(colours, "JPEG", quality=95, keep_rgb=True)
    assert b"Adobe" in data
    assert np.abs(decode(data).astype(int) - [200, 30, 90]).max() <= 3


def test_webp_named_otherwise_is_told_by_content(pixels):
    result = decode_picture(encode(Image.fromarray(pixels), "WEBP", lossless=True), size=SIDE, fit="squash")
    np.testing.assert_array_equal(result.pixels, pixels)


@pytest.mark.parametrize("key", ["icc_profile", "xmp"])
@pytest.mark.parametrize("format_name", ["WEBP", "AVIF", "TIFF", "JPEG"])
def test_large_profiles_do_not_refuse(pixels, format_name, key):
    image = Image.fromarray(pixels)
    if (format_name, key) == ("TIFF", "xmp"):
        data = encode(image, "TIFF", tiffinfo={700: LONG})
    else:
        data = encode(image, format_name, **{key: LONG[:60_000] if format_name == "JPEG" else LONG})
    np.testing.assert_array_equal(decode(data), decode(encode(image, format_name)))
