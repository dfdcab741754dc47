"""Random erasing against counted pixels."""

import numpy as np
import pytest
import tensorflow as tf
from augmented import drawn, settings_with

from tl_distributed.pixels.augmentations import random_erasing


def test_erasing_paints_one_box_of_the_wanted_area_and_shape():
    size, count = 50, 1500
    images = tf.fill([count, size, size, 3], -1.0)  # no colour painted equals it
    settings = settings_with(random_erasing_probability=0.6)
    found = random_erasing.change_output(images, drawn(random_erasing, count), settings)
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
