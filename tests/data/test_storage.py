"""What TensorFlow alone reads of each storage, without this package, against the files that went in."""

import io
import json
import struct

import numpy as np
import pytest
import tensorflow as tf
from image_files import write_folder
from PIL import Image

from data_prep import build
from data_prep.config import BuildConfig
from tl_distributed.data.storing import StorageRule, shrunk
from tl_distributed.data.verify import verify

SIZE = 16
KEPT = ("photo.jpg", "grey.jpg", "plain.png", "palette.png", "plain.bmp", "plain.webp", "plain.gif", "small.png")
CHANGED = (
    "turned.jpg", "cmyk.jpg", "alpha.png", "deep.png", "glass.gif", "scan.tiff", "palette.bmp", "grey.bmp", "masks.bmp",
)  # fmt: skip


def picture(seed: int, height: int = 24, width: int = 36) -> Image.Image:
    """A smooth picture, so that a JPEG of it is near."""
    coarse = np.random.default_rng(seed).integers(30, 220, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def bmp_of_white_is_zero(image: Image.Image) -> bytes:
    image = Image.eval(image, lambda value: 255 - value).convert("P")
    image.putpalette([255 - value for value in range(256) for _ in range(3)])
    return encoded(image, "BMP")


def bmp_with_masks(image: Image.Image) -> bytes:
    """32 bits a pixel, red in the highest, from the lowest row to the highest."""
    red, green, blue = np.moveaxis(np.asarray(image)[::-1].astype("<u4"), 2, 0)
    pixels = (red << 24 | green << 16 | blue << 8).astype("<u4").tobytes()
    masks = struct.pack("<3I", 0xFF000000, 0xFF0000, 0xFF00)
    header = struct.pack("<IiiHHIIiiII", 40, *image.size, 1, 32, 3, len(pixels), 2835, 2835, 0, 0) + masks
    return struct.pack("<2sIHHI", b"BM", 14 + len(header) + len(pixels), 0, 0, 14 + len(header)) + header + pixels


def files() -> dict[str, bytes]:
    turned, glass = Image.Exif(), picture(8).quantize(200, dither=Image.Dither.NONE)
    turned[0x0112] = 6
    alpha = picture(9).convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize(alpha.size))
    deep = np.asarray(picture(10).convert("L")).astype(np.uint16) * 257
    made = {
        "photo.jpg": encoded(picture(0), "JPEG", quality=95),
        "grey.jpg": encoded(picture(1).convert("L"), "JPEG", quality=95),
        "plain.png": encoded(picture(2), "PNG"),
        "palette.png": encoded(picture(3).quantize(200, dither=Image.Dither.NONE), "PNG"),
        "plain.bmp": encoded(picture(4), "BMP"),
        "plain.webp": encoded(picture(5), "WEBP", lossless=True),
        "plain.gif": encoded(picture(6).quantize(200, dither=Image.Dither.NONE), "GIF"),
        "small.png": encoded(picture(7, 10, 12), "PNG"),
        "turned.jpg": encoded(picture(11), "JPEG", quality=95, exif=turned),
        "cmyk.jpg": encoded(picture(12).convert("CMYK"), "JPEG", quality=95),
        "alpha.png": encoded(alpha, "PNG"),
        "deep.png": encoded(Image.fromarray(deep), "PNG"),
        "glass.gif": encoded(glass, "GIF", transparency=0),
        "scan.tiff": encoded(picture(13), "TIFF"),
        # What TensorFlow takes for grey, for grey that is not inverted, and for blue, green, red.
        "palette.bmp": encoded(picture(14).quantize(200, dither=Image.Dither.NONE), "BMP"),
        "grey.bmp": bmp_of_white_is_zero(picture(15).convert("L")),
        "masks.bmp": bmp_with_masks(picture(16)),
    }
    return {f"train/{kind}/{name}": data for kind, part in (("a", KEPT), ("b", CHANGED)) for name, data in made.items()
            if name in part}  # fmt: skip


