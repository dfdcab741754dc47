"""Augmentations: identity, determinism, compilers and layouts, the ranges of the geometry, settings."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tl_distributed.errors import UserError
from tl_distributed.pixels.augment import NAMED_AUGMENTATIONS, augment_batch, resize_batch
from tl_distributed.pixels.seeds import Draw, all_uniforms, per_image_seeds
from tl_distributed.pixels.views import random_view

tf.config.experimental.enable_tensor_float_32_execution(False)  # so that GPUs answer to the same tolerance
NONE = NAMED_AUGMENTATIONS["none"]
EACH_ALONE = {
    "horizontal_flip": True,
    "crop_padding_pixels": 3,
    "resized_crop_min_area": 0.3,
    "width_shift_fraction": 0.2,
    "height_shift_fraction": 0.2,
    "zoom_fraction": 0.3,
    "rotation_degrees": 30.0,
    "brightness_fraction": 0.3,
    "contrast_fraction": 0.5,
    "saturation_fraction": 0.5,
    "random_erasing_probability": 0.7,
    "mixup": 0.4,
    "cutmix": 1.0,
}


def settings_with(**changes):
    return dataclasses.replace(NONE, **changes)


def random_images(batch, height=16, width=16):
    return np.random.default_rng(3).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


def augment(images, settings, *, image_size=16, positions=None, jit_compile=False, labels=None):
    positions = np.arange(len(images), dtype=np.int32) if positions is None else np.asarray(positions, np.int32)
    labels = np.arange(len(images), dtype=np.int32) % 10 if labels is None else labels

    def run(images, labels, positions):
        seeds = per_image_seeds(11, 5, positions)
        return augment_batch(images, labels, seeds, settings=settings, image_size=image_size, num_classes=10)

    if jit_compile:
        run = tf.function(run, jit_compile=True)
    return tuple(result.numpy() for result in run(tf.constant(images), tf.constant(labels), tf.constant(positions)))


def views(settings, count=4000, height=20, width=20):
    uniforms = all_uniforms(per_image_seeds(1, 2, tf.range(count)))
    return uniforms.numpy(), random_view(uniforms, settings=settings, height=height, width=width)


@pytest.mark.parametrize("image_size", [16, 9, 40])
def test_none_equals_resize(image_size):
    images = random_images(4)
    found, labels = augment(images, NONE, image_size=image_size)
    np.testing.assert_array_equal(found, resize_batch(images, image_size=image_size))
    np.testing.assert_array_equal(labels, np.eye(10, dtype=np.float32)[:4])


@pytest.mark.parametrize("name", EACH_ALONE)
def test_each_changes_images_within_range(name):
    images = random_images(16)
    found, labels = augment(images, settings_with(**{name: EACH_ALONE[name]}), image_size=24)
    plain, _ = augment(images, NONE, image_size=24)
    assert found.dtype == np.float32 and found.shape == plain.shape
    assert found.min() >= -1e-3 and found.max() <= 255 + 1e-3
    assert np.any(np.abs(found - plain).max(axis=(1, 2, 3)) > 5)
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-6)


COMPILED = {
    **NAMED_AUGMENTATIONS,
    "rest": settings_with(
        crop_padding_pixels=3, width_shift_fraction=0.2, height_shift_fraction=0.2, zoom_fraction=0.3
    ),
}


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize(("height", "width", "image_size"), [(16, 16, 24), (21, 18, 12)])
def test_compiled_equals_plain(name, height, width, image_size):
    images = random_images(6, height, width)
    plain = augment(images, COMPILED[name], image_size=image_size)
    compiled = augment(images, COMPILED[name], image_size=image_size, jit_compile=True)
    np.testing.assert_allclose(compiled[0], plain[0], atol=5e-3)
    np.testing.assert_allclose(compiled[1], plain[1], atol=1e-6)


UNMIXED = dataclasses.replace(NAMED_AUGMENTATIONS["strong"], mixup=0.0, cutmix=0.0)


def test_result_depends_on_image_and_seed_alone():
    images = random_images(8)
    whole, _ = augment(images, UNMIXED, image_size=20)
    halves = [augment(images[start : start + 4], UNMIXED, image_size=20, positions=range(start, start + 4))[0]
              for start in (0, 4)]  # fmt: skip
    np.testing.assert_allclose(np.concatenate(halves), whole, atol=1e-3)
    order = [5, 2, 7, 0, 1, 3, 6, 4]
    shuffled, _ = augment(images[order], UNMIXED, image_size=20, positions=order)
    np.testing.assert_allclose(shuffled, whole[order], atol=1e-3)
    other_seeds, _ = augment(images, UNMIXED, image_size=20, positions=range(8, 16))
    assert np.all(np.abs(other_seeds - whole).max(axis=(1, 2, 3)) > 1)


def test_switching_one_on_leaves_the_draws_of_others():
    images = random_images(8)
    flipped, _ = augment(images, settings_with(horizontal_flip=True))
    both, _ = augment(images, settings_with(horizontal_flip=True, random_erasing_probability=1.0))
    erased, _ = augment(images, settings_with(random_erasing_probability=1.0))
    plain, _ = augment(images, NONE)
    kept = np.abs(erased - plain).max(axis=-1, keepdims=True) == 0
    assert 0.3 < kept.mean() < 1
    np.testing.assert_allclose(np.where(kept, both - flipped, 0), 0, atol=1e-3)


def test_flip_mirrors_half_of_the_images():
    images = random_images(400, 8, 8)
    found, _ = augment(images, settings_with(horizontal_flip=True), image_size=8)
    kept, mirrored = (
        np.abs(found - candidate).max(axis=(1, 2, 3)) < 1e-2 for candidate in (images, images[:, :, ::-1])
    )
    assert np.all(kept ^ mirrored)
    assert 150 < mirrored.sum() < 250


def test_padded_crop_is_a_window_of_the_reflected_image():
    images, padding = random_images(200, 6, 6), 2
    found, _ = augment(images, settings_with(crop_padding_pixels=padding), image_size=6)
    padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode="symmetric")
    seen = set()
    for image, source in zip(found, padded, strict=True):
        matches = [
            (row, column)
            for row in range(2 * padding + 1)
            for column in range(2 * padding + 1)
            if np.abs(image - source[row : row + 6, column : column + 6]).max() < 1e-2
        ]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) == (2 * padding + 1) ** 2


@pytest.mark.parametrize(("height", "width"), [(20, 20), (20, 26), (30, 10)])
def test_resized_crop_keeps_area_aspect_and_stays_inside(height, width):
    _, view = views(settings_with(resized_crop_min_area=0.25), height=height, width=width)
    area = (view.span_x * view.span_y).numpy() / (height * width)
    aspect = (view.span_x / view.span_y).numpy()
    largest = min(1.0, 4 / 3 * min(height / width, width / height))
    assert area.min() >= 0.25 - 1e-4 and area.max() <= largest + 1e-4
    assert area.min() < 0.26 and area.max() > largest - 0.01
    assert area.mean() == pytest.approx((0.25 + largest) / 2, abs=0.02)
    assert aspect.min() >= 0.75 - 1e-4 and aspect.max() <= 4 / 3 + 1e-4
    assert aspect.min() < 0.78 and aspect.max() > 1.28
    for center, span, size in ((view.center_x, view.span_x, width), (view.center_y, view.span_y, height)):
        assert (center - span / 2).numpy().min() >= -1e-4 and (center + span / 2).numpy().max() <= size + 1e-4


def test_resized_crop_of_a_long_image_takes_what_fits():
    _, view = views(settings_with(resized_crop_min_area=0.9), height=10, width=40)
    np.testing.assert_allclose(view.span_y, 10, atol=1e-3)
    np.testing.assert_allclose(view.span_x, 40 / 3, atol=1e-3)


def test_shift_zoom_and_rotation_are_uniform_over_their_ranges():
    settings = settings_with(
        width_shift_fraction=0.1, height_shift_fraction=0.2, zoom_fraction=0.25, rotation_degrees=15.0
    )
    _, view = views(settings, width=40)
    for found, limit in (
        (view.center_x - 20, 4.0),
        (view.center_y - 10, 4.0),
        (view.span_x / 40 - 1, 0.25),
        (view.span_y / 20 - 1, 0.25),
        (view.angle, np.radians(15)),
    ):
        found = np.asarray(found) / limit
        assert -1.0001 <= found.min() < -0.99 and 0.99 < found.max() <= 1.0001
        assert abs(found.mean()) < 0.05 and found.std() == pytest.approx(1 / np.sqrt(3), abs=0.03)
    np.testing.assert_allclose(view.span_x / 40, view.span_y / 20, rtol=1e-6)


def test_shift_moves_the_view_by_a_share_of_it():
    settings = settings_with(width_shift_fraction=0.5, zoom_fraction=0.5)
    uniforms, view = views(settings, count=50)
    np.testing.assert_allclose(view.center_x, 10 + (2 * uniforms[:, Draw.SHIFT_X] - 1) * 0.5 * 20, atol=1e-4)


def test_rotation_turns_about_the_middle_and_leaves_no_black():
    images = np.full((8, 20, 20, 3), 200, np.uint8)
    images[:, 8:12, 8:12] = 20
    found, _ = augment(images, settings_with(rotation_degrees=45.0), image_size=40)
    np.testing.assert_allclose(found[:, 19:21, 19:21], 20, atol=20)
    np.testing.assert_allclose(found[:, [0, 0, -1, -1], [0, -1, 0, -1]], 200, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "value"),
    [("zoom_fraction", 1.0), ("rotation_degrees", -1.0), ("mixup", float("nan")), ("resized_crop_min_area", 0.0)],
)
def test_values_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(UserError, match="--" + name.removesuffix("_alpha")):
        settings_with(**{name: value})


def test_settings_import_no_tensorflow():
    code = "import sys, tl_distributed.pixels.augment_settings; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
