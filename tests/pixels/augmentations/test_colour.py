"""Brightness, contrast and saturation against `tf.image`."""

import numpy as np
import pytest
import tensorflow as tf
from augmented import drawn, settings_with

from tl_distributed.pixels.augmentations import colour

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 9, 10, 3)).astype(np.float32)


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
    found = colour.change_source(grey, drawn(colour, 3000), settings_with(brightness_fraction=0.2), None).numpy()
    assert found.min() == pytest.approx(49, abs=0.2) and found.max() == pytest.approx(151, abs=0.2)
    assert found.mean() == pytest.approx(100, abs=2)