def upright(data: bytes) -> Image.Image:
    """The picture as a person sees it, on white, by Pillow's own means."""
    from PIL import ImageOps

    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA") or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def read(folder, storage: str) -> dict[str, tuple[bytes, np.ndarray, int]]:
    """Returns (image, pixels `[height, width, 3] uint8`, label) by id, as any TensorFlow program reads them."""
    spec = {name: tf.io.FixedLenFeature([], tf.string) for name in ("image", "id")}
    spec |= {name: tf.io.FixedLenFeature([], tf.int64) for name in ("label", "height", "width")}
    found = {}
    for record in tf.data.TFRecordDataset(sorted(str(path) for path in folder.glob("*.tfrecord"))):
        one = tf.io.parse_single_example(record, spec)
        shape = (one["height"], one["width"], 3)
        if storage == "pixels":
            pixels = tf.reshape(tf.io.decode_raw(one["image"], tf.uint8), shape)
        else:
            pixels = tf.io.decode_image(one["image"], channels=3, expand_animations=False)
        assert tuple(pixels.shape) == tuple(map(int, shape))
        found[one["id"].numpy().decode()] = (one["image"].numpy(), pixels.numpy(), int(one["label"]))
    return found


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("storage")
    source = write_folder(folder / "in", files())
    for storage in ("pixels", "jpeg", "original"):
        build.build(
            BuildConfig(
                source="image_folder",
                input=source,
                image_size=SIZE,
                storage=storage,
                val_fraction=0,
                output_dir=str(folder / storage),
            )
        )
    return folder


@pytest.mark.parametrize("storage", ["pixels", "jpeg", "original"])
def test_tensorflow_alone_reads_every_picture_as_a_person_sees_it(built, storage):
    found = read(built / storage, storage)
    assert set(found) == set(files())
    for name, data in files().items():
        image, pixels, label = found[name]
        whole = upright(data)
        assert label == (name.split("/")[1] == "b")
        if storage == "pixels":
            side = min(whole.size)
            left, top = (whole.width - side) // 2, (whole.height - side) // 2
            expected = whole.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        elif storage == "original" and name.endswith(KEPT):
            assert image == data
            expected = whole
        else:
            assert image.startswith(b"\xff\xd8\xff")
            expected = shrunk(whole, SIZE)
            assert sorted(expected.size) == ([10, 12] if "small" in name else [SIZE, 24])
        difference = np.abs(pixels.astype(int) - np.asarray(expected).astype(int))
        assert difference.mean() < 5, name  # a JPEG of few colours, by a fast inverse transform; a wrong picture has 20
    assert verify(str(built / storage)).storage == storage


def test_the_description_says_how_pictures_are_stored(built):
    told = {name: json.loads((built / name / "dataset.json").read_text()) for name in ("pixels", "jpeg", "original")}
    assert {name: one["storage"] for name, one in told.items()} == {name: name for name in told}
    assert all(
        one["schema_version"] == 2 and one["fit"] == "crop" and "pillow" in one["decoder"] for one in told.values()
    )
    assert [one["canvas_size"] for one in told.values()] == [SIZE, 24, 24]


@pytest.mark.parametrize(("image_size", "expected"), [(32, "pixels"), (64, "pixels"), (65, "jpeg"), (224, "jpeg")])
def test_auto_stores_pixels_of_small_pictures_and_jpeg_of_others(image_size, expected):
    assert BuildConfig(image_size=image_size).storage_rule == expected


def test_jpeg_is_of_quality_95_and_full_colour_resolution():
    rule = StorageRule(storage="jpeg", image_size=SIZE, fit="crop", seed=0)
    with Image.open(io.BytesIO(rule.store_file(encoded(picture(0), "PNG")).image)) as image:
        assert {layer[1:3] for layer in image.layer} == {(1, 1)}  # sampling factors of 4:4:4
        reference = Image.open(io.BytesIO(encoded(picture(0), "JPEG", quality=95)))
        assert image.quantization == reference.quantization


@pytest.mark.parametrize("storage", ["jpeg", "original"])
def test_equal_pictures_in_other_files_are_told(storage):
    """The hash is of the pixels; the shape counts, so that a picture is not its own turned one."""
    rule = StorageRule(storage=storage, image_size=SIZE, fit="crop", seed=0)
    png, bmp = (rule.store_file(encoded(picture(0), kind)) for kind in ("PNG", "BMP"))
    assert png.content == bmp.content
    flat = [Image.new("RGB", size, "red") for size in ((20, 40), (40, 20))]
    assert len({rule.store_file(encoded(image, "PNG")).content for image in flat}) == 2
    other = StorageRule(storage=storage, image_size=SIZE, fit="crop", seed=1)
    assert other.store_file(encoded(picture(0), "PNG")).content != png.content


def test_what_pillow_reads_and_tensorflow_refuses_becomes_jpeg(monkeypatch):
    def refuse(*_, **__):
        raise tf.errors.InvalidArgumentError(None, None, "no")

    monkeypatch.setattr(tf.io, "decode_image", refuse)
    stored = StorageRule(storage="original", image_size=SIZE, fit="crop", seed=0).store_file(
        files()["train/a/plain.png"]
    )
    assert stored.image.startswith(b"\xff\xd8\xff") and (stored.height, stored.width) == (16, 24)
