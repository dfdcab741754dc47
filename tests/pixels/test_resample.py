"""Resampling against tf.image.resize, numpy and scipy.ndimage; and what a view means."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

from tl_distributed.pixels.resample import View, resample, resize_batch
from tl_distributed.pixels.turn import cubic_gather, turn

tf.config.experimental.enable_tensor_float_32_execution(False)  # so that GPUs answer to the same tolerance


def random_images(height, width, batch=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


def smooth_images(size, batch=3):
    """Band-limited images, in which interpolators of any kind agree."""
    noise = np.random.default_rng(1).normal(size=(batch, size, size, 3))
    smooth = ndimage.gaussian_filter(noise, (0, size / 10, size / 10, 0), mode="reflect")
    smooth -= smooth.min()
    return np.round(smooth / smooth.max() * 255).astype(np.uint8)


def whole_view(batch, height, width, **changes):
    view = View(
        center_x=tf.fill([batch], width / 2),
        center_y=tf.fill([batch], height / 2),
        span_x=tf.fill([batch], float(width)),
        span_y=tf.fill([batch], float(height)),
        angle=None,
    )
    return view._replace(**{name: tf.constant(value, tf.float32) for name, value in changes.items()})


SIZES = [(32, 32, 224), (32, 32, 96), (17, 23, 31), (33, 12, 20), (64, 48, 33), (40, 97, 24), (28, 28, 28), (5, 1, 7)]


@pytest.mark.parametrize(("height", "width", "image_size"), SIZES)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_resize_equals_tensorflow(height, width, image_size, jit_compile):
    images = random_images(height, width)
    expected = tf.image.resize(images, (image_size, image_size), method="bilinear", antialias=True)
    resize = tf.function(lambda images: resize_batch(images, image_size=image_size), jit_compile=jit_compile)
    for source in (images, images.astype(np.float32)):
        found = resize(source)
        assert found.dtype == tf.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("height", "width", "image_size"), SIZES)
def test_whole_view_equals_resize(height, width, image_size):
    images = random_images(height, width)
    found = resample(images, whole_view(3, height, width), image_size=image_size)
    np.testing.assert_allclose(found, resize_batch(images, image_size=image_size), rtol=0, atol=2e-3)


def test_batch_size_may_be_unknown():
    function = tf.function(
        lambda images: resize_batch(images, image_size=8), input_signature=[tf.TensorSpec([None, 6, 7, 3], tf.uint8)]
    )
    assert function(random_images(6, 7, batch=5)).shape == (5, 8, 8, 3)


def test_negative_span_mirrors():
    images = random_images(16, 16)
    found = resample(images, whole_view(3, 16, 16, span_x=[16, -16, 16], span_y=[16, 16, -16]), image_size=16)
    np.testing.assert_allclose(found[0], images[0], atol=1e-3)
    np.testing.assert_allclose(found[1], images[1, :, ::-1], atol=1e-3)
    np.testing.assert_allclose(found[2], images[2, ::-1], atol=1e-3)


def test_shift_by_whole_pixels_reflects_at_the_border():
    images = random_images(12, 12)
    found = resample(images, whole_view(3, 12, 12, center_x=[6 + 3, 6 - 4, 6], center_y=[6, 6, 6 + 12]), image_size=12)
    padded = np.pad(images, ((0, 0), (12, 12), (12, 12), (0, 0)), mode="symmetric")
    np.testing.assert_allclose(found[0], padded[0, 12:24, 15:27], atol=1e-3)
    np.testing.assert_allclose(found[1], padded[1, 12:24, 8:20], atol=1e-3)
    np.testing.assert_allclose(found[2], padded[2, 24:36, 12:24], atol=1e-3)


def test_crop_box_equals_crop_and_resize():
    images = random_images(20, 30, batch=2)
    view = whole_view(2, 20, 30, center_x=[10, 21.5], center_y=[9, 12], span_x=[12, 11], span_y=[8, 7])
    found = resample(images, view, image_size=16)
    # [y1, x1, y2, x2] names the centres of the corner pixels, in units of (size - 1)
    boxes = []
    for x, y, width, height in ((10, 9, 12, 8), (21.5, 12, 11, 7)):
        step_x, step_y = width / 16, height / 16
        left, right = x - width / 2 + step_x / 2 - 0.5, x + width / 2 - step_x / 2 - 0.5
        top, bottom = y - height / 2 + step_y / 2 - 0.5, y + height / 2 - step_y / 2 - 0.5
        boxes.append([top / 19, left / 29, bottom / 19, right / 29])
    expected = tf.image.crop_and_resize(tf.cast(images, tf.float32), boxes, [0, 1], (16, 16))
    np.testing.assert_allclose(found, expected, atol=2e-2)


def test_shrinking_view_is_antialiased_by_its_own_scale():
    images = random_images(32, 32)
    view = whole_view(3, 32, 32, center_x=[16, 16, 8], span_x=[32, -32, 8])
    found = resample(images, view, image_size=8).numpy()
    whole = tf.image.resize(images, (8, 8), antialias=True).numpy()
    np.testing.assert_allclose(found[0], whole[0], atol=2e-3)
    np.testing.assert_allclose(found[1], whole[1, :, ::-1], atol=2e-3)
    rows_alone = tf.image.resize(images[2:], (8, 32), antialias=True).numpy()
    np.testing.assert_allclose(found[2], rows_alone[0, :, 4:12], atol=2e-3)  # columns at scale 1: untouched


def test_cubic_gather_reads_pixels_exactly_and_reflects():
    images = random_images(7, 9, batch=1)
    x, y = np.meshgrid(np.arange(-9, 18) + 0.5, np.arange(-7, 14) + 0.5)
    found = cubic_gather(images, *(tf.constant(axis[np.newaxis], tf.float32) for axis in (x, y)))
    padded = np.pad(images, ((0, 0), (7, 7), (9, 9), (0, 0)), mode="symmetric")
    np.testing.assert_allclose(found, padded, atol=1e-3)


@pytest.mark.parametrize("degrees", [-30.0, 7.0, 90.0, 180.0])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_turn_equals_scipy_rotation(degrees, jit_compile):
    images = smooth_images(40)
    view = whole_view(3, 40, 40, angle=np.radians([degrees] * 3))
    found = tf.function(turn, jit_compile=jit_compile)(images, view)
    expected = ndimage.rotate(images.astype(np.float64), degrees, axes=(1, 2), reshape=False, order=3, mode="reflect")
    assert np.abs(found - expected).mean() < 0.1
    np.testing.assert_allclose(found, expected, atol=1.5)


def test_turn_is_sharper_than_bilinear():
    images = ndimage.gaussian_filter(random_images(32, 32).astype(float), (0, 1, 1, 0), mode="reflect")
    images = np.round(images).astype(np.uint8)
    view = whole_view(3, 32, 32, angle=[0.2] * 3)
    exact, bilinear = (
        ndimage.rotate(images.astype(float), np.degrees(0.2), axes=(1, 2), reshape=False, order=order, mode="reflect")
        for order in (5, 1)
    )
    error = np.abs(turn(images, view) - exact)[:, 4:-4, 4:-4].mean()
    assert error < 0.5 * np.abs(bilinear - exact)[:, 4:-4, 4:-4].mean()


def test_rotation_is_of_the_output_whatever_the_source_shape():
    """A source that is stretched to a square and then rotated, against one rotated as a part of its view."""
    images = smooth_images(64)
    stretched = np.round(tf.image.resize(images, (64, 32), antialias=True)).astype(np.uint8)
    angle = np.radians([25.0, -10.0, 40.0])
    view = whole_view(3, 64, 32, angle=angle)
    found = resample(turn(stretched, view), view, image_size=64)
    expected = [
        ndimage.rotate(image.astype(float), np.degrees(turned), reshape=False, order=3, mode="reflect")
        for image, turned in zip(images, angle, strict=True)
    ]
    assert np.abs(found - np.stack(expected))[:, 8:-8, 8:-8].max() < 4
    unturned = resample(stretched, view, image_size=64)
    assert np.abs(unturned - np.stack(expected))[:, 8:-8, 8:-8].max() > 40
