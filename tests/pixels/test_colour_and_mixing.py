"""Brightness, contrast and saturation against tf.image; erasing, MixUp and CutMix against counted pixels."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tl_distributed.pixels import colour, mixing
from tl_distributed.pixels.augment import NAMED_AUGMENTATIONS, augment_batch
from tl_distributed.pixels.seeds import all_uniforms, per_image_seeds

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 9, 10, 3)).astype(np.float32)
NONE = NAMED_AUGMENTATIONS["none"]


def uniforms_of(count):
    return all_uniforms(per_image_seeds(3, 4, tf.range(count)))


def settings_with(**changes):
    return dataclasses.replace(NONE, **changes)


@pytest.mark.parametrize(
    ("ours", "reference", "amounts"),
    [
        (colour.adjust_brightness, tf.image.adjust_brightness, [-1.0, -0.4, 0.0, 0.1, 0.7, 1.0]),
        (colour.adjust_contrast, tf.image.adjust_contrast, [0.0, 0.5, 1.0, 1.2, 1.7, 2.0]),
        (colour.adjust_saturation, tf.image.adjust_saturation, [0.0, 0.5, 1.0, 1.2, 1.7, 2.0]),
    ],
)
def test_colour_equals_tensorflow_image_by_image(ours, reference, amounts):
    found = ours(tf.constant(IMAGES), tf.constant(amounts))
    expected = [tf.clip_by_value(reference(i / 255, a), 0, 1) * 255 for i, a in zip(IMAGES, amounts, strict=True)]
    np.testing.assert_allclose(found, np.stack(expected), atol=5e-3)


def test_saturation_of_grey_and_black_is_unchanged():
    grey = np.broadcast_to(np.float32([0, 1, 128, 255])[:, None, None, None], (4, 2, 2, 3))
    np.testing.assert_array_equal(colour.adjust_saturation(tf.constant(grey), tf.fill([4], 2.0)), grey)


def test_random_colour_uses_its_whole_range():
    grey = np.full((3000, 1, 1, 3), 100, np.uint8)
    found = colour.random_colour(grey, uniforms_of(3000), settings=settings_with(brightness_fraction=0.2)).numpy()
    assert found.min() == pytest.approx(49, abs=0.2) and found.max() == pytest.approx(151, abs=0.2)
    assert found.mean() == pytest.approx(100, abs=2)


def test_erasing_paints_one_box_of_the_wanted_area_and_shape():
    size, count = 50, 1500
    images = tf.fill([count, size, size, 3], -1.0)  # no colour painted equals it
    found = mixing.random_erasing(images, uniforms_of(count), settings=settings_with(random_erasing_probability=0.6))
    painted = np.all(found.numpy() >= 0, axis=-1)
    erased = painted.any(axis=(1, 2))
    assert erased.mean() == pytest.approx(0.6, abs=0.05)
    rows, columns = painted.any(axis=2).sum(axis=1)[erased], painted.any(axis=1).sum(axis=1)[erased]
    area = painted.sum(axis=(1, 2))[erased]
    np.testing.assert_array_equal(area, rows * columns)  # one full box
    assert 0.015 < area.min() / size**2 < 0.03 and 0.31 < area.max() / size**2 < 0.345
    assert 0.25 < (columns / rows).min() < 0.36 and 2.8 < (columns / rows).max() < 3.7
    colours = found.numpy()[erased].reshape(erased.sum(), -1, 3).max(axis=1)
    spread = found.numpy()[erased][painted[erased]]
    assert len(np.unique(spread, axis=0)) == len(np.unique(colours, axis=0)) > 800
    assert colours.min() >= 0 and colours.max() <= 255
    assert painted[erased][:, 0].any() and painted[erased][:, -1].any() and painted[erased][:, :, -1].any()


@pytest.mark.parametrize("alpha", [0.1, 0.4, 1.0, 5.0])
def test_beta_quantile_gives_the_beta_distribution(alpha):
    numbers = tf.constant((np.arange(20_000) + 0.5) / 20_000, tf.float32)
    found = mixing.beta_quantile(numbers, alpha).numpy()
    assert found.min() >= 0 and found.max() <= 1
    points = np.linspace(0.01, 0.99, 99)  # nearer to 1, float32 holds no other number than 1
    share_below = np.searchsorted(found, points) / len(found)
    np.testing.assert_allclose(share_below, stats.beta(alpha, alpha).cdf(points), atol=1e-3)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_labels_follow_the_pixels(mixup, cutmix, jit_compile):
    """Even images are red and odd ones green, so the means of the two channels tell the shares."""
    count, size = 64, 13
    images = np.zeros((count, size, size, 3), np.uint8)
    images[::2, ..., 0] = 200
    images[1::2, ..., 1] = 200
    labels = np.arange(count, dtype=np.int32) % 2
    run = tf.function(augment_batch, jit_compile=jit_compile)
    seeds = per_image_seeds(0, 0, tf.range(count))
    settings = settings_with(mixup=mixup, cutmix=cutmix)
    found, soft = run(images, labels, seeds, settings=settings, image_size=size, num_classes=2)
    shares = found.numpy().mean(axis=(1, 2))[:, :2] / 200
    np.testing.assert_allclose(soft, shares, atol=1e-5)
    np.testing.assert_allclose(np.sum(soft, axis=1), 1, atol=1e-6)
    pasted = np.all(np.isin(found.numpy(), (0, 200)), axis=(1, 2, 3))  # a pixel is of one image or the other
    expected = {(0.4, 0.0): (0, 0), (0.0, 1.0): (1, 1), (0.4, 1.0): (0.3, 0.7)}[mixup, cutmix]
    assert expected[0] <= pasted.mean() <= expected[1]
    own = shares[np.arange(count), labels]
    assert own.std() > 0.15 and own.min() < 0.35 and own.max() > 0.9


def test_cutmix_pastes_boxes_from_the_next_image_in_place():
    images = tf.constant(np.random.default_rng(1).uniform(0, 255, (32, 12, 12, 3)), tf.float32)
    settings = settings_with(cutmix=1.0)
    found, _ = mixing.mix_images(images, tf.eye(32), uniforms_of(32), settings=settings)
    partner = np.roll(images, -1, axis=0)
    from_partner = np.all(found.numpy() == partner, axis=-1)
    from_self = np.all(found.numpy() == images.numpy(), axis=-1)
    assert np.all(from_partner ^ from_self)
    rows, columns = from_partner.any(axis=2).sum(axis=1), from_partner.any(axis=1).sum(axis=1)
    np.testing.assert_array_equal(from_partner.sum(axis=(1, 2)), rows * columns)


def test_cutmix_boxes_follow_the_paper():
    """Squares of share 1 - lambda, lambda uniform at alpha 1; a clipped one is smaller."""
    settings = settings_with(cutmix=1.0)
    _, boxes = mixing.mixing_parameters(uniforms_of(5000), settings=settings, image_size=64)
    width, height = (boxes.right - boxes.left).numpy(), (boxes.bottom - boxes.top).numpy()
    whole = (boxes.left > 0) & (boxes.top > 0) & (boxes.right < 64) & (boxes.bottom < 64)
    np.testing.assert_array_equal(width[whole], height[whole])
    assert width.min() >= 0 and boxes.left.numpy().min() >= 0 and boxes.right.numpy().max() <= 64
    assert np.mean(boxes.left + boxes.right) == pytest.approx(64, abs=2)  # no side is preferred
    assert np.mean(boxes.top + boxes.bottom) == pytest.approx(64, abs=2)
    # E[(clipped edge / 64)^2] over a uniform centre and edge^2 uniform: integral of (e - e^2 / 4)^2 d(e^2)
    assert (width * height).mean() / 64**2 == pytest.approx(1 / 2 - 1 / 5 + 1 / 48, abs=0.02)


def test_one_image_alone_mixes_with_itself():
    image = tf.constant(IMAGES[:1, :9, :9])
    settings = settings_with(mixup=1.0, cutmix=1.0)
    found, labels = mixing.mix_images(image, tf.constant([[0.0, 1.0]]), uniforms_of(1), settings=settings)
    np.testing.assert_allclose(found, image, atol=1e-3)
    np.testing.assert_allclose(labels, [[0, 1]], atol=1e-6)
