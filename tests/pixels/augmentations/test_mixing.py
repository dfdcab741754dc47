"""MixUp and CutMix against counted pixels, and what they draw against the distributions of the papers."""

import numpy as np
import pytest
import tensorflow as tf
from augmented import drawn, settings_with
from scipy import stats

from tl_distributed.pixels.augment import augment_batch
from tl_distributed.pixels.augmentations import mixing
from tl_distributed.pixels.seeds import per_image_seeds


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
    found, _ = mixing.mix(images, tf.eye(32), drawn(mixing, 32), settings)
    partner = np.roll(images, -1, axis=0)
    from_partner = np.all(found.numpy() == partner, axis=-1)
    from_self = np.all(found.numpy() == images.numpy(), axis=-1)
    assert np.all(from_partner ^ from_self)
    rows, columns = from_partner.any(axis=2).sum(axis=1), from_partner.any(axis=1).sum(axis=1)
    np.testing.assert_array_equal(from_partner.sum(axis=(1, 2)), rows * columns)


def test_cutmix_boxes_follow_the_paper():
    """Squares of share 1 - lambda, lambda uniform at alpha 1; a clipped one is smaller."""
    settings = settings_with(cutmix=1.0)
    _, boxes = mixing.mixing_parameters(drawn(mixing, 5000), settings, image_size=64)
    width, height = (boxes.right - boxes.left).numpy(), (boxes.bottom - boxes.top).numpy()
    whole = (boxes.left > 0) & (boxes.top > 0) & (boxes.right < 64) & (boxes.bottom < 64)
    np.testing.assert_array_equal(width[whole], height[whole])
    assert width.min() >= 0 and boxes.left.numpy().min() >= 0 and boxes.right.numpy().max() <= 64
    assert np.mean(boxes.left + boxes.right) == pytest.approx(64, abs=2)  # no side is preferred
    assert np.mean(boxes.top + boxes.bottom) == pytest.approx(64, abs=2)
    # E[(clipped edge / 64)^2] over a uniform centre and edge^2 uniform: integral of (e - e^2 / 4)^2 d(e^2)
    assert (width * height).mean() / 64**2 == pytest.approx(1 / 2 - 1 / 5 + 1 / 48, abs=0.02)


def test_one_image_alone_mixes_with_itself():
    image = tf.constant(np.random.default_rng(0).uniform(0, 255, (1, 9, 9, 3)), tf.float32)
    settings = settings_with(mixup=1.0, cutmix=1.0)
    found, labels = mixing.mix(image, tf.constant([[0.0, 1.0]]), drawn(mixing, 1), settings)
    np.testing.assert_allclose(found, image, atol=1e-3)
    np.testing.assert_allclose(labels, [[0, 1]], atol=1e-6)
