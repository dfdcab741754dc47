"""The rotation: its range, its middle, and what comes in at the corners."""

import numpy as np
from augmented import assert_uniform, augment, settings_with, views


def test_rotation_is_uniform_over_its_range():
    settings = settings_with(width_shift_fraction=0.1, zoom_fraction=0.25, rotation_degrees=15.0)
    assert_uniform(views(settings, width=40)[0].angle, np.radians(15))


def test_rotation_turns_about_the_middle_and_leaves_no_black():
    images = np.full((8, 20, 20, 3), 200, np.uint8)
    images[:, 8:12, 8:12] = 20
    found, _ = augment(images, settings_with(rotation_degrees=45.0), image_size=40)
    np.testing.assert_allclose(found[:, 19:21, 19:21], 20, atol=20)
    np.testing.assert_allclose(found[:, [0, 0, -1, -1], [0, -1, 0, -1]], 200, atol=1e-3)
